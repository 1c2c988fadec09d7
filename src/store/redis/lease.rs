//! Single flight across processes: who makes the answer, and who waits for it.
//!
//! A lease is `{record}:lease`, with the holder's token and an expiry. Whoever waits is woken by word of the record or of its lease, and
//! asks again from time to time all the same, for nobody tells that a holder has died.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Redis,
    link::Lane,
    millis,
    scripts::{CLAIM, SETTLE},
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

/// How often those who wait ask, at first and at last.
const POLL: Duration = Duration::from_millis(50);
const LONGEST_POLL: Duration = Duration::from_secs(1);

impl Redis {
    pub(super) async fn claim_lease(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        let inner = &self.inner;
        let Some(lasts) = inner.lease else { return Ok(Claim::Alone) };
        let until = Instant::now() + patience;
        let token = Token(fastrand::u128(..).to_be_bytes());
        let [_, seen] = generation.0;
        let name = inner.names.record(key);
        let mut command = CLAIM.call(&[&name, &inner.names.lease(key)]);
        command.arg(&seen.to_be_bytes()[..]).arg(&token.0[..]).arg(millis(lasts)).arg(DECLINED);
        // Given up in the middle, it may have been granted: then it expires. Waiting begins before the question, so that no word is missed.
        let waiter = Waiter::new(&inner.waiters, *key);
        let mut poll = POLL;
        loop {
            let woken = waiter.notify.notified();
            let granted = inner.run_on(Lane::Read, &CLAIM, &name, Instant::now() + inner.deadlines.read, 0, &command).await?;
            match granted {
                1 => return Ok(Claim::Granted(token, lasts / 3)),
                2 => return Ok(Claim::Changed),
                3 => return Ok(Claim::Alone),
                _ if patience.is_zero() => return Ok(Claim::Taken),
                _ if Instant::now() >= until => return Ok(Claim::Alone),
                _ => {}
            }
            if !inner.hears.swap(true, Ordering::SeqCst) {
                self.track(Arc::new(Nobody), Duration::from_millis(500));
            }
            let pause = poll.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
            drop(timeout_at(until.min(Instant::now() + pause), woken).await);
            poll = (poll * 2).min(LONGEST_POLL);
        }
    }

    pub(super) async fn renew_lease(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        let Some(lasts) = self.inner.lease else { return Ok(None) };
        Ok(self.settle(key, token, &token.0, lasts).await?.then_some(lasts / 3))
    }

    pub(super) async fn release_lease(&self, key: &Key, token: Token, declined: bool) -> Result<(), Error> {
        self.settle(key, token, if declined { DECLINED } else { b"" }, DECLINED_FOR).await.map(drop)
    }

    async fn settle(&self, key: &Key, token: Token, instead: &[u8], lasts: Duration) -> Result<bool, Error> {
        let inner = &self.inner;
        let name = inner.names.lease(key);
        let mut command = SETTLE.call(&[&name]);
        command.arg(&token.0[..]).arg(instead).arg(millis(lasts));
        Ok(inner.run(&SETTLE, &name, Instant::now() + inner.deadlines.write, 0, &command).await? == 1)
    }
}

/// Who waits for what becomes of a key.
#[derive(Default)]
pub(super) struct Waiters {
    keys: Mutex<HashMap<Key, Vec<Arc<Notify>>>>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Notify>>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Waiters {
    fn changed(&self, change: Change) {
        let keys = self.lock();
        match change {
            // One who is just about to wait is woken, too.
            Change::Key(key) | Change::Lease(key) => keys.get(&key).into_iter().flatten().for_each(|waiter| waiter.notify_one()),
            Change::Bucket(_) => {}
            Change::All => keys.values().flatten().for_each(|waiter| waiter.notify_one()),
        }
    }

    fn begun(&self) {
        self.changed(Change::All);
    }

    fn proven(&self, _: std::time::Instant) {}

    fn lost(&self) {}
}

/// One who waits, until dropped.
struct Waiter<'a> {
    waiters: &'a Waiters,
    key: Key,
    notify: Arc<Notify>,
}

impl<'a> Waiter<'a> {
    fn new(waiters: &'a Waiters, key: Key) -> Self {
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
