//! What another process says is passed on as it comes, and never believed beyond what it proves: over a store that says what a test wants.

use std::{
    hash::Hasher,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{Stream, stream::try_unfold};
use http::{HeaderMap, HeaderName, StatusCode, Version, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, Error, NanoUsd, Sharing,
    entry::{Lifetime, Record, Usage},
    key::Key,
    observe::{Ending, Event, RequestRecord},
    status::{Miss, Outcome},
    store::{BoxStore, Claim, Generation, LiveEnd, LiveHead, LivePart, Lookup, Store, Token},
};

use crate::{
    ask,
    origin::{Origin, text},
    outcome, post, read, send, until,
};

/// A store in which another process makes everything, and says these parts of it.
#[derive(Clone, Default)]
struct Elsewhere {
    parts: Arc<[LivePart]>,
    /// How many of them may be followed; without, all.
    heard: Option<Arc<Semaphore>>,
    claims: Arc<AtomicUsize>,
    /// How many claims are answered; without, all.
    gate: Option<Arc<Semaphore>>,
    /// Whose lease it is.
    next: Arc<AtomicU8>,
    follows: Arc<AtomicUsize>,
}

impl Elsewhere {
    fn saying(parts: impl Into<Arc<[LivePart]>>) -> Self {
        Self { parts: parts.into(), ..Self::default() }
    }

    fn holder(&self) -> Token {
        Token([self.next.load(Ordering::SeqCst); 16])
    }
}

impl Store for Elsewhere {
    async fn get(&self, _: &Key) -> Result<Lookup, Error> {
        Ok(Lookup { record: None, generation: Generation([1, 1]) })
    }

    async fn put(&self, _: &Key, _: Record, _: Generation) -> Result<bool, Error> {
        Ok(true)
    }

    async fn remove(&self, _: &Key) -> Result<bool, Error> {
        Ok(false)
    }

    async fn claim(&self, _: &Key, _: Generation, _: Duration) -> Result<Claim, Error> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(Claim::Live(self.holder()))
    }

    fn follow(&self, _: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        assert_eq!(token, self.holder());
        try_unfold(0, async |at| {
            self.follows.fetch_add(1, Ordering::SeqCst);
            if let Some(heard) = &self.heard {
                heard.acquire().await.unwrap().forget();
            }
            match self.parts.get(at) {
                Some(part) => Ok(Some((vec![part.clone()], at + 1))),
                None => Err(Error::unavailable("it says no more")),
            }
        })
    }
}

fn head(fields: &[(HeaderName, &str)]) -> LiveHead {
    LiveHead {
        status: StatusCode::ACCEPTED,
        version: Version::HTTP_2,
        headers: fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect(),
        lifetime: Lifetime::fresh(SystemTime::now(), Duration::from_secs(60)),
        promised: None,
        vary: None,
        generation: Generation([1, 1]),
    }
}

fn begin(fields: &[(HeaderName, &str)]) -> LivePart {
    LivePart::Head(Box::new(head(fields)))
}

fn frames(frames: &[&str]) -> LivePart {
    LivePart::Frames(frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes())).collect())
}

fn end_of(body: &str) -> LiveEnd {
    let mut sum = twox_hash::XxHash3_64::with_seed(0);
    sum.write(body.as_bytes());
    LiveEnd { length: body.len() as u64, checksum: sum.finish(), ..LiveEnd::default() }
}

fn end(body: &str) -> LivePart {
    LivePart::End(Box::new(end_of(body)))
}

fn cache<St: Store>(store: St) -> (Cache<Origin, St, ApiPolicy>, Origin) {
    let origin = Origin::new(|_| async { Ok(text("my own")) });
    (CacheLayer::new(store, ApiPolicy::new(Sharing::Shared)).layer(origin.clone()), origin)
}

#[tokio::test]
async fn what_another_process_says_is_passed_on_as_it_comes_also_through_a_boxed_store() {
    let heard = Arc::new(Semaphore::new(2));
    let parts = [begin(&[(header::ETAG, "\"1\"")]), frames(&["one", "two"]), frames(&["three"]), end("onetwothree"), LivePart::Settled];
    let store = Elsewhere { heard: Some(Arc::clone(&heard)), ..Elsewhere::saying(parts) };
    let (cache, origin) = cache(BoxStore::new(store.clone()));
    let mut answer = send(&cache, post("/", "")).await;
    assert_eq!((outcome(&answer), answer.status(), answer.version()), (Outcome::CollapsedElsewhere, StatusCode::ACCEPTED, Version::HTTP_2));
    assert_eq!(answer.headers()[header::ETAG], "\"1\"");
    for word in ["one", "two"] {
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    // Another caller here reads the same, and nothing more is asked for it.
    let late = send(&cache, post("/", "")).await;
    assert_eq!(outcome(&late), Outcome::CollapsedElsewhere);
    heard.add_permits(3);
    assert_eq!((read(answer).await, read(late).await), ("three".into(), "onetwothree".into()));
    assert_eq!((origin.calls(), store.claims.load(Ordering::SeqCst)), (0, 1));
    assert!(store.follows.load(Ordering::SeqCst) <= 5);
}

#[tokio::test]
async fn a_body_that_is_not_proven_whole_ends_in_an_error() {
    let whole = [begin(&[]), frames(&["one"]), end("one")];
    let (cache_of_whole, _) = cache(Elsewhere::saying(whole));
    assert_eq!(ask(&cache_of_whole, post("/", "")).await, (Outcome::CollapsedElsewhere, "one".into()));
    let long = LivePart::End(Box::new(LiveEnd { length: 4, ..end_of("one") }));
    for parts in [
        vec![begin(&[]), frames(&["one"]), end("two")],
        vec![begin(&[]), frames(&["one"]), long],
        vec![begin(&[]), frames(&["one"])],
        vec![begin(&[]), frames(&["one"]), LivePart::Settled],
        vec![begin(&[]), frames(&["one"]), LivePart::Withdrawn],
        vec![begin(&[]), frames(&["one"]), begin(&[]), end("one")],
        vec![begin(&[(header::CONTENT_LENGTH, "4")]), frames(&["one"]), end("one")],
    ] {
        let (cache, _) = cache(Elsewhere::saying(parts.clone()));
        let answer = send(&cache, post("/", "")).await;
        assert_eq!(outcome(&answer), Outcome::CollapsedElsewhere);
        answer.into_body().collect().await.expect_err(&format!("{parts:?}"));
    }
}

#[tokio::test]
async fn before_anything_was_shown_trouble_costs_the_caller_nothing() {
    let stale = LiveHead { lifetime: Lifetime::fresh(SystemTime::now(), Duration::ZERO), ..head(&[]) };
    let others = LiveHead { vary: Some((vec![header::ACCEPT_LANGUAGE], Key::from_bytes([1; 32]))), ..head(&[]) };
    for (parts, claims) in [
        // Nothing there to be followed: asked for again, but not for ever.
        (vec![], 3),
        (vec![LivePart::Withdrawn], 3),
        (vec![frames(&["one"]), end("one")], 1),
        (vec![LivePart::Head(Box::new(stale)), frames(&["one"]), end("one")], 1),
        (vec![LivePart::Head(Box::new(others)), frames(&["one"]), end("one")], 1),
    ] {
        let store = Elsewhere::saying(parts);
        let (cache, origin) = cache(store.clone());
        let (outcome, body) = ask(&cache, post("/", "")).await;
        assert!(matches!(outcome, Outcome::Miss(_)) && body == "my own", "{outcome:?}: {body}");
        assert_eq!((origin.calls(), store.claims.load(Ordering::SeqCst)), (1, claims));
    }
}

#[tokio::test(start_paused = true)]
async fn patience_with_another_process_ends_though_it_gives_signs_of_life() {
    // It is heard of, and its response does not begin.
    let store = Elsewhere { heard: Some(Arc::new(Semaphore::new(1))), ..Elsewhere::saying([LivePart::SIGN, begin(&[])]) };
    let origin = Origin::new(|_| async { Ok(text("my own")) });
    let cache = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared)).patience(Duration::from_secs(30)).layer(origin);
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Miss(Miss::Absent), "my own".into()));
    assert_eq!(store.claims.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_another_process_paid_is_saved_here() {
    let usage = Usage { output: 9, ..Usage::default() };
    let bill = LiveEnd {
        trailers: Some(HeaderMap::from_iter([(HeaderName::from_static("x-trailer"), "yes".parse().unwrap())])),
        model: Some("model".into()),
        provider: Some("provider".into()),
        usage: Some(usage),
        cost: Some(NanoUsd(45)),
        ..end_of("one")
    };
    let records = Arc::new(Mutex::new(Vec::<RequestRecord>::new()));
    let seen = Arc::clone(&records);
    let store = Elsewhere::saying([begin(&[]), frames(&["one"]), LivePart::End(Box::new(bill)), LivePart::Settled]);
    let layer = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared)).observer(move |event: &Event<'_>| match event {
        Event::Request(record) => seen.lock().unwrap().push((*record).clone()),
        Event::Fill(_) => panic!("no upstream call was made here"),
        _ => {}
    });
    let handle = layer.handle();
    let answer = send(&layer.layer(Origin::signed()), post("/", "")).await;
    let whole = answer.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["x-trailer"], "yes");
    until(|| records.lock().unwrap().len() == 1).await;
    let record = records.lock().unwrap().remove(0);
    assert_eq!((record.outcome, record.outcome.reason(), record.ending), (Outcome::CollapsedElsewhere, "elsewhere", Ending::Complete));
    assert_eq!((record.model.as_deref(), record.provider.as_deref()), (Some("model"), Some("provider")));
    assert_eq!(
        (record.billed, record.saved, record.usage, record.saved_usage),
        (Some(NanoUsd::ZERO), Some(NanoUsd(45)), None, Some(usage))
    );
    let stats = handle.stats().await;
    assert_eq!((stats.coalesced, stats.misses, stats.panics), (1, 0, 0));
}

/// Longer than word of another process is good for those who come.
const A_WHILE: Duration = Duration::from_millis(150);

#[tokio::test(start_paused = true)]
async fn who_comes_when_nothing_was_heard_for_a_moment_asks_before_it_joins_and_all_read_the_same() {
    let heard = Arc::new(Semaphore::new(2));
    let parts = [begin(&[]), frames(&["one"]), LivePart::SIGN, frames(&["two"]), end("onetwo"), LivePart::Settled];
    let store = Elsewhere { heard: Some(Arc::clone(&heard)), ..Elsewhere::saying(parts) };
    let (cache, origin) = cache(store.clone());
    let mut answers = vec![send(&cache, post("/", "")).await];
    until(|| store.follows.load(Ordering::SeqCst) == 3).await;
    let mut come = async || {
        let answer = send(&cache, post("/", "")).await;
        assert_eq!(outcome(&answer), Outcome::CollapsedElsewhere);
        answers.push(answer);
        store.claims.load(Ordering::SeqCst)
    };
    // What was heard a moment ago is good enough, from whomever, and by asking.
    assert_eq!((come().await, come().await), (1, 1));
    tokio::time::advance(A_WHILE).await;
    assert_eq!((come().await, come().await), (2, 2));
    tokio::time::advance(A_WHILE).await;
    assert_eq!(come().await, 3);
    tokio::time::advance(A_WHILE).await;
    heard.add_permits(1);
    until(|| store.follows.load(Ordering::SeqCst) == 4).await;
    assert_eq!(come().await, 3);
    heard.add_permits(20);
    for answer in answers {
        assert_eq!(read(answer).await, "onetwo");
    }
    // Nobody but the first follows.
    assert_eq!((origin.calls(), store.follows.load(Ordering::SeqCst)), (0, 6));
}

#[tokio::test(start_paused = true)]
async fn who_comes_when_another_has_taken_over_follows_that_and_those_aboard_stay() {
    let heard = Arc::new(Semaphore::new(2));
    let parts = [begin(&[]), frames(&["one"]), frames(&["two"]), end("onetwo"), LivePart::Settled];
    let store = Elsewhere { heard: Some(Arc::clone(&heard)), ..Elsewhere::saying(parts) };
    let (cache, _) = cache(store.clone());
    let aboard = send(&cache, post("/", "")).await;
    until(|| store.follows.load(Ordering::SeqCst) == 3).await;
    tokio::time::advance(A_WHILE).await;
    store.next.store(1, Ordering::SeqCst);
    let coming = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    until(|| store.follows.load(Ordering::SeqCst) == 4).await;
    assert_eq!(store.claims.load(Ordering::SeqCst), 2);
    heard.add_permits(20);
    assert_eq!((read(aboard).await, coming.await.unwrap()), ("onetwo".into(), (Outcome::CollapsedElsewhere, "onetwo".into())));
}

#[tokio::test(start_paused = true)]
async fn what_ended_is_not_joined_whatever_is_heard_of_who_made_it() {
    // It breaks off after the first frame.
    let heard = Arc::new(Semaphore::new(2));
    let store = Elsewhere {
        heard: Some(Arc::clone(&heard)),
        gate: Some(Arc::new(Semaphore::new(1))),
        ..Elsewhere::saying([begin(&[]), frames(&["one"])])
    };
    let (cache, _) = cache(store.clone());
    let aboard = send(&cache, post("/", "")).await;
    until(|| store.follows.load(Ordering::SeqCst) == 3).await;
    tokio::time::advance(A_WHILE).await;
    let coming = tokio::spawn({
        let cache = cache.clone();
        async move { send(&cache, post("/", "")).await }
    });
    until(|| store.claims.load(Ordering::SeqCst) == 2).await;
    heard.add_permits(1);
    aboard.into_body().collect().await.unwrap_err();
    heard.add_permits(1);
    store.gate.as_ref().unwrap().add_permits(1);
    // It follows on its own.
    assert_eq!(outcome(&coming.await.unwrap()), Outcome::CollapsedElsewhere);
    assert!(store.follows.load(Ordering::SeqCst) >= 4);
}

#[tokio::test]
async fn who_follows_and_leaves_is_followed_by_nothing() {
    let heard = Arc::new(Semaphore::new(2));
    let store = Elsewhere { heard: Some(heard), ..Elsewhere::saying([begin(&[]), frames(&["one"]), end("one")]) };
    let layer = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared));
    let answer = send(&layer.layer(Origin::signed()), post("/", "")).await;
    drop(answer);
    assert!(layer.handle().shutdown(Duration::from_secs(30)).await, "nothing goes on");
}
