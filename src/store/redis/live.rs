//! Live streams: what the holder of a lease makes reaches those who wait in other processes while it is made.
//!
//! Whoever asks for a lease that another holds leaves word that it wants to follow, and the holder hears of it: by word of changes, or when it
//! renews. Only then does it publish. What it says goes into a Redis stream of its own, named by its token, so that nobody ever reads on in another's; each
//! part is bound to its place there. Followers are woken by word of changes, and ask from time to time all the same. There are no connections on which
//! anyone blocks: a follower is an operation like others, with a deadline, however many there are.
//!
//! The stream expires when its publisher says nothing for as long as a lease lasts: who is dead says nothing.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Redis,
    fault::Fault,
    lease::{Waiter, Waiters},
    link::{Ask, Lane},
    millis,
    scripts::{APPEND, FOLLOW},
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

/// How often a follower asks, where word comes, and where it does not.
const TOLD: Duration = Duration::from_secs(1);
const UNTOLD: Duration = Duration::from_millis(50);

/// How long a follower waits before it asks again after an operation that failed.
const FAILED: Duration = Duration::from_millis(50);

impl Redis {
    pub(super) async fn await_audience(&self, key: &Key, token: Token) -> Option<Audience> {
        let inner = &self.inner;
        let (max_bytes, lasts) = (inner.live?, inner.lease?);
        let wanted = inner.waiters.stage(key, token)?;
        self.hear();
        wanted.notified().await;
        Some(Audience { max_bytes, renew_in: lasts / 3 })
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
        command.arg(&token.0[..]).arg(millis(lasts)).arg(from);
        for part in &encoded {
            command.arg(&part[..]);
        }
        match inner.run(&APPEND, &name, until, encoded.iter().map(Vec::len).sum(), &command).await? {
            0 => Err(Error::unavailable("a live stream was lost")),
            said => Ok(said == 2),
        }
    }

    pub(super) async fn follow_parts(&self, key: &Key, token: Token, from: u64) -> Result<Vec<LivePart>, Error> {
        let inner = &self.inner;
        let lasts = inner.lease.ok_or(Fault::Spared("there are no leases"))?;
        let waiter = Waiter::new(&inner.waiters, *key);
        // What fails for longer than a publisher may be silent has failed.
        let mut until = Instant::now() + lasts;
        let mut says_so = Instant::now();
        self.hear();
        loop {
            let woken = waiter.notify.notified();
            let is_due = Instant::now() >= says_so;
            let pause = match self.parts(key, token, from, is_due.then_some(lasts)).await {
                Ok(None) => return Err(Error::unavailable("a live stream ended before what it carries did")),
                Ok(Some(parts)) if !parts.is_empty() => return Ok(parts),
                Ok(Some(_)) => {
                    until = Instant::now() + lasts;
                    if inner.waiters.are_told() { TOLD.min(lasts / 3) } else { UNTOLD }
                }
                Err(error) if error.is_corrupt() || Instant::now() >= until => return Err(error),
                // It is as well or as ill in a moment, whatever word comes.
                Err(_) => {
                    sleep(FAILED).await;
                    continue;
                }
            };
            if is_due {
                says_so = Instant::now() + lasts / 3;
            }
            drop(timeout(pause, woken).await);
        }
    }

    /// Does the stream of a holder answer one who saw this generation? `None` if there is none yet.
    ///
    /// What began before an invalidation is no answer to one who came after it (an invalidation of this key ends the lease, one of many changes the epoch).
    pub(super) async fn is_fit(&self, key: &Key, holder: Token, generation: Generation) -> Option<bool> {
        match self.parts(key, holder, 0, None).await {
            Ok(parts) => match parts?.first()? {
                LivePart::Head(head) => Some(head.generation.0[0] == generation.0[0]),
                _ => Some(false),
            },
            Err(error) => error.is_corrupt().then_some(false),
        }
    }

    /// The parts that are there now; `None` if there is no such stream. Perhaps says that it is wanted for so long.
    async fn parts(&self, key: &Key, token: Token, from: u64, wanted_for: Option<Duration>) -> Result<Option<Vec<LivePart>>, Error> {
        let inner = &self.inner;
        let name = inner.names.live(key, token);
        let mut command = FOLLOW.call(&[&name, &inner.names.wanted(key)]);
        command.arg(from).arg(COUNT).arg(READ).arg(LONGEST);
        if let Some(lasts) = wanted_for {
            command.arg(&token.0[..]).arg(millis(lasts));
        }
        let parts =
            match inner.ask(To::Key(&name), Lane::Read, Instant::now() + inner.deadlines.read, 0, Ask::Script(&FOLLOW, &command)).await? {
                Value::Array(parts) => parts,
                Value::Int(0) => return Ok(None),
                _ => return Err(Error::corrupt("a part of a live stream is longer than allowed")),
            };
        let decode = |(number, part): (u64, Value)| match part {
            Value::BulkString(part) => inner.codec.decode_part(Place { key, token, number }, &part),
            _ => Err(Fault::Garbled.into()),
        };
        (from..).zip(parts).map(decode).collect::<Result<_, _>>().map(Some)
    }

    /// The place of one who asks for a lease, where it is told if it has an audience. Entered before the question, so that no word is missed.
    pub(super) fn stage(&self, key: &Key, token: Token) -> Stage {
        let waiters = self.inner.live.map(|_| Arc::clone(&self.inner.waiters));
        if let Some(waiters) = &waiters {
            waiters.enter_stage(*key, token);
        }
        Stage { waiters, key: *key, token }
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
