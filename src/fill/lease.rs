use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{join, lazy},
};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::sleep,
};

use super::{
    Fill,
    publish::Publication,
    vigil::{Unwanted, Vigil},
};
use crate::{
    options::Mode,
    policy::{NotStored, Policy},
    store::{Claim, Store, Token},
};

/// How long it takes at least from one sign of life to the next: one is for all who ask.
const SIGN_PACE: Duration = Duration::from_millis(50);

/// Whose turn it is to make the answer.
pub(super) enum Turn {
    /// This process makes it; for all, if there is a lease.
    Ours(Option<Arc<Lease>>),
    /// Another has this lease, and lets us follow.
    Theirs(Token),
}

/// The right to make an answer for all processes that share a store. Given back when dropped.
pub(crate) struct Lease {
    pub(super) token: Token,
    held: Mutex<Option<GiveBack>>,
    renewal: AbortHandle,
    /// Dropped with this: then all is settled.
    _over: oneshot::Sender<()>,
}

/// Gives a lease back; with `true`, tells others that there is no answer to share.
type GiveBack = Box<dyn FnOnce(bool) + Send>;

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// Asks the store whether to make the call, or whether another process does; then it waits, as long as anyone waits here and there is patience.
    ///
    /// # Errors
    ///
    /// [`NotStored::Elsewhere`] if there is an answer by now: look again.
    pub(super) async fn turn(&self, vigil: &mut Vigil, refresh: bool, patience: Duration) -> Result<Turn, NotStored> {
        let Some(generation) = self.found.generation.filter(|_| self.lead.is_joinable() && self.options.wishes().mode == Mode::ReadWrite)
        else {
            return Ok(Turn::Ours(None));
        };
        // What was stale at birth has to be asked for by each who wants it: nobody waits for another's.
        if !refresh && self.found.entry.as_ref().is_some_and(|entry| entry.lifetime.fresh_for.is_zero()) {
            return Ok(Turn::Ours(None));
        }
        let (shared, key) = (&self.shared, self.lead.key());
        // Who refreshes in the background need not wait for another who does.
        let patience = if refresh { Duration::ZERO } else { patience };
        // Within the guard also what a store does before its first await: a panic there costs the lease, and no request.
        let claim = shared.attempt("claim", lazy(|_| shared.core.store.claim(key, generation, patience)).flatten());
        let claim = vigil.keep(&self.lead, claim).await;
        match claim {
            Ok(Some(Claim::Granted(token, renew_in))) => {
                self.lead.is_of(generation);
                Ok(Turn::Ours(Some(Arc::new(self.hold(token, renew_in)))))
            }
            Ok(Some(Claim::Live(token))) if self.lead.is_by_another(generation) => Ok(Turn::Theirs(token)),
            Ok(Some(Claim::Live(_))) => Err(NotStored::Elsewhere),
            Ok(Some(Claim::Changed | Claim::Taken)) => Err(NotStored::Elsewhere),
            // Leases save calls; without them each process makes its own.
            Ok(Some(Claim::Alone) | None) | Err(Unwanted::Stopped) => Ok(Turn::Ours(None)),
            Err(Unwanted::Abandoned) => Err(NotStored::Abandoned),
        }
    }

    /// Renews the lease for as long as it is held, and publishes what is made under it, if anyone in another process wants to follow.
    fn hold(&self, token: Token, renew_in: Duration) -> Lease {
        let (shared, key) = (self.shared.clone(), *self.lead.key());
        let renewing = async move {
            let mut pause = renew_in;
            loop {
                sleep(pause).await;
                match shared.attempt("renew", shared.core.store.renew(&key, token)).await {
                    Some(Some(next)) => pause = next,
                    // Another has it.
                    Some(None) => return,
                    // It lasts for a while yet: perhaps the store answers by then.
                    None => {}
                }
            }
        };
        let (over, settled) = oneshot::channel();
        let (asks, asked) = watch::channel(());
        let publication = Publication {
            shared: self.shared.clone(),
            key,
            token,
            generation: self.found.generation.unwrap_or_default(),
            flight: Arc::clone(self.lead.flight()),
            asked,
            settled,
        };
        let shared = self.shared.clone();
        let hearing = async move {
            let mut publication = Some(publication);
            loop {
                // A panic costs the audience its stream, and nobody anything else.
                let audience = AssertUnwindSafe(shared.core.store.audience(&key, token)).catch_unwind().await;
                let Ok(Some(audience)) = audience else { return };
                asks.send_replace(());
                if let Some(publication) = publication.take_if(|_| audience.max_bytes > 0) {
                    shared.core.tasks.spawn(publication.run(audience));
                }
                sleep(SIGN_PACE).await;
            }
        };
        let renewal = tokio::spawn(join(renewing, hearing)).abort_handle();
        let shared = self.shared.clone();
        let give_back = move |declined| {
            let tasks = shared.core.tasks.clone();
            if tokio::runtime::Handle::try_current().is_ok() {
                tasks.spawn(async move {
                    shared.attempt("release", shared.core.store.release(&key, token, declined)).await;
                });
            }
        };
        Lease { token, held: Mutex::new(Some(Box::new(give_back))), renewal, _over: over }
    }
}

impl Lease {
    /// Was it not given back yet?
    pub(super) fn is_held(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Gives it back now; if `declined`, others are told that there is no answer to share.
    pub(super) fn give_back(&self, declined: bool) {
        self.renewal.abort();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(give_back) = held {
            give_back(declined);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back(false);
    }
}
