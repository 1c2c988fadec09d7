use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use super::{FillRecord, Sink, record::Part};
use crate::{cost::NanoUsd, entry::Usage, observe::RequestRecord};

/// What one upstream call came to, for the records of all requests that it served.
///
/// Requests end at their own pace, the call at its. A record that comes before the bill waits here.
#[derive(Default)]
pub(crate) struct Tab {
    state: Mutex<State>,
}

enum State {
    Open {
        records: Vec<Waiting>,
        /// One who tells others what it came to.
        other: Option<oneshot::Sender<Bill>>,
    },
    Settled(Bill),
}

impl Default for State {
    fn default() -> Self {
        Self::Open { records: Vec::new(), other: None }
    }
}

/// A record of which only the bill is missing.
pub(super) struct Waiting {
    pub(super) record: Box<RequestRecord>,
    pub(super) sink: Sink,
    pub(super) part: Part,
}

/// What a call came to; all unknown by default.
#[derive(Clone, Default)]
pub(crate) struct Bill {
    pub(crate) model: Option<Arc<str>>,
    pub(crate) provider: Option<Arc<str>>,
    pub(crate) operation: Option<Cow<'static, str>>,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost: Option<NanoUsd>,
}

/// So many records wait for one call, beside that of the request which made it; further ones are handed over without the bill.
const WAITING: usize = 1024;

impl Tab {
    /// The call came to this. The first to say so is believed.
    pub(crate) fn settle(&self, bill: Bill) {
        let (records, other) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Settled(_) => return,
                State::Open { records, other } => {
                    let waiting = (std::mem::take(records), other.take());
                    *state = State::Settled(bill.clone());
                    waiting
                }
            }
        };
        if let Some(other) = other {
            // One who has left needs nothing.
            drop(other.send(bill.clone()));
        }
        for record in records {
            record.close(&bill);
        }
    }

    /// Hands a record over as soon as it is complete.
    pub(super) fn put(&self, record: Waiting) {
        let bill = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Settled(bill) => bill.clone(),
                State::Open { records, .. } if records.len() < WAITING || record.part == Part::Led => return records.push(record),
                State::Open { .. } => Bill::default(),
            }
        };
        record.close(&bill);
    }

    /// What the call came to, once that is known. One at a time may wait for it.
    pub(crate) async fn bill(&self) -> Bill {
        let settled = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Settled(bill) => return bill.clone(),
                State::Open { other, .. } => {
                    let (sender, settled) = oneshot::channel();
                    *other = Some(sender);
                    settled
                }
            }
        };
        settled.await.unwrap_or_default()
    }
}

impl Bill {
    pub(crate) fn of(record: &FillRecord) -> Self {
        Self {
            model: record.model.clone(),
            provider: record.provider.clone(),
            operation: record.operation.clone(),
            usage: record.usage,
            cost: record.cost,
        }
    }
}
