use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    flight::{Flight, Lead},
    policy::Abandoned,
    shared::Core,
};

/// How long a refresh in the background may take if the policy sets no bound for calls that nobody waits for.
const REFRESH_WITHIN: Duration = Duration::from_secs(60);

/// Watches whether anyone still wants an upstream call, and for how long it may go on if not.
pub(super) struct Vigil {
    flight: Arc<Flight>,
    abandoned: Abandoned,
    orphans: Arc<Semaphore>,
    stop: CancellationToken,
    orphan: Option<Orphan>,
}

/// A call that nobody waits for.
struct Orphan {
    until: Instant,
    /// How many there may be is bounded. A refresh is one per key, and needs none.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Why a call is not to go on.
pub(super) enum Unwanted {
    /// Nobody waits for it.
    Abandoned,
    /// The cache shuts down.
    Stopped,
}

impl Vigil {
    pub(super) fn begin<St, P>(core: &Core<St, P>, flight: &Arc<Flight>, refresh: bool, abandoned: Abandoned) -> Self {
        let within = match abandoned {
            Abandoned::Finish { within } => within,
            Abandoned::Cancel => REFRESH_WITHIN,
        };
        Self {
            flight: Arc::clone(flight),
            abandoned,
            orphans: Arc::clone(&core.orphans),
            stop: core.stop.clone(),
            orphan: refresh.then(|| Orphan { until: Instant::now() + within, _permit: None }),
        }
    }

    /// Drives a future for as long as it is wanted.
    pub(super) async fn keep<F>(&mut self, lead: &Lead, future: F) -> Result<F::Output, Unwanted>
    where
        F: Future,
    {
        let mut future = pin!(future);
        // What is there already needs no watch, as long as it is wanted.
        if (self.orphan.is_some() || self.flight.is_wanted())
            && let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
        {
            return Ok(output);
        }
        let mut stop = pin!(self.stop.cancelled());
        loop {
            let until = self.orphan.as_ref().map(|orphan| orphan.until);
            let over = pin!(async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => self.flight.abandoned().await,
                }
            });
            match select(future.as_mut(), select(over, stop.as_mut())).await {
                Either::Left((output, _)) => return Ok(output),
                Either::Right((Either::Right(_), _)) => return Err(Unwanted::Stopped),
                Either::Right((Either::Left(_), _)) => {}
            }
            if self.flight.is_wanted() {
                self.orphan = None;
            } else if until.is_some() {
                if lead.close_if_unwanted() {
                    return Err(Unwanted::Abandoned);
                }
            } else {
                self.orphan = self.adopt();
                if self.orphan.is_none() && lead.close_if_unwanted() {
                    return Err(Unwanted::Abandoned);
                }
            }
        }
    }

    /// Lets it go on for a while, if that is the policy and there are not too many.
    fn adopt(&self) -> Option<Orphan> {
        let Abandoned::Finish { within } = self.abandoned else { return None };
        let permit = Arc::clone(&self.orphans).try_acquire_owned().ok()?;
        Some(Orphan { until: Instant::now() + within, _permit: Some(permit) })
    }
}
