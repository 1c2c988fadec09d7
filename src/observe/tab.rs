use std::sync::{Mutex, PoisonError};

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
    Open(Vec<Waiting>),
    Settled(Bill),
}

impl Default for State {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

/// A record of which only the bill is missing.
pub(super) struct Waiting {
    pub(super) record: RequestRecord,
    pub(super) sink: Sink,
    pub(super) part: Part,
}

/// What a call came to; all unknown by default.
#[derive(Clone, Default)]
pub(crate) struct Bill {
    pub(super) model: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) usage: Option<Usage>,
    pub(super) cost: Option<NanoUsd>,
}

/// So many records wait for one call; further ones are handed over without the bill.
const WAITING: usize = 1024;

impl Tab {
    /// The call came to this. The first to say so is believed.
    pub(crate) fn settle(&self, bill: Bill) {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Settled(_) => return,
                State::Open(waiting) => {
                    let waiting = std::mem::take(waiting);
                    *state = State::Settled(bill.clone());
                    waiting
                }
            }
        };
        for record in waiting {
            record.close(&bill);
        }
    }

    /// Hands a record over as soon as it is complete.
    pub(super) fn put(&self, record: Waiting) {
        let bill = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Settled(bill) => bill.clone(),
                State::Open(waiting) if waiting.len() < WAITING => return waiting.push(record),
                State::Open(_) => Bill::default(),
            }
        };
        record.close(&bill);
    }
}

impl Bill {
    pub(crate) fn of(record: &FillRecord) -> Self {
        Self { model: record.model.clone(), provider: record.provider.clone(), usage: record.usage, cost: record.cost }
    }
}
