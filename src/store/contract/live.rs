use std::{hash::Hasher as _, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Either, join, select},
};
use http::{HeaderMap, StatusCode, Version};
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};
use twox_hash::XxHash3_64;

use super::{PATIENCE, Subject, any_key, joined, ok};
use crate::{
    entry::Lifetime,
    error::Error,
    key::Key,
    store::{Audience, Claim, Generation, LiveEnd, LiveHead, LivePart, Store, Token},
};

/// What is published under a lease reaches those who follow: from the first part, in order, each part once, to the end; those who wait from the start, and one
/// who comes late. Whoever publishes hears of each. A store without live streams says so.
pub async fn a_live_stream_is_followed_from_its_first_part_to_its_end<St: Store>(subject: &Subject<St>) {
    let Some(mut publisher) = subject.publisher().await else { return };
    let early = publisher.comes();
    publisher.hears().await;
    let parts = parts(publisher.generation, &["one", "two", "three", "four"]);
    publisher.says(&parts[..1]).await;
    let early = publisher.follows(early).await;
    publisher.says(&parts[1..3]).await;
    // As by one who did not hear that it was confirmed.
    publisher.next -= 2;
    publisher.says(&parts[1..3]).await;

    let late = publisher.comes();
    let late = publisher.follows(late).await;
    publisher.says(&parts[3..]).await;
    publisher.says(&[LivePart::Settled]).await;
    for (who, followed) in [("from the start", early), ("late", late)] {
        let followed = ok("follow", joined(followed.await));
        assert!(followed == parts, "one who follows {who} is told {followed:?} where {parts:?} was published");
    }
}

/// There is no gap in a live stream, and none is read under another key or by another token.
pub async fn a_live_stream_has_no_gap_and_one_name<St: Store>(subject: &Subject<St>) {
    let Some(mut publisher) = subject.publisher().await else { return };
    let parts = parts(publisher.generation, &["one", "two"]);
    publisher.says(&parts[..2]).await;
    let (store, key, token) = (&publisher.store, publisher.key, publisher.token);
    let gap = store.publish(&key, token, 3, &parts[3..]).await;
    assert!(gap.is_err(), "a part is published though those before it are not there");
    let mut other = token;
    other.0[0] ^= 1;
    for (key, token, what) in [(key, other, "token"), (any_key(), token, "key")] {
        let read = pin!(store.follow(key, token)).next().await;
        let is_nothing = matches!(&read, Some(Err(_))) || matches!(&read, Some(Ok(told)) if *told == [LivePart::Withdrawn]);
        assert!(is_nothing, "a live stream is read by another {what}: {read:?}");
    }
}

/// A body as long as there is room for arrives whole.
pub async fn a_live_stream_carries_as_much_as_there_is_room_for<St: Store>(subject: &Subject<St>) {
    let Some(mut publisher) = subject.publisher().await else { return };
    let coming = publisher.comes();
    let Audience { max_bytes, .. } = publisher.hears().await;
    assert!(max_bytes > 0, "a store that has room for nothing");
    let body: Bytes = (0..max_bytes.min(4 << 20)).map(|at| (at ^ (at >> 8)) as u8).collect();
    publisher.says(&parts(publisher.generation, &[])[..1]).await;
    let follower = publisher.follows(coming).await;
    let mut sum = XxHash3_64::with_seed(0);
    sum.write(&body);
    let end = LiveEnd { length: body.len() as u64, checksum: sum.finish(), ..LiveEnd::default() };
    for at in (0..body.len()).step_by(32 << 10) {
        publisher.says(&[LivePart::Frames(vec![body.slice(at..body.len().min(at + (32 << 10)))])]).await;
    }
    publisher.says(&[LivePart::End(Box::new(end.clone())), LivePart::Settled]).await;
    let followed = ok("follow", joined(follower.await));
    let (mut read, mut length) = (XxHash3_64::with_seed(0), 0);
    for part in &followed {
        if let LivePart::Frames(frames) = part {
            frames.iter().for_each(|frame| read.write(frame));
            length += frames.iter().map(Bytes::len).sum::<usize>() as u64;
        }
    }
    assert_eq!((length, read.finish()), (end.length, end.checksum), "length and checksum of a long body");
}

/// What is withdrawn is told as such to those who follow it, and is not gone on with.
pub async fn a_live_stream_that_is_withdrawn_is_over<St: Store>(subject: &Subject<St>) {
    let Some(mut publisher) = subject.publisher().await else { return };
    let coming = publisher.comes();
    publisher.hears().await;
    let parts = parts(publisher.generation, &["one", "two"]);
    publisher.says(&parts[..2]).await;
    let follower = publisher.follows(coming).await;
    ok("publish", publisher.store.publish(&publisher.key, publisher.token, 0, &[LivePart::Withdrawn]).await);
    let told = ok("follow", joined(follower.await));
    assert!(told.last() == Some(&LivePart::Withdrawn), "one who follows what is withdrawn is told {told:?}");
    let more = publisher.store.publish(&publisher.key, publisher.token, 2, &parts[2..]).await;
    assert!(more.is_err(), "a live stream goes on after it was withdrawn");
}

/// Whoever publishes hears when nobody follows any more. When it says nothing itself, those who follow are told that it is over; whoever comes is not told to
/// follow it.
pub async fn a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever<St: Store>(subject: &Subject<St>) {
    let (Some(mut left), Some(mut dies)) = (subject.publisher().await, subject.publisher().await) else { return };
    let abandoned = async {
        let coming = left.comes();
        let Audience { renew_in, .. } = left.hears().await;
        let parts = parts(left.generation, &["one"]);
        left.says(&parts[..1]).await;
        let follower = left.follows(coming).await;
        assert!(left.says(&parts[1..2]).await, "one who follows is not wanted");
        follower.abort();
        let over = async {
            while left.says(&[LivePart::SIGN]).await {
                sleep(renew_in / 4).await
            }
        };
        assert!(timeout(PATIENCE, over).await.is_ok(), "who publishes never hears that nobody follows any more");
    };
    let dead = async {
        let coming = dies.comes();
        dies.hears().await;
        dies.says(&parts(dies.generation, &["one"])[..2]).await;
        let follower = dies.follows(coming).await;
        let late = dies.claim();
        let (late, followed) = join(late, follower).await;
        assert!(!matches!(late, Claim::Live(_)), "whoever comes is told to follow one that gives no sign of life");
        let told = joined(followed);
        let is_over = told.as_ref().map_or(true, |told| told.last() == Some(&LivePart::Withdrawn));
        assert!(is_over, "one who follows a publisher that died is told {told:?}");
    };
    assert!(timeout(PATIENCE * 2, join(abandoned, dead)).await.is_ok(), "a live stream never ends");
}

/// One who has a lease, keeps it, and publishes under it.
struct Publisher<St> {
    store: Arc<St>,
    key: Key,
    generation: Generation,
    token: Token,
    /// How many parts were published.
    next: u64,
    renewal: AbortHandle,
}

impl<St: Store> Subject<St> {
    /// Takes the lease of a key. If the store is not said to carry live streams, it has to say so itself.
    async fn publisher(&self) -> Option<Publisher<St>> {
        let (store, key) = (Arc::clone(&self.store), any_key());
        let generation = self.get(&key).await.generation;
        let claim = ok("claim", store.claim(&key, generation, Duration::ZERO).await);
        if !self.live {
            let token = if let Claim::Granted(token, _) = claim { token } else { Token([7; 16]) };
            let hears = store.audience(&key, token).now_or_never();
            assert!(hears == Some(None), "a store without live streams has an audience");
            let unsupported = |error: Error| error.is_unsupported();
            let said = store.publish(&key, token, 0, &parts(generation, &[])).await;
            assert!(said.is_err_and(unsupported), "a store without live streams does not say so when something is published");
            let read = pin!(store.follow(key, token)).next().await;
            assert!(
                read.is_some_and(|read| read.is_err_and(unsupported)),
                "a store without live streams does not say so when one is followed"
            );
            return None;
        }
        let Claim::Granted(token, renew_in) = claim else { panic!("a lease that nobody has is not granted: {claim:?}") };
        let renewal = {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut pause = renew_in;
                loop {
                    sleep(pause).await;
                    match store.renew(&key, token).await {
                        Ok(Some(next)) => pause = next,
                        Ok(None) | Err(_) => return,
                    }
                }
            })
        };
        Some(Publisher { store, key, generation, token, next: 0, renewal: renewal.abort_handle() })
    }
}

impl<St: Store> Publisher<St> {
    /// Another asks for the lease, and is told what became of that.
    fn claim(&self) -> impl Future<Output = Claim> + Send + 'static {
        let (store, key, generation) = (Arc::clone(&self.store), self.key, self.generation);
        async move { ok("claim", store.claim(&key, generation, PATIENCE * 2).await) }
    }

    /// Another asks for the lease, and is told to follow.
    fn comes(&self) -> JoinHandle<Token> {
        let (claim, own) = (self.claim(), self.token);
        tokio::spawn(async move {
            match claim.await {
                Claim::Live(token) if token == own => token,
                claim => panic!("one who waits for what is published is not told to follow it: {claim:?}"),
            }
        })
    }

    async fn hears(&self) -> Audience {
        let audience = timeout(PATIENCE, self.store.audience(&self.key, self.token)).await;
        let Ok(Some(audience)) = audience else { panic!("who publishes does not hear of one who wants to follow") };
        audience
    }

    async fn says(&mut self, parts: &[LivePart]) -> bool {
        let is_wanted = ok("publish", self.store.publish(&self.key, self.token, self.next, parts).await);
        self.next += parts.len() as u64;
        is_wanted
    }

    /// One who came follows, as soon as there is a sign of life since: all that is said, but for signs of life and that all is settled.
    async fn follows(&mut self, mut coming: JoinHandle<Token>) -> JoinHandle<Result<Vec<LivePart>, Error>> {
        let token = loop {
            match select(&mut coming, pin!(self.hears())).await {
                Either::Left((token, _)) => break joined(token),
                Either::Right(_) => {}
            }
            self.says(&[LivePart::SIGN]).await;
        };
        let (store, key) = (Arc::clone(&self.store), self.key);
        tokio::spawn(async move {
            let (mut said, mut parts) = (pin!(store.follow(key, token)), Vec::new());
            loop {
                let Some(more) = said.next().await else { panic!("a live stream ended without a word") };
                parts.extend(more?.into_iter().filter(|part| *part != LivePart::SIGN));
                if parts.pop_if(|part| *part == LivePart::Settled).is_some() || parts.last() == Some(&LivePart::Withdrawn) {
                    return Ok(parts);
                }
            }
        })
    }
}

impl<St> Drop for Publisher<St> {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// A head, each text as a part, and the end.
fn parts(generation: Generation, texts: &[&str]) -> Vec<LivePart> {
    let head = LiveHead {
        status: StatusCode::OK,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        lifetime: Lifetime::fresh(crate::clock::from_unix_millis(crate::clock::unix_millis(std::time::SystemTime::now())), PATIENCE * 20),
        promised: None,
        vary: None,
        generation,
    };
    let mut sum = XxHash3_64::with_seed(0);
    texts.iter().for_each(|text| sum.write(text.as_bytes()));
    let length = texts.iter().map(|text| text.len() as u64).sum();
    let end = LiveEnd { length, checksum: sum.finish(), ..LiveEnd::default() };
    let frames = texts.iter().map(|text| LivePart::Frames(vec![Bytes::copy_from_slice(text.as_bytes())]));
    [LivePart::Head(Box::new(head))].into_iter().chain(frames).chain([LivePart::End(Box::new(end))]).collect()
}
