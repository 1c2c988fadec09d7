use std::{sync::Arc, time::Duration};

use tokio::{task::AbortHandle, time::sleep};

use super::{
    Fill,
    vigil::{Unwanted, Vigil},
};
use crate::{
    key::Key,
    options::Mode,
    policy::{NotStored, Policy},
    shared::Shared,
    store::{Claim, Store, Token},
};

/// The right to make an answer for all processes that share a store. Given back when dropped.
pub(super) struct Lease<St, P>
where
    St: Store,
    P: Policy,
{
    shared: Shared<St, P>,
    key: Key,
    pub(super) token: Token,
    declined: bool,
    renewal: AbortHandle,
}

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// Asks the store whether to make the call, or whether another process does; then it waits, as long as anyone waits here.
    ///
    /// # Errors
    ///
    /// [`NotStored::Elsewhere`] if there is an answer by now: look again.
    pub(super) async fn lease(&self, vigil: &mut Vigil, refresh: bool) -> Result<Option<Lease<St, P>>, NotStored> {
        let Some(generation) = self.found.generation.filter(|_| self.lead.is_joinable() && self.options.mode == Mode::ReadWrite) else {
            return Ok(None);
        };
        // What was stale at birth has to be asked for by each who wants it: nobody waits for another's.
        if !refresh && self.found.entry.as_ref().is_some_and(|entry| entry.lifetime.fresh_for.is_zero()) {
            return Ok(None);
        }
        let (shared, key) = (&self.shared, self.lead.key());
        // Who refreshes in the background need not wait for another who does.
        let patience = if refresh { Duration::ZERO } else { shared.settings.patience };
        let claim = shared.attempt("claim", shared.core.store.claim(key, generation, patience));
        match vigil.keep(&self.lead, claim).await {
            Ok(Some(Claim::Granted(token, renew_in))) => Ok(Some(Lease::begin(shared.clone(), *key, token, renew_in))),
            Ok(Some(Claim::Changed | Claim::Taken)) => Err(NotStored::Elsewhere),
            // Leases save calls; without them each process makes its own.
            Ok(Some(Claim::Alone) | None) | Err(Unwanted::Stopped) => Ok(None),
            Err(Unwanted::Abandoned) => Err(NotStored::Abandoned),
        }
    }
}

impl<St, P> Lease<St, P>
where
    St: Store,
    P: Policy,
{
    fn begin(shared: Shared<St, P>, key: Key, token: Token, renew_in: Duration) -> Self {
        let renewing = {
            let shared = shared.clone();
            async move {
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
            }
        };
        let renewal = tokio::spawn(renewing).abort_handle();
        Self { shared, key, token, declined: false, renewal }
    }

    /// Tells others, when it is given back, that there is no answer to share.
    pub(super) fn decline(&mut self) {
        self.declined = true;
    }
}

impl<St, P> Drop for Lease<St, P>
where
    St: Store,
    P: Policy,
{
    fn drop(&mut self) {
        self.renewal.abort();
        let (shared, key, token, declined) = (self.shared.clone(), self.key, self.token, self.declined);
        let core = Arc::clone(&shared.core);
        if tokio::runtime::Handle::try_current().is_ok() {
            core.tasks.spawn(async move {
                shared.attempt("release", shared.core.store.release(&key, token, declined)).await;
            });
        }
    }
}
