//! One upstream call, in a task of its own: from the call to the tape, and from the tape to the store.

mod commit;
mod recording;
mod vigil;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, StatusCode, header, request, response};
use http_body::Body;
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use self::{
    recording::Recording,
    vigil::{Unwanted, Vigil},
};
use crate::{
    body::{RequestBody, tape::Tape},
    cost,
    flight::{Ended, Head, Lead, Live, State},
    flow::{Call, Failure, Found, Opening, Upload, Upstream, contain},
    key::Identity,
    layer::Shared,
    observe::{Bill, Event, FillRecord, Tab},
    options::{CacheOptions, Mode, label},
    policy::{NotStored, Policy, Storing, strip_hop_by_hop},
    store::Store,
};

/// One upstream call, about to be made.
pub(crate) struct Fill<St, P> {
    pub(crate) shared: Shared<St, P>,
    pub(crate) lead: Lead,
    /// What goes upstream.
    pub(crate) request: request::Parts,
    /// What the policy is shown, once that is gone.
    pub(crate) asked: Arc<request::Parts>,
    pub(crate) body: (Bytes, Option<HeaderMap>),
    pub(crate) options: CacheOptions,
    pub(crate) identity: Identity,
    pub(crate) found: Found,
    /// Fields that make the request conditional on the entry that was found.
    pub(crate) conditions: Option<HeaderMap>,
    /// A stale answer stands in if the upstream fails.
    pub(crate) has_fallback: bool,
    pub(crate) tab: Settling,
}

/// The tab of a call. However that ends, those who wait for what it cost are told.
pub(crate) struct Settling(pub(crate) Arc<Tab>);

impl Drop for Settling {
    fn drop(&mut self) {
        self.0.settle(Bill::default());
    }
}

/// Who made the call necessary, and reads along.
pub(crate) type Caller<RB, E> = oneshot::Sender<Opening<RB, E>>;

/// What is to become of a response.
struct Verdict {
    /// How the policy stores it; `None` if it does not.
    storing: Option<Storing>,
    /// Why it is not stored, whatever the policy says of it.
    why_not: Option<NotStored>,
}

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// Makes the call in a task of its own. Without a caller, it is a refresh.
    pub(crate) fn spawn<S, B>(self, inner: S, caller: Option<Caller<S::ResponseBody, S::Error>>)
    where
        S: Upstream<B>,
        B: Upload,
    {
        let tasks = self.shared.core.tasks.clone();
        tasks.spawn(self.run(inner, caller));
    }

    async fn run<S, B>(self, inner: S, caller: Option<Caller<S::ResponseBody, S::Error>>)
    where
        S: Upstream<B>,
        B: Upload,
    {
        let shared = self.shared.clone();
        let key = *self.lead.key();
        let mut record = FillRecord::begin(self.identity.digest, caller.is_none());
        record.provider = label(&self.options.labels, "provider").map(str::to_owned);
        let start = Instant::now();
        let flown = AssertUnwindSafe(self.fly(inner, caller, start, &mut record)).catch_unwind().await;
        let why_not = flown.unwrap_or_else(|_| {
            shared.core.counters.panics.add(1);
            Err(NotStored::Panic)
        });
        if record.last_byte.is_zero() {
            record.last_byte = start.elapsed();
        }
        record.not_stored = why_not.err();
        match &record.not_stored {
            None => shared.core.counters.stored.add(1),
            Some(reason) => {
                shared.core.counters.not_stored.add(1);
                if reason.is_of_the_answer() {
                    shared.core.flights.decline(&key);
                }
            }
        }
        record.at = shared.settings.clock.now();
        shared.sink().tell(&Event::Fill(&record));
    }

    async fn fly<S, B>(
        mut self,
        inner: S,
        mut caller: Option<Caller<S::ResponseBody, S::Error>>,
        start: Instant,
        record: &mut FillRecord,
    ) -> Result<(), NotStored>
    where
        S: Upstream<B>,
        B: Upload,
    {
        let shared = self.shared.clone();
        let (policy, counters) = (&shared.core.policy, &shared.core.counters);
        let mut vigil = Vigil::begin(&shared.core, self.lead.flight(), record.refresh, policy.abandoned());

        // The call.
        let _ = contain(counters, || policy.prepare(&mut self.request));
        let (head, body) = loop {
            let mut call: Call<S::ResponseBody, S::Error> =
                Box::pin(AssertUnwindSafe(inner.clone().oneshot(self.upstream_request())).catch_unwind());
            let failure = match vigil.keep(&self.lead, call.as_mut()).await {
                Ok(Ok(Ok(response))) => {
                    let (head, body) = response.into_parts();
                    record.status = Some(head.status);
                    record.first_byte = Some(start.elapsed());
                    record.last_byte = start.elapsed();
                    if self.conditions.is_some() && head.status == StatusCode::NOT_MODIFIED {
                        if let Some(entry) = self.freshen(&head) {
                            self.bill(&head, record);
                            return self.freshened(entry, caller).await;
                        }
                        // It speaks of something else than what is stored: ask for all of it.
                        self.conditions = None;
                        continue;
                    }
                    if !self.has_fallback || contain(counters, || policy.is_failure(&head)) != Some(true) {
                        break (head, body);
                    }
                    self.bill(&head, record);
                    Failure::Response
                }
                Ok(Ok(Err(error))) => Failure::Error(error),
                Ok(Err(panic)) => Failure::Panic(panic),
                Err(Unwanted::Abandoned) => return Err(NotStored::Abandoned),
                Err(Unwanted::Stopped) => {
                    tell(&mut caller, Opening::Yours(call));
                    return Err(NotStored::Abandoned);
                }
            };
            // Remembered before those who wait are told, so that nobody queues up in between.
            shared.core.flights.decline(self.lead.key());
            self.lead.end(Ended::Failed);
            tell(&mut caller, Opening::Failed(failure));
            return Err(NotStored::Failed);
        };

        // The verdict, and those who wait.
        let verdict = self.verdict(&head, &body);
        let (writer, tape) = Tape::new(body.size_hint(), Arc::clone(&shared.core.budget));
        if caller.is_some()
            && let Some(reader) = tape.read()
        {
            let opening = Opening::Live { head: head.clone(), reader, storing: verdict.why_not.is_none() };
            self.announce(&verdict, &head, tape);
            tell(&mut caller, opening);
        } else {
            self.announce(&verdict, &head, tape);
        }

        // The body, frame by frame.
        let mut recording = Recording::begin(verdict, &shared.settings, counters);
        let trailers = match recording.run(body, &writer, &mut vigil, &self.lead, record).await {
            Ok(trailers) => trailers,
            Err(broken) => {
                record.last_byte = start.elapsed();
                self.bill(&head, record);
                shared.core.flights.decline(self.lead.key());
                writer.fail(broken.error);
                return Err(broken.reason);
            }
        };
        record.last_byte = start.elapsed();
        if self.is_cut_short(&head, record.bytes) {
            self.bill(&head, record);
            shared.core.flights.decline(self.lead.key());
            writer.fail("the response body is not as long as its content-length says".into());
            return Err(NotStored::Incomplete);
        }

        // The store, off the callers' path.
        let complete = contain(counters, || policy.complete(&head, trailers.as_ref())).unwrap_or(Err(NotStored::Panic));
        let frames = writer.frames();
        writer.finish(trailers.clone());
        let finished = recording.finish(trailers.is_some(), record);
        self.bill(&head, record);
        let (storing, findings) = finished?;
        complete?;
        let frames = frames.ok_or(NotStored::TooLarge)?;
        let (entry, vary) = self.entry(&head, storing, findings, &frames, trailers, record);
        self.commit(entry, vary).await
    }

    /// Works out what the call cost, and tells those whose records wait for it.
    fn bill(&self, head: &response::Parts, record: &mut FillRecord) {
        let shared = &self.shared;
        let call = cost::Call {
            request: &self.asked,
            status: head.status,
            headers: &head.headers,
            usage: record.usage.as_ref(),
            model: record.model.as_deref(),
            provider: record.provider.as_deref(),
            service_tier: record.service_tier.as_deref(),
            labels: &self.options.labels,
            first_byte: record.first_byte.unwrap_or_default(),
            last_byte: record.last_byte,
        };
        record.cost = shared.settings.price(&shared.core.counters, &call);
        shared.core.counters.billed_nanos.add(record.cost.unwrap_or_default().0);
        self.tab.0.settle(Bill::of(record));
    }

    /// What goes upstream now.
    fn upstream_request<B>(&mut self) -> Request<RequestBody<B>>
    where
        B: Body,
    {
        let parts = match &self.conditions {
            None => std::mem::replace(&mut self.request, Request::new(()).into_parts().0),
            // Kept, for it may have to be asked without conditions.
            Some(conditions) => {
                let mut parts = self.request.clone();
                for (name, value) in conditions {
                    parts.headers.insert(name, value.clone());
                }
                parts
            }
        };
        let (bytes, trailers) = self.body.clone();
        Request::from_parts(parts, RequestBody::buffered(bytes, trailers))
    }

    /// May the response be stored, going by its head?
    fn verdict(&self, head: &response::Parts, body: &impl Body) -> Verdict {
        let settings = &self.shared.settings;
        let storing = contain(&self.shared.core.counters, || {
            self.shared.core.policy.store(&self.asked, &self.options, head, body.size_hint().exact(), settings.moment())
        });
        match storing.unwrap_or(Err(NotStored::Panic)) {
            Err(reason) => Verdict { storing: None, why_not: Some(reason) },
            Ok(storing) => {
                let why_not = if self.options.mode == Mode::ReadOnly {
                    Some(NotStored::ReadOnly)
                } else if self.found.primary.is_none() || self.found.generation.is_none() {
                    // Without a generation, nothing keeps an older answer from replacing a newer one.
                    Some(NotStored::Store)
                } else {
                    None
                };
                Verdict { storing: Some(storing), why_not }
            }
        }
    }

    /// Shows the response to those who wait, or tells them that it is none for them.
    fn announce(&self, verdict: &Verdict, head: &response::Parts, tape: Arc<Tape>) {
        let shared = &self.shared;
        let live = |headers, vary| {
            let head = Head { status: head.status, version: head.version, headers };
            State::Streaming(Arc::new(Live { head, tape, vary, storing: verdict.why_not.is_none(), tab: Arc::clone(&self.tab.0) }))
        };
        match (&verdict.storing, &verdict.why_not) {
            (Some(storing), _) => {
                let vary = storing.vary.clone().and_then(|fields| {
                    let key = self.variant(&fields)?;
                    Some((fields, key))
                });
                self.lead.publish(live(storing.headers.clone(), vary));
            }
            (None, reason) => {
                shared.core.flights.decline(self.lead.key());
                self.lead.close();
                let shares = |reason: &NotStored| contain(&shared.core.counters, || shared.core.policy.shares(reason)) == Some(true);
                self.lead.publish(if reason.as_ref().is_some_and(shares) {
                    let mut headers = head.headers.clone();
                    strip_hop_by_hop(&mut headers);
                    live(headers, None)
                } else {
                    State::Ended(Ended::NotShared)
                });
            }
        }
    }

    /// Did the body end before, or after, it should have (RFC 9112 section 8)?
    fn is_cut_short(&self, head: &response::Parts, len: u64) -> bool {
        let promised = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        self.asked.method != Method::HEAD && promised.is_some_and(|promised| promised != len)
    }
}

fn tell<RB, E>(caller: &mut Option<Caller<RB, E>>, opening: Opening<RB, E>) {
    if let Some(caller) = caller.take() {
        // One who has left needs nothing.
        drop(caller.send(opening));
    }
}
