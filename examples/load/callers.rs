//! Callers that ask, check, and now and then leave.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Args,
    routers::{Life, Routers},
    upstream::{Calls, MODELS, Proof, Question, prove},
};

/// Nothing takes so long, whatever fails: calls of the upstream take less than a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much longer than it should be an answer may be seen after it was invalidated or has expired: what the memory tier of the other router may take
/// to notice that it no longer hears of changes, the deadlines of Redis, and a call that was on its way.
pub const SLACK: Duration = Duration::from_secs(5);

/// What must not be seen any more.
#[derive(Default)]
pub struct Invalidations(Mutex<[Option<Invalidated>; MODELS]>);

#[derive(Clone, Copy)]
struct Invalidated {
    /// Whatever was made before this, in milliseconds since the start,
    begun: u64,
    /// is not seen by who asks after this.
    seen_until: Instant,
}

impl Invalidations {
    /// Those of one model, or all, that were confirmed now and asked for at `begun`.
    pub fn confirmed(&self, model: Option<usize>, begun: Duration) {
        let told = Invalidated { begun: millis(begun), seen_until: Instant::now() + SLACK };
        let mut all = self.0.lock().unwrap();
        for (number, last) in all.iter_mut().enumerate() {
            if model.is_none_or(|model| model == number) {
                *last = Some(told);
            }
        }
    }

    /// Before when no answer that is asked for now may have been made.
    fn before(&self, model: usize) -> u64 {
        self.0.lock().unwrap()[model].filter(|told| told.seen_until < Instant::now()).map_or(0, |told| told.begun)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What callers saw.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub hits: Vec<u32>,
    pub coalesced: Vec<u32>,
    pub misses: Vec<u32>,
    /// Requests that were given up on purpose.
    pub left: u64,
    /// Requests to a router that was killed.
    pub killed: u64,
    pub failed: u64,
    pub truncated: u64,
    pub foreign: u64,
    pub wrong: u64,
    /// Answers that had been invalidated, or had expired.
    pub outdated: u64,
    pub examples: Vec<String>,
}

impl Counted {
    pub fn requests(&self) -> usize {
        self.hits.len() + self.coalesced.len() + self.misses.len()
    }

    fn bad(&mut self, kind: &str, what: String) {
        match kind {
            "failed" => self.failed += 1,
            "truncated" => self.truncated += 1,
            "foreign" => self.foreign += 1,
            "outdated" => self.outdated += 1,
            _ => self.wrong += 1,
        }
        if self.examples.len() < 5 {
            self.examples.push(format!("{kind}: {what}"));
        }
    }

    fn add(&mut self, other: Self) {
        self.hits.extend(other.hits);
        self.coalesced.extend(other.coalesced);
        self.misses.extend(other.misses);
        self.left += other.left;
        self.killed += other.killed;
        self.failed += other.failed;
        self.truncated += other.truncated;
        self.foreign += other.foreign;
        self.wrong += other.wrong;
        self.outdated += other.outdated;
        self.examples.extend(other.examples);
    }
}

#[derive(Clone)]
pub struct Callers {
    tasks: Arc<Mutex<JoinSet<Counted>>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    answered: AtomicU64,
    shared: AtomicU64,
    bad: AtomicU64,
}

impl Callers {
    pub fn start(
        args: &Args,
        seed: u64,
        start: Instant,
        routers: Arc<Routers>,
        invalidations: Arc<Invalidations>,
        stop: CancellationToken,
    ) -> Self {
        let progress = Arc::<Progress>::default();
        let mut tasks = JoinSet::new();
        for number in 0..args.callers {
            let caller = Caller {
                rng: Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(number as u64)),
                args: args.clone(),
                start,
                routers: Arc::clone(&routers),
                invalidations: Arc::clone(&invalidations),
                progress: Arc::clone(&progress),
                counted: Counted::default(),
            };
            tasks.spawn(caller.run(stop.clone()));
        }
        Self { tasks: Arc::new(Mutex::new(tasks)), progress }
    }

    pub fn progress(&self, calls: &Calls) -> String {
        let Progress { answered, shared, bad } = &*self.progress;
        let (answered, shared, bad) = (answered.load(Ordering::Relaxed), shared.load(Ordering::Relaxed), bad.load(Ordering::Relaxed));
        let rate = 100.0 * shared as f64 / answered.max(1) as f64;
        format!("{answered} answers, {rate:.1} % from the cache, {} upstream calls, {bad} bad", calls.total())
    }

    /// Waits for all, once they were told to stop.
    pub async fn finish(self) -> Counted {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        let mut all = Counted::default();
        while let Some(counted) = tasks.join_next().await {
            all.add(counted.unwrap());
        }
        all
    }
}

struct Caller {
    rng: Rng,
    args: Args,
    start: Instant,
    routers: Arc<Routers>,
    invalidations: Arc<Invalidations>,
    progress: Arc<Progress>,
    counted: Counted,
}

/// How a request came back.
enum Answer {
    Whole { body: Bytes, status: String },
    Left,
    Failed(String),
}

impl Caller {
    async fn run(mut self, stop: CancellationToken) -> Counted {
        while !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(self.rng.u64(..=self.args.think))).await;
            // A few questions are asked much more often than the rest.
            let place = self.rng.f64().powi(3) * self.args.questions as f64;
            let question = Question { number: place as usize, streamed: self.rng.bool() };
            // A balancer in front would notice that one is gone.
            let which = self.rng.usize(..2);
            let life = Some(self.routers.life(which)).filter(|life| !life.was_killed()).unwrap_or_else(|| self.routers.life(1 - which));
            let leaves_after = (self.rng.u8(..) < 8).then(|| self.rng.usize(..4));
            let (begun, before) = (Instant::now(), self.invalidations.before(question.model()));
            let asked = timeout(PATIENCE, ask(&life, question, leaves_after)).await;
            self.judge(question, &life, begun, before, asked.unwrap_or_else(|_| Answer::Failed("it took too long".to_owned())));
        }
        self.counted
    }

    fn judge(&mut self, question: Question, life: &Life, begun: Instant, before: u64, answer: Answer) {
        let (body, status) = match answer {
            Answer::Left => return self.counted.left += 1,
            Answer::Failed(_) if life.was_killed() => return self.counted.killed += 1,
            Answer::Failed(why) => return self.bad("failed", format!("{question:?}: {why}")),
            Answer::Whole { body, status } => (body, status),
        };
        let took = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.progress.answered.fetch_add(1, Ordering::Relaxed);
        if status.contains("; hit") {
            self.counted.hits.push(took);
            self.progress.shared.fetch_add(1, Ordering::Relaxed);
        } else if status.contains("; collapsed") {
            self.counted.coalesced.push(took);
            self.progress.shared.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counted.misses.push(took);
        }
        let expired = millis(begun - self.start).saturating_sub(self.args.ttl * 1000 + millis(SLACK));
        match prove(question, &body) {
            Proof::Whole(made) if made < before => {
                self.bad("outdated", format!("{question:?} made at {made} ms, invalidated at {before} ms: {status}"));
            }
            Proof::Whole(made) if made < expired => self.bad("outdated", format!("{question:?} made at {made} ms, has expired: {status}")),
            Proof::Whole(_) => {}
            Proof::Truncated => self.bad("truncated", format!("{question:?}: {} bytes, {status}", body.len())),
            Proof::Foreign => self.bad("foreign", format!("{question:?}: {status}")),
            Proof::Wrong => self.bad("wrong", format!("{question:?}: {} bytes, {status}", body.len())),
        }
    }

    fn bad(&mut self, kind: &str, what: String) {
        println!("{:>6.1} s  {kind}: {what}", self.start.elapsed().as_secs_f64());
        self.progress.bad.fetch_add(1, Ordering::Relaxed);
        self.counted.bad(kind, what);
    }
}

/// Asks; leaves after so many pieces of the answer, if told to.
async fn ask(life: &Life, question: Question, leaves_after: Option<usize>) -> Answer {
    let request = Request::post(format!("{}/v1/chat/completions", life.public))
        .header("content-type", "application/json")
        .body(Full::from(question.body()))
        .unwrap();
    let asking = life.client.request(request);
    let response = if leaves_after == Some(0) {
        // Before there is one, more often than not.
        match timeout(Duration::from_millis(1), asking).await {
            Err(_) => return Answer::Left,
            Ok(response) => response,
        }
    } else {
        asking.await
    };
    let mut response = match response {
        Ok(response) => response,
        Err(error) => return Answer::Failed(format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string))),
    };
    let status = response.headers().get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let mut body = Vec::new();
    let mut pieces = 0;
    while let Some(frame) = response.body_mut().frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Err(error) => return Answer::Failed(format!("after {} bytes: {error}; {status}", body.len())),
        }
        pieces += 1;
        if leaves_after.is_some_and(|after| pieces >= after) {
            return Answer::Left;
        }
    }
    if response.status() != http::StatusCode::OK {
        return Answer::Failed(format!("{}: {}", response.status(), String::from_utf8_lossy(&body)));
    }
    Answer::Whole { body: body.into(), status }
}
