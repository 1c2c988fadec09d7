use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;

use super::{Counters, Event, Observer};
use crate::{entry::Usage, key::Digest, status::Outcome};

/// One request, from its arrival to the end of its response body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestRecord {
    /// Where the answer came from, and why.
    pub outcome: Outcome,
    /// The status of the response; `None` if there was none.
    pub status: Option<StatusCode>,
    /// What was asked, regardless of who asked; `None` if no key was made.
    pub digest: Option<Digest>,
    /// The request's name, as its caller gave it.
    pub request_id: Option<String>,
    /// Its labels, as its caller gave them.
    pub labels: Vec<(String, String)>,
    /// Where the time went.
    pub timings: Timings,
    /// Bytes of the response body that were handed on.
    pub bytes: u64,
    /// How it ended.
    pub ending: Ending,
    /// Operations of the store that failed on the way.
    pub degraded: u32,
    /// How long the upstream took for the stored answer: the time that a hit saved.
    pub saved_time: Option<Duration>,
    /// Tokens of a stored answer: what a hit did not cost.
    pub saved_usage: Option<Usage>,
    /// The model that gave a stored answer.
    pub model: Option<String>,
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Reading the request body and making the key.
    pub key: Duration,
    /// Looking up.
    pub lookup: Duration,
    /// Waiting for an upstream call, one's own or another's, to answer.
    pub wait: Duration,
    /// From arrival to the response head.
    pub first_byte: Option<Duration>,
    /// From arrival to the end of the response body.
    pub total: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The whole response was handed on.
    Complete,
    /// The caller left before that.
    Dropped,
    /// The inner service failed, or the response body did.
    Failed,
}

/// Writes one record, and hands it over exactly once: when it is dropped.
pub(crate) struct Recorder {
    record: RequestRecord,
    start: Instant,
    sink: Option<Sink>,
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) counters: Arc<Counters>,
    pub(crate) observers: Arc<[Arc<dyn Observer>]>,
}

impl Sink {
    /// Tells all observers, each guarded against the panic of another.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        for observer in self.observers.iter() {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.on_event(event)));
            if told.is_err() {
                self.counters.panics.add(1);
            }
        }
    }
}

impl Recorder {
    pub(crate) fn begin(sink: Sink, start: Instant) -> Self {
        Self {
            record: RequestRecord {
                outcome: Outcome::Unanswered,
                status: None,
                digest: None,
                request_id: None,
                labels: Vec::new(),
                timings: Timings::default(),
                bytes: 0,
                ending: Ending::Dropped,
                degraded: 0,
                saved_time: None,
                saved_usage: None,
                model: None,
            },
            start,
            sink: Some(sink),
        }
    }

    pub(crate) fn record(&mut self) -> &mut RequestRecord {
        &mut self.record
    }

    /// Names the request as its caller did.
    pub(crate) fn label(&mut self, options: &crate::options::CacheOptions) {
        self.record.request_id.clone_from(&options.request_id);
        self.record.labels.clone_from(&options.labels);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The response head is there.
    pub(crate) fn head(&mut self, status: StatusCode) {
        self.record.status = Some(status);
        self.record.timings.first_byte = Some(self.start.elapsed());
    }

    pub(crate) fn frame(&mut self, len: usize) {
        self.record.bytes += len as u64;
    }

    /// Nothing more will happen: hands the record over now rather than at the drop.
    pub(crate) fn end(&mut self, ending: Ending) {
        if let Some(sink) = self.sink.take() {
            self.record.ending = ending;
            self.record.timings.total = self.start.elapsed();
            sink.counters.count(&self.record);
            sink.tell(&Event::Request(&self.record));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end(Ending::Dropped);
    }
}
