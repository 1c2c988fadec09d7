//! Live streams: what the holder of a lease makes reaches those who wait in other processes while it is made.
//!
//! Whoever asks for a lease that another holds leaves word that it wants to follow, and the holder hears of it: by word of changes, or when it
//! renews. Only then does it publish. What it says goes into a Redis stream of its own, named by its token, so that nobody ever reads on in another's; each
//! part is bound to its place there. Followers are woken by word of changes, and ask from time to time all the same. There are no connections on which
//! anyone blocks: a follower is an operation like others, with a deadline, however many there are.
//!
//! # The dead
//!
//! A publisher that has nothing to say gives a sign of life: ten times in the time of a lease, and when somebody leaves word. A stream that may be a dead
//! one's is joined by nobody: whoever comes waits for one part more than it found, which takes a living publisher a moment, or for the lease, which is soon
//! over if its holder is dead: see `lease`. The stream expires when its publisher said nothing for half the time of a lease.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream::try_unfold};
use redis::Value;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Redis,
    fault::Fault,
    lease::{LEAST_GRANT, Waiter, Waiters, granted_for},
    link::{Ask, Lane},
    millis,
    scripts::{APPEND, FOLLOW, LOOK, Script},
    servers::To,
};
use crate::{
    entry::record::part::Place,
    error::Error,
    key::Key,
    store::{Audience, Generation, LivePart, Token},
};

/// What is read of a stream at a time, in bytes: no more than a look-up may take.
const READ: usize = 64 << 10;

/// The longest part that is read. Publishers make shorter ones, but a head is as long as it is.
const LONGEST: usize = (1 << 20) + 256;

/// Parts that are read at a time.
const COUNT: usize = 256;

/// How often a follower asks where no word comes.
const UNTOLD: Duration = Duration::from_millis(50);

/// How long a follower waits before it asks again after an operation that failed.
const FAILED: Duration = Duration::from_millis(50);

/// When a lease is over for sure, after it should be.
const MOMENT: Duration = Duration::from_millis(2);

/// How often a publisher says something, be it that it lives, under a lease that lasts so long.
fn beat(lasts: Duration) -> Duration {
    (lasts / 10).max(Duration::from_millis(100)).min(lasts / 3)
}

/// How long it may say nothing before its stream is gone.
fn silence(lasts: Duration) -> Duration {
    (lasts / 2).max(LEAST_GRANT).min(lasts)
}

impl Redis {
    pub(super) async fn await_audience(&self, key: &Key, token: Token) -> Option<Audience> {
        let inner = &self.inner;
        let lasts = inner.lease?;
        let wanted = inner.waiters.stage(key, token)?;
        self.hear();
        loop {
            if inner.waiters.are_told() {
                wanted.notified().await;
            } else {
                // It may have been told when it renewed last that there is time until the next.
                timeout(self.renew_in(lasts), wanted.notified()).await.ok();
            }
            match self.answer_for(key, token, lasts).await {
                0 => return None,
                2 => return Some(Audience { max_bytes: inner.live.unwrap_or_default(), renew_in: beat(lasts) }),
                // Word may have been lost, and was not.
                _ => {}
            }
        }
    }

    pub(super) async fn publish_parts(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> Result<bool, Error> {
        let inner = &self.inner;
        let lasts = inner.lease.ok_or(Fault::Spared("there are no leases"))?;
        let until = Instant::now() + inner.deadlines.write;
        let name = inner.names.live(key, token);
        if parts.contains(&LivePart::Withdrawn) {
            let mut command = redis::cmd("UNLINK");
            command.arg(&name);
            inner.one(To::Key(&name), Lane::Bulk, until, 0, &command).await?;
            return Ok(false);
        }
        let encode = |(number, part)| inner.codec.encode_part(Place { key, token, number }, part);
        let encoded = (from..).zip(parts).map(encode).collect::<Option<Vec<_>>>();
        let encoded = encoded.ok_or(Fault::Spared("a part of a live stream is too long"))?;
        let mut command = APPEND.call(&[&name, &inner.names.wanted(key)]);
        command.arg(&token.0[..]).arg(millis(silence(lasts))).arg(from);
        for part in &encoded {
            command.arg(&part[..]);
        }
        match inner.run(&APPEND, &name, until, encoded.iter().map(Vec::len).sum(), &command).await? {
            0 => Err(Error::unavailable("a live stream was lost")),
            said => Ok(said == 2),
        }
    }

    pub(super) fn follow_parts(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        let follower = Follower {
            redis: self,
            waiter: Waiter::new(&self.inner.waiters, key),
            key,
            token,
            next: 0,
            is_behind: true,
            // Whoever found that there is something to follow has just said that it wants to.
            says_so: Instant::now() + self.inner.lease.unwrap_or_default() / 3,
        };
        try_unfold(Some(follower), |follower| async move {
            let Some(mut follower) = follower else { return Ok(None) };
            let parts = follower.read().await?;
            let goes_on = parts.last() != Some(&LivePart::Withdrawn);
            Ok(Some((parts, goes_on.then_some(follower))))
        })
    }

    /// The place of one who asks for a lease, where it is told if it has an audience. Entered before the question, so that no word is missed.
    pub(super) fn stage(&self, key: &Key, token: Token) -> Stage {
        let waiters = Arc::clone(&self.inner.waiters);
        waiters.enter_stage(*key, token);
        Stage { waiters: Some(waiters), key: *key, token }
    }
}

/// One who reads a stream, part by part.
struct Follower<'a> {
    redis: &'a Redis,
    /// Word that comes between two readings is not lost.
    waiter: Waiter<'a>,
    key: Key,
    token: Token,
    /// The number of the next part to ask for.
    next: u64,
    /// There may be more than was read.
    is_behind: bool,
    /// When to say again that the stream is wanted.
    says_so: Instant,
}

impl Follower<'_> {
    /// What was not read yet, as soon as there is any.
    async fn read(&mut self) -> Result<Vec<LivePart>, Error> {
        let inner = &self.redis.inner;
        let lasts = inner.lease.ok_or(Fault::Spared("there are no leases"))?;
        self.redis.hear();
        // Whoever reads may have been long about what it was told.
        let mut until = Instant::now() + lasts;
        loop {
            if !std::mem::take(&mut self.is_behind) {
                // A publisher that lives says something sooner.
                let pause = if inner.waiters.are_told() { beat(lasts) * 3 / 2 } else { UNTOLD };
                drop(timeout_at(Instant::now() + pause, self.waiter.notify.notified()).await);
            }
            let is_due = Instant::now() >= self.says_so;
            match self.look(is_due.then_some(lasts)).await {
                Ok(None) => return Ok(vec![LivePart::Withdrawn]),
                Ok(Some(parts)) if !parts.is_empty() => {
                    self.next += parts.len() as u64;
                    return Ok(parts);
                }
                Ok(Some(_)) => until = Instant::now() + lasts,
                // What fails for longer than a publisher may be silent has failed.
                Err(error) if error.is_corrupt() || Instant::now() >= until => return Err(error),
                // It is as well or as ill in a moment, whatever word comes.
                Err(_) => {
                    self.is_behind = true;
                    sleep(FAILED).await;
                }
            }
        }
    }

    /// The parts that are there now; `None` if there is no such stream. Perhaps says that it is wanted for so long.
    async fn look(&mut self, wanted_for: Option<Duration>) -> Result<Option<Vec<LivePart>>, Error> {
        let names = &self.redis.inner.names;
        let mut command = FOLLOW.call(&[&names.live(&self.key, self.token), &names.wanted(&self.key)]);
        command.arg(LONGEST).arg(self.next).arg(COUNT).arg(READ);
        if let Some(lasts) = wanted_for {
            command.arg(&self.token.0[..]).arg(millis(lasts));
        }
        let Some(told) = self.redis.told(&FOLLOW, &self.key, self.token, &command).await? else { return Ok(None) };
        if let Some(lasts) = wanted_for {
            self.says_so = Instant::now() + lasts / 3;
        }
        let Some((Value::Int(count), parts)) = told.split_first() else { return Err(Fault::Garbled.into()) };
        self.is_behind = u64::try_from(*count).is_ok_and(|count| count > self.next + parts.len() as u64);
        let parts = (self.next..).zip(parts).map(|(number, part)| self.redis.part(&self.key, self.token, number, part));
        parts.collect::<Result<_, _>>().map(Some)
    }
}

/// What one who wants a lease sees of one who has it.
pub(super) struct Watched {
    pub(super) holder: Token,
    /// There was nothing to be followed when it was first looked at.
    is_new: bool,
    /// What it makes is no answer to one who asks now.
    is_unfit: bool,
    /// How many parts there were when it was asked for a sign of life first.
    found: Option<u64>,
    /// When to ask for the next; `None` if none was asked for yet.
    asks_at: Option<Instant>,
}

/// What to think of the holder of a lease.
pub(super) enum Sign {
    /// It lives, and can be followed.
    Life,
    /// Nothing yet. To be looked at again by then: its lease may be over, or it is asked again.
    None(Instant),
}

impl Watched {
    pub(super) fn new(holder: Token) -> Self {
        Self { holder, is_new: false, is_unfit: false, found: None, asks_at: None }
    }

    /// Looks at its stream, for one who saw this generation.
    ///
    /// What began before an invalidation is no answer to one who came after it (an invalidation of this key ends the lease, one of many changes the epoch).
    pub(super) async fn sign(&mut self, redis: &Redis, key: &Key, generation: Generation) -> Sign {
        let lasts = redis.inner.lease.unwrap_or_default();
        let now = Instant::now();
        // That of one who comes is asked for whatever was said before; later, one answer is for all who wait.
        let below = match self.asks_at {
            None => Duration::MAX,
            Some(at) if now >= at => lasts - beat(lasts) / 2,
            Some(_) => Duration::ZERO,
        };
        if !below.is_zero() {
            self.asks_at = Some(now + beat(lasts));
        }
        let again = self.asks_at.unwrap_or(now + beat(lasts));
        match redis.look(key, self.holder, below).await {
            Ok(Seen { left, parts }) => {
                let again = if left.is_zero() { again } else { again.min(now + left + MOMENT) };
                if self.is_sign(parts.as_ref(), generation) { Sign::Life } else { Sign::None(again) }
            }
            Err(error) => {
                self.is_unfit |= error.is_corrupt();
                Sign::None(again)
            }
        }
    }

    fn is_sign(&mut self, parts: Option<&Parts>, generation: Generation) -> bool {
        let Some(Parts { count, first, last }) = parts else {
            (self.is_new, self.found) = (true, None);
            return false;
        };
        self.is_unfit |= !matches!(first, LivePart::Head(head) if head.generation.0[0] == generation.0[0]);
        if self.is_unfit {
            return false;
        }
        // Of one that is all there, nothing more is needed.
        self.is_new || matches!(last, LivePart::End(_) | LivePart::Settled) || *count > *self.found.get_or_insert(*count)
    }
}

/// What one who waits sees.
struct Seen {
    /// For how long the lease lasts.
    left: Duration,
    parts: Option<Parts>,
}

/// What there is of a stream.
struct Parts {
    count: u64,
    first: LivePart,
    last: LivePart,
}

impl Redis {
    /// How a lease is at the moment, and what is said under it. Asks for a sign of life if it lasts for less than that.
    async fn look(&self, key: &Key, token: Token, below: Duration) -> Result<Seen, Error> {
        let names = &self.inner.names;
        let lasts = self.inner.lease.unwrap_or_default();
        let below = if below.is_zero() { 0 } else { millis(below) };
        let mut command = LOOK.call(&[&names.live(key, token), &names.wanted(key), &names.lease(key)]);
        command.arg(LONGEST).arg(&token.0[..]).arg(millis(lasts)).arg(below).arg(millis(granted_for(lasts)));
        let told = self.told(&LOOK, key, token, &command).await?.ok_or(Fault::Garbled)?;
        let Some((Value::Int(left), told)) = told.split_first() else { return Err(Fault::Garbled.into()) };
        // Below 0, it is over, or never is.
        let left = Duration::from_millis(u64::try_from(*left).unwrap_or_default());
        let [Value::Int(count), first, last] = told else {
            return if told.is_empty() { Ok(Seen { left, parts: None }) } else { Err(Fault::Garbled.into()) };
        };
        let count = u64::try_from(*count).ok().filter(|count| *count > 0).ok_or(Fault::Garbled)?;
        let (first, last) = (self.part(key, token, 0, first)?, self.part(key, token, count - 1, last)?);
        Ok(Seen { left, parts: Some(Parts { count, first, last }) })
    }

    /// What such a script answers; `None` if there is no such stream.
    async fn told(&self, script: &Script, key: &Key, token: Token, command: &redis::Cmd) -> Result<Option<Vec<Value>>, Error> {
        let inner = &self.inner;
        let until = Instant::now() + inner.deadlines.read;
        match inner.ask(To::Key(&inner.names.live(key, token)), Lane::Read, until, 0, Ask::Script(script, command)).await? {
            Value::Array(told) => Ok(Some(told)),
            Value::Int(0) => Ok(None),
            _ => Err(Error::corrupt("a part of a live stream is missing, or longer than allowed")),
        }
    }

    fn part(&self, key: &Key, token: Token, number: u64, part: &Value) -> Result<LivePart, Error> {
        match part {
            Value::BulkString(part) => self.inner.codec.decode_part(Place { key, token, number }, part),
            _ => Err(Fault::Garbled.into()),
        }
    }
}

/// See [`Redis::stage`]. Left when dropped.
pub(super) struct Stage {
    waiters: Option<Arc<Waiters>>,
    key: Key,
    token: Token,
}

impl Stage {
    /// The lease is granted: the stage is left when it is given back.
    pub(super) fn keep(mut self) {
        self.waiters = None;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(waiters) = &self.waiters {
            waiters.leave_stage(&self.key, self.token);
        }
    }
}
