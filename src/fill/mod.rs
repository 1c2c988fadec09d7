//! One upstream call, in a task of its own: from the call to the tape, and from the tape to the store.

mod commit;
mod follow;
mod lease;
mod publish;
mod recording;
mod vigil;

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request, response};
use http_body::{Body, SizeHint};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use self::{
    follow::Followed,
    lease::{Lease, Turn},
    recording::Recording,
    vigil::{Unwanted, Vigil},
};
use crate::{
    body::{RequestBody, Whole, tape::Tape},
    cost,
    entry::{Entry, Frames},
    error::BoxError,
    flight::{Ended, Head, Lead, Live, State},
    inspect::Inspector,
    key::{Digest, Identity, Key},
    lookup::Found,
    observe::{Bill, Event, FillRecord, Tab},
    options::{self, CacheOptions, Mode},
    policy::{
        Abandoned, Moment, NotStored, OnFailure, Policy, Splice, Storing, drop_overridden_length, strip_conditions, strip_hop_by_hop,
    },
    shared::{Shared, contain},
    store::Store,
    upstream::{Call, Failure, Opening, Upload, Upstream},
};

/// How often a request asks whose turn it is because there was nothing to be followed after all.
const FOLLOWS: u32 = 2;

/// One upstream call, about to be made.
pub(crate) struct Fill<St, P> {
    pub(crate) shared: Shared<St, P>,
    pub(crate) lead: Lead,
    /// What goes upstream.
    pub(crate) request: request::Parts,
    /// What the policy is shown, once that is gone.
    pub(crate) asked: Arc<request::Parts>,
    pub(crate) body: Whole,
    pub(crate) options: CacheOptions,
    pub(crate) identity: Question,
    pub(crate) found: Found,
    /// Fields that make the request conditional on the entry that was found.
    pub(crate) conditions: Option<Box<HeaderMap>>,
    /// A stale answer stands in for a response that is a failure.
    pub(crate) withhold_failure: bool,
    /// How long the upstream took to answer.
    pub(crate) waited: Duration,
    /// The lease under which the answer is made.
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) tab: Settling,
}

/// What a call answers.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    /// The primary key.
    pub(crate) key: Key,
    pub(crate) digest: Digest,
}

impl From<&Identity> for Question {
    fn from(identity: &Identity) -> Self {
        Self { key: identity.key, digest: identity.digest() }
    }
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
    /// Watches the body.
    inspector: Option<Box<dyn Inspector>>,
}

impl Verdict {
    fn not_stored(reason: NotStored) -> Self {
        Self { storing: None, why_not: Some(reason), inspector: None }
    }
}

impl<St, P> Fill<St, P>
where
    St: Store,
    P: Policy,
{
    /// Makes the call in a task of its own. Without a caller, it is a refresh, which is left for later if there are too many.
    pub(crate) fn spawn<S, B>(self, inner: S, caller: Option<Caller<S::ResponseBody, S::Error>>)
    where
        S: Upstream<B>,
        B: Upload,
    {
        let core = Arc::clone(&self.shared.core);
        // Nobody waits for a refresh, so nobody's patience bounds how many there are.
        let permit = match &caller {
            Some(_) => None,
            None => match Arc::clone(&core.refreshes).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
        };
        // In a box, which is what the stages below hand on: an `async fn` keeps what it takes by value twice.
        let fill = Box::new(self);
        // And the whole in another: a runtime moves what it is given several times.
        core.tasks.spawn(Box::pin(async move {
            fill.run(inner, caller).await;
            drop(permit);
        }));
    }

    async fn run<S, B>(self: Box<Self>, inner: S, mut caller: Option<Caller<S::ResponseBody, S::Error>>)
    where
        S: Upstream<B>,
        B: Upload,
    {
        let mut ending = Ending::of(&self, caller.is_none());
        let flown = AssertUnwindSafe(self.fly(inner, &mut caller, ending.start, &mut ending.record)).catch_unwind().await;
        ending.tell(flown, &mut caller);
    }

    /// Records a response that is there already, in a task of its own.
    pub(crate) fn adopt<RB, E>(self, mut response: Response<RB>, caller: Caller<RB, E>)
    where
        RB: Body<Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        let fill = Box::new(self);
        let tasks = fill.shared.core.tasks.clone();
        drop_overridden_length(response.headers_mut());
        let mut ending = Ending::of(&fill, false);
        ending.record.status = Some(response.status());
        ending.record.first_byte = Some(fill.waited);
        tasks.spawn(async move {
            let mut caller = Some(caller);
            let vigil = Vigil::begin(&fill.shared.core, fill.lead.flight(), false, fill.abandoned());
            let landed = fill.land(response.into_parts(), None, vigil, &mut caller, ending.start, &mut ending.record);
            let landed = AssertUnwindSafe(landed).catch_unwind().await;
            ending.tell(landed, &mut caller);
        });
    }

    async fn fly<S, B>(
        mut self: Box<Self>,
        inner: S,
        caller: &mut Option<Caller<S::ResponseBody, S::Error>>,
        start: Instant,
        record: &mut FillRecord,
    ) -> Result<(), NotStored>
    where
        S: Upstream<B>,
        B: Upload,
    {
        let shared = self.shared.clone();
        let mut vigil = Vigil::begin(&shared.core, self.lead.flight(), record.refresh, self.abandoned());

        // Other processes.
        let (mut tries, since) = (0, tokio::time::Instant::now());
        let patience = || shared.settings.patience.saturating_sub(since.elapsed());
        let lease = loop {
            match self.turn(&mut vigil, record.refresh, patience()).await {
                Ok(Turn::Ours(lease)) => break lease,
                // It lives, and is followed here already.
                Ok(Turn::Theirs(token)) if self.lead.reopen(token) => {
                    self.look_again(caller);
                    return Err(NotStored::Elsewhere);
                }
                Ok(Turn::Theirs(token)) => match Box::pin(self.follow(token, patience(), caller)).await {
                    Followed::Shown => return Err(NotStored::Elsewhere),
                    Followed::Gone if tries < FOLLOWS && !patience().is_zero() => tries += 1,
                    Followed::Gone | Followed::Unfit => break None,
                },
                Err(reason) => {
                    if reason == NotStored::Elsewhere {
                        self.look_again(caller);
                    }
                    return Err(reason);
                }
            }
        };
        self.lease.clone_from(&lease);
        let flown = self.call(inner, caller, vigil, start, record).await;
        if let (Some(lease), Err(reason)) = (&lease, &flown)
            && reason.is_of_the_answer()
        {
            lease.give_back(true);
        }
        flown
    }

    /// Another process has made the answer, or makes it.
    fn look_again<RB, E>(self, caller: &mut Option<Caller<RB, E>>) {
        self.lead.end(Ended::Elsewhere);
        tell(caller, Opening::LookAgain { request: Box::new(self.request), body: self.body });
    }

    async fn call<S, B>(
        mut self: Box<Self>,
        inner: S,
        caller: &mut Option<Caller<S::ResponseBody, S::Error>>,
        mut vigil: Vigil,
        start: Instant,
        record: &mut FillRecord,
    ) -> Result<(), NotStored>
    where
        S: Upstream<B>,
        B: Upload,
    {
        let shared = self.shared.clone();
        let (policy, counters) = (&shared.core.policy, &shared.core.counters);

        // The call.
        let _ = contain(counters, || policy.prepare(&mut self.request));
        let (response, splice) = loop {
            let asked_at = Instant::now();
            let mut call: Call<S::ResponseBody, S::Error> =
                Box::pin(AssertUnwindSafe(inner.clone().oneshot(self.upstream_request())).catch_unwind());
            let failure = match vigil.keep(&self.lead, call.as_mut()).await {
                Ok(Ok(Ok(response))) => {
                    let (mut head, body) = response.into_parts();
                    drop_overridden_length(&mut head.headers);
                    record.status = Some(head.status);
                    record.first_byte = Some(start.elapsed());
                    self.waited = asked_at.elapsed();
                    record.last_byte = start.elapsed();
                    match head.status {
                        StatusCode::NOT_MODIFIED if self.conditions.is_some() => {
                            if let Some(entry) = self.until_stopped(self.freshen(&head)).await.flatten() {
                                self.bill(&head, record);
                                return self.freshened(entry, caller).await;
                            }
                        }
                        StatusCode::PARTIAL_CONTENT if self.conditions.is_some() => {
                            if let Some(splice) = self.splice(&head) {
                                break ((head, body), Some(splice));
                            }
                        }
                        StatusCode::RANGE_NOT_SATISFIABLE if self.conditions.is_some() => {}
                        _ if !self.withholds_failure() || contain(counters, || policy.is_failure(&head)) != Some(true) => {
                            break ((head, body), None);
                        }
                        _ => {
                            self.bill(&head, record);
                            self.give_up(caller, Failure::Response);
                            return Err(NotStored::Failed);
                        }
                    }
                    // It answers our conditions, and not in terms of what is stored: ask without them.
                    self.conditions = None;
                    continue;
                }
                Ok(Ok(Err(error))) => Failure::Error(error),
                Ok(Err(panic)) => Failure::Panic(panic),
                Err(Unwanted::Abandoned) => return Err(NotStored::Abandoned),
                Err(Unwanted::Stopped) => {
                    if self.conditions.take().is_some() {
                        // Its answer is none to the caller.
                        call = Box::pin(AssertUnwindSafe(inner.clone().oneshot(self.upstream_request())).catch_unwind());
                    }
                    tell(caller, Opening::Yours(call));
                    return Err(NotStored::Abandoned);
                }
            };
            self.give_up(caller, failure);
            return Err(NotStored::Failed);
        };
        self.land(response, splice, vigil, caller, start, record).await
    }

    /// From the head of the response to the store.
    async fn land<RB, E>(
        mut self: Box<Self>,
        (mut head, body): (response::Parts, RB),
        splice: Option<Splice>,
        mut vigil: Vigil,
        caller: &mut Option<Caller<RB, E>>,
        start: Instant,
        record: &mut FillRecord,
    ) -> Result<(), NotStored>
    where
        RB: Body<Error: Into<BoxError>>,
    {
        let shared = self.shared.clone();
        let (policy, counters) = (&shared.core.policy, &shared.core.counters);
        let upstream = head.status;
        let mut promised = body.size_hint();
        let before = splice.map(|Splice { status, headers, before }| {
            (head.status, head.headers) = (status, headers);
            promised = promised.exact().map_or_else(SizeHint::new, |rest| SizeHint::with_exact(rest + before.len() as u64));
            before
        });

        // The verdict, and those who wait.
        let verdict = self.verdict(&head, promised.exact());
        if verdict.storing.is_none() {
            self.until_stopped(self.revise(&head)).await;
        }
        let (writer, tape) = Tape::new(promised, Arc::clone(&shared.core.budget));
        // Before anything is on the tape: where there is no room to keep it, only what someone reads stays there.
        let reader = tape.read().filter(|_| caller.is_some());
        for chunk in before.iter().flat_map(Frames::as_slice) {
            record.bytes += chunk.len() as u64;
            writer.push(chunk.clone());
        }
        // Whoever frames the response is to know before its head is gone that nothing follows: gRPC tells failures so.
        if body.is_end_stream() && !self.is_cut_short(head.status, &head.headers, record.bytes) {
            if verdict.why_not.is_none() {
                self.lead.settle();
            }
            writer.finish(None);
        }
        if let Some(reader) = reader {
            let opening = Opening::Live { head: head.clone(), upstream, reader, storing: verdict.why_not.is_none() };
            self.announce(&verdict, &head, tape);
            tell(caller, opening);
        } else {
            self.announce(&verdict, &head, tape);
        }

        // The body, frame by frame.
        let mut recording = Recording::begin(verdict, &shared.settings, counters);
        let trailers = match recording.run(body, &writer, &mut vigil, &self.lead, record).await {
            Ok(trailers) => trailers,
            Err(broken) => {
                record.last_byte = start.elapsed();
                recording.look(record);
                self.bill(&head, record);
                shared.core.flights.decline(self.lead.key());
                writer.fail(broken.error);
                return Err(broken.reason);
            }
        };
        record.last_byte = start.elapsed();
        if self.is_cut_short(head.status, &head.headers, record.bytes) {
            recording.look(record);
            self.bill(&head, record);
            shared.core.flights.decline(self.lead.key());
            writer.fail("the response body is not as long as its content-length says".into());
            return Err(NotStored::Incomplete);
        }

        // The store, off the callers' path.
        let complete = contain(counters, || policy.complete(&head, trailers.as_ref())).unwrap_or(Err(NotStored::Panic));
        let frames = writer.frames();
        if recording.stores() {
            self.lead.settle();
        }
        writer.finish(trailers.clone());
        let finished = recording.finish(trailers.is_some(), record);
        self.bill(&head, record);
        let (storing, findings) = finished?;
        complete?;
        let frames = frames.ok_or(NotStored::TooLarge)?;
        let moved = storing.moved;
        let (entry, vary) = self.entry(&head, storing, findings, &frames, trailers, record);
        let entry = self.merge(entry)?;
        if moved {
            let stop = shared.core.stop.clone();
            stop.run_until_cancelled(self.relocate(&entry)).await.unwrap_or(Err(NotStored::Store))?;
        }
        self.commit(entry, vary).await
    }

    /// Shutting down, the store is given no more than the bound that the rest has.
    async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shared.core.stop.run_until_cancelled(work).await
    }

    /// May a stale answer still stand in, if this one is a failure?
    fn withholds_failure(&self) -> bool {
        let stands_in = |entry: &Arc<Entry>| self.shared.on_failure(&self.asked, &self.options, entry) == OnFailure::Stale;
        self.withhold_failure && self.found.entry.as_ref().is_some_and(stands_in)
    }

    /// What becomes of the call if nobody waits for it any more.
    fn abandoned(&self) -> Abandoned {
        let core = &self.shared.core;
        contain(&core.counters, || core.policy.abandoned()).unwrap_or(Abandoned::Cancel)
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
            labels: &self.options.wishes().labels,
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
                strip_conditions(&mut parts.headers);
                for (name, value) in conditions.iter() {
                    parts.headers.insert(name, value.clone());
                }
                parts
            }
        };
        Request::from_parts(parts, RequestBody::buffered(self.body.clone()))
    }

    /// May the response be stored, going by its head?
    fn verdict(&self, head: &response::Parts, len: Option<u64>) -> Verdict {
        let Shared { core, settings } = &self.shared;
        let storing = contain(&core.counters, || options::storing(&core.policy, &self.asked, &self.options, head, len, self.moment()));
        let storing = storing.unwrap_or(Err(NotStored::Panic));
        let inspect = settings.inspect.as_ref().filter(|_| storing.is_ok() || settings.keeps_books());
        let Some(inspector) = contain(&core.counters, || inspect?.begin(&self.asked, head)) else {
            return Verdict::not_stored(NotStored::Panic);
        };
        match storing {
            Err(reason) => Verdict { inspector, ..Verdict::not_stored(reason) },
            Ok(storing) => {
                let why_not = if self.options.wishes().mode == Mode::ReadOnly {
                    Some(NotStored::ReadOnly)
                } else if self.found.primary.is_none() || self.found.generation.is_none() {
                    // Without a generation, nothing keeps an older answer from replacing a newer one.
                    Some(NotStored::Store)
                } else {
                    None
                };
                Verdict { storing: Some(storing), why_not, inspector }
            }
        }
    }

    /// Shows the response to those who wait, or tells them that it is none for them.
    fn announce(&self, verdict: &Verdict, head: &response::Parts, tape: Arc<Tape>) {
        let shared = &self.shared;
        let lifetime = verdict.storing.as_ref().filter(|_| verdict.why_not.is_none()).map(|storing| storing.lifetime);
        let live = |headers, vary| {
            let head = Head { status: head.status, version: head.version, headers };
            State::Streaming(Arc::new(Live { head, tape, vary, lifetime, tab: Arc::clone(&self.tab.0), elsewhere: false }))
        };
        let of_the_answer = verdict.why_not.as_ref().is_none_or(NotStored::is_of_the_answer);
        // Those in other processes learn at once, too.
        let is_shared = verdict.storing.as_ref().is_some_and(|storing| storing.lifetime.ttl(shared.settings.clock.now()).is_some());
        if let Some(lease) = self.lease.as_ref().filter(|_| !is_shared) {
            lease.give_back(of_the_answer);
        }
        match (&verdict.storing, &verdict.why_not) {
            // A response that is not fresh may be stored, but answers nobody else before it was validated (RFC 9111 section 4).
            (Some(storing), _) if storing.lifetime.ttl(shared.settings.clock.now()).is_none() => {
                shared.core.flights.decline(self.lead.key());
                self.lead.end(Ended::NotShared);
            }
            (Some(storing), _) => {
                let vary = storing.vary.clone().and_then(|fields| {
                    let key = self.variant(&fields)?;
                    Some((fields, key))
                });
                self.lead.publish(live(storing.headers.clone(), vary));
            }
            (None, reason) => {
                if of_the_answer {
                    shared.core.flights.decline(self.lead.key());
                }
                self.lead.close();
                let shares = |reason: &NotStored| contain(&shared.core.counters, || shared.core.policy.shares(reason)) == Some(true);
                self.lead.publish(if reason.as_ref().is_some_and(shares) {
                    let mut headers = head.headers.clone();
                    strip_hop_by_hop(&mut headers);
                    // The session of the one who asked.
                    headers.remove(header::SET_COOKIE);
                    live(headers, None)
                } else {
                    State::Ended(Ended::NotShared)
                });
            }
        }
    }

    /// Did the body end before, or after, it should have (RFC 9112 section 8)?
    fn is_cut_short(&self, status: StatusCode, headers: &HeaderMap, len: u64) -> bool {
        let promised = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let has_body = self.asked.method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        has_body && promised.is_some_and(|promised| promised != len)
    }

    /// There is no response. Remembered before those who wait are told, so that nobody queues up in between.
    fn give_up<RB, E>(&self, caller: &mut Option<Caller<RB, E>>, failure: Failure<E>) {
        self.shared.core.flights.decline(self.lead.key());
        self.lead.end(Ended::Failed);
        tell(caller, Opening::Failed(failure));
    }

    /// The time of a decision about the response.
    fn moment(&self) -> Moment {
        Moment { waited: self.waited, ..self.shared.settings.moment() }
    }
}

/// What is told when a fill is over, however it ends.
struct Ending<St, P> {
    shared: Shared<St, P>,
    key: Key,
    start: Instant,
    record: FillRecord,
}

impl<St, P> Ending<St, P> {
    fn of(fill: &Fill<St, P>, refresh: bool) -> Self {
        let mut record = FillRecord::begin(fill.identity.digest, refresh);
        record.provider = fill.options.wishes().labels.get("provider").map(Arc::from);
        Self { shared: fill.shared.clone(), key: *fill.lead.key(), start: Instant::now(), record }
    }

    fn tell<RB, E>(self, flown: Result<Result<(), NotStored>, Box<dyn Any + Send>>, caller: &mut Option<Caller<RB, E>>) {
        let Self { shared, key, start, mut record } = self;
        if matches!(flown, Ok(Err(NotStored::Elsewhere))) {
            // No call was made.
            return;
        }
        let counters = &shared.core.counters;
        if record.last_byte.is_zero() {
            record.last_byte = start.elapsed();
        }
        record.not_stored = match flown {
            Ok(stored) => stored.err(),
            Err(panic) => {
                counters.panics.add(1);
                // One who still waits would wait for ever.
                tell(caller, Opening::Failed(Failure::Panic(panic)));
                Some(NotStored::Panic)
            }
        };
        match &record.not_stored {
            None => counters.stored.add(1),
            Some(reason) => {
                counters.not_stored.add(1);
                if reason.is_of_the_answer() {
                    shared.core.flights.decline(&key);
                }
            }
        }
        record.at = shared.settings.clock.now();
        shared.sink().tell(&Event::Fill(&record));
    }
}

fn tell<RB, E>(caller: &mut Option<Caller<RB, E>>, opening: Opening<RB, E>) {
    if let Some(caller) = caller.take() {
        // One who has left needs nothing.
        drop(caller.send(opening));
    }
}
