//! Single flight across processes: who makes the answer, and who waits for it.
//!
//! A lease is `{record}:lease`, with the holder's token and an expiry. Whoever waits is woken by word of the record or of its lease, and
//! asks again from time to time all the same.
//!
//! A lease is granted for a tenth of its time, and renewed for all of it: a Redis that hung, or a link that broke, leaves leases behind that nobody
//! knows to have, and others are not to wait for those.
//!
//! # The dead
//!
//! Nobody tells that a holder has died. So whoever waits asks it for a sign of life, at first and then ten times in the time of a lease: it cuts the lease
//! short, to a tenth of its time, and leaves word, at which a holder that lives renews it. A dead one's is over then, and one of those who wait has it next. A
//! holder for whom nobody waits is not asked, and renews it three times in its time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::Value;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Redis,
    fault::Fault,
    link::{Ask, Lane},
    live::{Sign, Watched},
    millis,
    scripts::{CLAIM, SETTLE},
    servers::To,
    tracking::{Change, Listener},
};
use crate::{
    error::Error,
    key::Key,
    store::{Claim, Generation, Token},
};

/// Stands in the place of a token where an answer turned out to be none to share.
const DECLINED: &[u8] = b"-";

/// How long it stands there.
const DECLINED_FOR: Duration = Duration::from_secs(5);

/// A holder that is busy is not to lose its lease before it can renew it.
pub(super) const LEAST_GRANT: Duration = Duration::from_secs(1);

/// How often those who wait ask, at first and at last.
const POLL: Duration = Duration::from_millis(50);
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// For how long one of these is granted at first: so long anyone who is well may take to be heard of.
pub(super) fn granted_for(lasts: Duration) -> Duration {
    lasts.min((lasts / 10).max(LEAST_GRANT))
}

impl Redis {
    pub(super) async fn claim_lease(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        let inner = &self.inner;
        let Some(lasts) = inner.lease else { return Ok(Claim::Alone) };
        let until = Instant::now() + patience;
        let token = Token(fastrand::u128(..).to_be_bytes());
        let [epoch, seen] = generation.0;
        let record = inner.names.record(key);
        // Without an epoch it cannot be told what was invalidated since.
        let follows = inner.live.is_some() && epoch != 0;
        let granted_for = granted_for(lasts);
        let mut command = CLAIM.call(&[&record, &inner.names.lease(key)]);
        command.arg(&seen.to_be_bytes()[..]).arg(&token.0[..]).arg(millis(granted_for)).arg(DECLINED);
        // Given up in the middle, it may have been granted: then it expires. Waiting begins before the question, so that no word is missed.
        let waiter = Waiter::new(&inner.waiters, *key);
        let stage = self.stage(key, token);
        let mut watched: Option<Watched> = None;
        let mut poll = POLL;
        loop {
            let woken = waiter.notify.notified();
            let asked = Ask::Script(&CLAIM, &command);
            let holder = match inner.ask(To::Key(&record), Lane::Read, Instant::now() + inner.deadlines.read, 0, asked).await? {
                Value::Int(1) => {
                    stage.keep();
                    return Ok(Claim::Granted(token, self.renew_in(granted_for)));
                }
                Value::Int(2) => return Ok(Claim::Changed),
                Value::Int(3) => return Ok(Claim::Alone),
                _ if patience.is_zero() => return Ok(Claim::Taken),
                _ if Instant::now() >= until => return Ok(Claim::Alone),
                Value::BulkString(holder) => holder.try_into().ok().map(Token),
                _ => return Err(Fault::Garbled.into()),
            };
            let mut due = until;
            if let Some(holder) = holder.filter(|_| follows) {
                let seen = match &mut watched {
                    Some(seen) if seen.holder == holder => seen,
                    other => other.insert(Watched::new(holder)),
                };
                match seen.sign(self, key, generation).await {
                    Sign::Life => return Ok(Claim::Live(holder)),
                    Sign::None(again) => due = until.min(again),
                }
            }
            self.hear();
            let pause = poll.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
            drop(timeout_at(due.min(Instant::now() + pause), woken).await);
            poll = (poll * 2).min(LONGEST_POLL);
        }
    }

    pub(super) async fn renew_lease(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        let Some(lasts) = self.inner.lease else { return Ok(None) };
        match self.settle(key, token, &token.0, lasts).await? {
            0 => return Ok(None),
            2 => self.inner.waiters.wanted(key, Some(token)),
            _ => {}
        }
        Ok(Some(self.renew_in(lasts)))
    }

    pub(super) async fn release_lease(&self, key: &Key, token: Token, declined: bool) -> Result<(), Error> {
        self.inner.waiters.leave_stage(key, token);
        self.settle(key, token, if declined { DECLINED } else { b"" }, DECLINED_FOR).await.map(drop)
    }

    /// Gives the sign of life that somebody asked for. Says what [`SETTLE`] says: 0 if the lease is held no more.
    pub(super) async fn answer_for(&self, key: &Key, token: Token, lasts: Duration) -> i64 {
        // Then it is over.
        let until = Instant::now() + granted_for(lasts);
        loop {
            match self.settle(key, token, &token.0, lasts).await {
                Ok(settled) => return settled,
                Err(_) if Instant::now() >= until => return 0,
                Err(_) => sleep(POLL).await,
            }
        }
    }

    async fn settle(&self, key: &Key, token: Token, instead: &[u8], lasts: Duration) -> Result<i64, Error> {
        let inner = &self.inner;
        let name = inner.names.lease(key);
        let mut command = SETTLE.call(&[&name, &inner.names.wanted(key)]);
        command.arg(&token.0[..]).arg(instead).arg(millis(lasts));
        Ok(inner.run(&SETTLE, &name, Instant::now() + inner.deadlines.write, 0, &command).await?)
    }

    /// How long a holder waits before it renews. Where no word comes, it gives signs of life unasked, and learns by the way that it has an audience.
    pub(super) fn renew_in(&self, lasts: Duration) -> Duration {
        if self.inner.waiters.are_told() { lasts / 3 } else { (lasts / 3).min(LEAST_GRANT / 2) }
    }

    /// Has word of changes come from now on.
    pub(super) fn hear(&self) {
        if !self.inner.hears.swap(true, Ordering::SeqCst) {
            self.track(Arc::new(Nobody), Duration::from_millis(500));
        }
    }
}

/// Who waits for what becomes of a key, and who makes it and may have an audience.
#[derive(Default)]
pub(super) struct Waiters {
    keys: Mutex<HashMap<Key, Vec<Arc<Notify>>>>,
    stages: Mutex<Stages>,
    /// Does word of changes come?
    told: AtomicBool,
}

/// Who makes what is under a key, and what tells each that it has an audience.
type Stages = HashMap<Key, Vec<(Token, Arc<Notify>)>>;

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Notify>>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stages(&self) -> MutexGuard<'_, Stages> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does word of changes come?
    pub(super) fn are_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// Who has this lease may have an audience from now on.
    pub(super) fn enter_stage(&self, key: Key, token: Token) {
        self.stages().entry(key).or_default().push((token, Arc::default()));
    }

    pub(super) fn leave_stage(&self, key: &Key, token: Token) {
        let mut stages = self.stages();
        if let Some(holders) = stages.get_mut(key) {
            holders.retain(|(holder, _)| *holder != token);
            if holders.is_empty() {
                stages.remove(key);
            }
        }
    }

    /// What tells the holder of a lease that it has an audience; `None` if it holds it no more.
    pub(super) fn stage(&self, key: &Key, token: Token) -> Option<Arc<Notify>> {
        self.stages().get(key)?.iter().find(|(holder, _)| *holder == token).map(|(_, wanted)| Arc::clone(wanted))
    }

    /// Tells the holder of a lease that it has an audience; without a token, whoever may be meant.
    fn wanted(&self, key: &Key, token: Option<Token>) {
        for (holder, wanted) in self.stages().get(key).into_iter().flatten() {
            if token.is_none_or(|token| token == *holder) {
                wanted.notify_one();
            }
        }
    }

    /// Has all holders of leases see whether they have an audience.
    fn wanted_all(&self) {
        self.stages().values().flatten().for_each(|(_, wanted)| wanted.notify_one());
    }
}

impl Listener for Waiters {
    fn changed(&self, change: Change) {
        match change {
            // One who is just about to wait is woken, too.
            Change::Key(key) | Change::Lease(key) | Change::Live(key) => {
                self.lock().get(&key).into_iter().flatten().for_each(|waiter| waiter.notify_one());
            }
            Change::Wanted(key) => self.wanted(&key, None),
            Change::Bucket(_) => {}
            Change::All => self.lock().values().flatten().for_each(|waiter| waiter.notify_one()),
        }
    }

    fn begun(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.changed(Change::All);
        // Somebody may have asked meanwhile.
        self.wanted_all();
    }

    fn proven(&self, _: std::time::Instant) {}

    fn lost(&self) {
        self.told.store(false, Ordering::SeqCst);
        // Nobody is to wait for word any more.
        self.wanted_all();
    }
}

/// One who waits, until dropped.
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    key: Key,
    pub(super) notify: Arc<Notify>,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(waiters: &'a Waiters, key: Key) -> Self {
        let notify = Arc::new(Notify::new());
        waiters.lock().entry(key).or_default().push(Arc::clone(&notify));
        Self { waiters, key, notify }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut keys = self.waiters.lock();
        if let Some(waiting) = keys.get_mut(&self.key) {
            waiting.retain(|waiter| !Arc::ptr_eq(waiter, &self.notify));
            if waiting.is_empty() {
                keys.remove(&self.key);
            }
        }
    }
}

/// None but those who wait want to know.
struct Nobody;

impl Listener for Nobody {
    fn changed(&self, _: Change) {}

    fn begun(&self) {}

    fn proven(&self, _: std::time::Instant) {}

    fn lost(&self) {}
}
