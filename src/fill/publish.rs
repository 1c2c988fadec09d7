use std::{
    future::{Future, pending, poll_fn},
    hash::Hasher as _,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, header};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use twox_hash::XxHash3_64;

use crate::{
    body::tape::{Reader, Step},
    flight::{Flight, Live, State, Ticket},
    key::Key,
    observe::Bill,
    policy::Policy,
    shared::Shared,
    store::{Audience, Generation, LiveEnd, LiveHead, LivePart, Store, Token},
};

/// Bytes of a body that are published at a time.
const BATCH: usize = 32 << 10;

/// How long it takes at least from one publication to the next: a stream of tokens costs no round trip for each. What comes after a pause waits for nothing.
const PACE: Duration = Duration::from_millis(5);

/// What a sign of life takes of the room there is, in bytes.
const SIGN: u64 = 128;

/// How many signs of life may fail in a row: after more, the stream has expired.
const FAILURES: u32 = 3;

/// Tells those in other processes who wait for an answer what is said while it is made.
///
/// It reads the tape as any caller does, from frame 0, so it may begin late. Nobody waits for it: where the tape becomes a window, it is cut off.
pub(super) struct Publication<St, P> {
    pub(super) shared: Shared<St, P>,
    pub(super) key: Key,
    pub(super) token: Token,
    pub(super) generation: Generation,
    pub(super) flight: Arc<Flight>,
    /// Tells of each who asks for a sign of life.
    pub(super) asked: watch::Receiver<()>,
    /// Closed when the answer is stored, or is not going to be.
    pub(super) settled: oneshot::Receiver<()>,
}

/// What is there to be published.
#[derive(Default)]
struct Page {
    /// Frames, in parts no longer than a batch.
    parts: Vec<Vec<Bytes>>,
    /// The length of the last part.
    filled: usize,
    len: usize,
    /// The body ended cleanly, with these trailers.
    end: Option<Option<HeaderMap>>,
}

/// The audience is told nothing more.
struct Withdrawn;

impl<St, P> Publication<St, P>
where
    St: Store,
    P: Policy,
{
    pub(super) async fn run(mut self, audience: Audience) {
        let stop = self.shared.core.stop.clone();
        stop.run_until_cancelled(async {
            // Only what is going to be stored is for others. What came of the lease tells them if it is not.
            let State::Streaming(live) = self.flight.outcome().await else { return };
            let told = live.head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            let is_too_long = live.tape.promised().or(told).is_some_and(|len| len > audience.max_bytes as u64);
            if live.lifetime.is_none() || is_too_long {
                return;
            }
            let Some(reader) = live.tape.read_along() else { return };
            if self.publish(live, reader, audience).await.is_err() {
                self.tell(0, &[LivePart::Withdrawn]).await.ok();
            }
        })
        .await;
    }

    async fn publish(&mut self, live: Arc<Live>, mut reader: Reader, audience: Audience) -> Result<(), Withdrawn> {
        // Who follows from afar wants the call as much as one who reads here.
        let mut ticket = Some(Ticket::new(&self.flight));
        // Whoever asked until now finds that something is new.
        self.asked.mark_unchanged();
        let mut next = self.tell(0, &[self.head(&live)?]).await.map(|_| 1)?;
        let (mut length, mut signs, mut sum) = (0, 0, XxHash3_64::with_seed(0));
        let (mut unheard, mut failures) = (Vec::new(), 0);
        loop {
            let told_at = Instant::now();
            let page = Page::read(&mut reader, self.silence(told_at + audience.renew_in)).await?;
            length += page.len as u64;
            page.parts.iter().flatten().for_each(|frame| sum.write(frame));
            let is_over = page.end.is_some();
            let is_sign = page.parts.is_empty() && !is_over;
            let mut parts: Vec<_> = std::mem::take(&mut unheard);
            if is_sign && parts.is_empty() {
                parts.push(LivePart::SIGN);
                signs += SIGN;
            }
            parts.extend(page.parts.into_iter().map(LivePart::Frames));
            if length + signs > audience.max_bytes as u64 {
                return Err(Withdrawn);
            }
            if let Some(trailers) = page.end {
                let Bill { model, provider, usage, cost, .. } = live.tab.bill().await;
                parts.push(LivePart::End(Box::new(LiveEnd { trailers, length, checksum: sum.finish(), model, provider, usage, cost })));
            }
            let is_wanted = match self.tell(next, &parts).await {
                Ok(is_wanted) => is_wanted,
                // Nothing of the body is lost with it. It may be there all the same, so it is said again before anything else.
                Err(Withdrawn) if is_sign && failures < FAILURES => {
                    failures += 1;
                    unheard = parts;
                    continue;
                }
                Err(withdrawn) => return Err(withdrawn),
            };
            failures = 0;
            next += parts.len() as u64;
            if is_over {
                break;
            }
            if is_wanted {
                ticket.get_or_insert_with(|| Ticket::new(&self.flight));
            } else {
                ticket = None;
            }
            sleep_until(told_at + PACE).await;
        }
        drop((ticket, reader, live));
        // Nothing is ever sent.
        drop((&mut self.settled).await);
        // They wait for this a while, and no longer.
        self.tell(next, &[LivePart::Settled]).await.ok();
        Ok(())
    }

    /// Returns when a sign of life is due, or somebody asks for one.
    async fn silence(&mut self, due: Instant) {
        let asked = async {
            if self.asked.changed().await.is_err() {
                pending().await
            }
        };
        timeout_at(due, asked).await.ok();
    }

    fn head(&self, live: &Live) -> Result<LivePart, Withdrawn> {
        let head = live.head.clone();
        Ok(LivePart::Head(Box::new(LiveHead {
            status: head.status,
            version: head.version,
            headers: head.headers,
            lifetime: live.lifetime.ok_or(Withdrawn)?,
            promised: live.tape.promised(),
            vary: live.vary.clone(),
            generation: self.generation,
        })))
    }

    async fn tell(&self, from: u64, parts: &[LivePart]) -> Result<bool, Withdrawn> {
        let store = &self.shared.core.store;
        self.shared.attempt("publish", store.publish(&self.key, self.token, from, parts)).await.ok_or(Withdrawn)
    }
}

impl Page {
    /// Waits for something, and takes what else is there by then; nothing, if nothing comes for as long as the silence lasts.
    async fn read(reader: &mut Reader, silence: impl Future<Output = ()>) -> Result<Self, Withdrawn> {
        let mut page = Self::default();
        let mut step = match select(pin!(poll_fn(|cx| reader.poll_next(cx))), pin!(silence)).await {
            Either::Left((step, _)) => Some(step),
            Either::Right(_) => None,
        };
        while let Some(read) = step {
            match read {
                Some(Step::Data(data)) => page.add(data),
                Some(Step::Trailers(trailers)) => page.end = Some(Some(trailers)),
                None => page.end = Some(None),
                Some(Step::Failed(_)) => return Err(Withdrawn),
            }
            if page.end.is_some() || page.len >= BATCH {
                break;
            }
            step = poll_fn(|cx| match reader.poll_next(cx) {
                Poll::Ready(step) => Poll::Ready(Some(step)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        Ok(page)
    }

    /// What is too long for a part is cut; other frames stay whole.
    fn add(&mut self, mut data: Bytes) {
        self.len += data.len();
        while data.len() > BATCH {
            self.parts.push(vec![data.split_to(BATCH)]);
            self.filled = BATCH;
        }
        match self.parts.last_mut() {
            Some(part) if self.filled + data.len() <= BATCH => {
                self.filled += data.len();
                part.push(data);
            }
            _ => {
                self.filled = data.len();
                self.parts.push(vec![data]);
            }
        }
    }
}
