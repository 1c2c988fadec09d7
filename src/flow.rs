//! One cached request, from its body to its answer. The only place that knows the order of things.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use http::{Extensions, HeaderMap, Request, Response, StatusCode, request, response};
use http_body::Body;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tower::ServiceExt as _;

use crate::{
    answer::{Answer, pass, passed, respond, tell, tell_cost},
    body::{Buffered, RequestBody, ResponseBody, Whole, buffer, tape::Reader},
    entry::Entry,
    error::BoxError,
    fill::{Fill, Question, Settling},
    flight::{Ended, Head, Lead, Live, Mark, Role, SETTLE, State, Ticket},
    key::{Identity, Key},
    lookup::{Found, look_up},
    observe::{Ending, Recorder, Tab},
    options::{CacheOptions, Mode},
    policy::{Bypass, Invalidation, Moment, OnFailure, Policy, Replay, Reuse},
    shared::{Core, Shared, contain},
    status::{CACHE_STATUS, CacheStatus, Miss, Outcome, Stale, set_age},
    store::Store,
    upstream::{Failure, Opening, Upload, Upstream, head_of, response_head_of},
};

/// How often a request looks up again because an answer was stored in the meantime. More often is chance, not a rule.
const LOOKS: u32 = 3;

/// One cached request.
pub(crate) struct Flow<S, St, P> {
    pub(crate) shared: Shared<St, P>,
    inner: S,
    request: request::Parts,
    options: CacheOptions,
    recorder: Recorder,
}

/// What a request has come to: an answer, or the rest of a longer way to one. The rest is a future of its own, so that a hit does not carry the room for
/// it, and one who waits for an upstream call does not keep the room for the look-up.
#[allow(clippy::large_enum_variant, reason = "a box would cost what this saves")]
pub(crate) enum Step<RB, E> {
    Done(Answer<RB, E>),
    On(Rest<RB, E>),
}

pub(crate) type Rest<RB, E> = Pin<Box<dyn Future<Output = Answer<RB, E>> + Send>>;

/// Why the store has no answer, and what it has.
struct Missed {
    /// Taken before the look-up.
    mark: Mark,
    found: Found,
    why: Miss,
    /// Fields that make the request conditional on the entry that was found.
    conditions: Option<Box<HeaderMap>>,
    on_failure: OnFailure,
}

impl<S, St, P> Flow<S, St, P> {
    pub(crate) fn new(shared: Shared<St, P>, inner: S, request: request::Parts, options: CacheOptions, recorder: Recorder) -> Self {
        Self { shared, inner, request, options, recorder }
    }

    /// The body, the key, and the store.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` keeps what it takes by value twice")]
    pub(crate) fn run<B>(mut self, body: B) -> impl Future<Output = Step<S::ResponseBody, S::Error>> + Send
    where
        S: Upstream<B>,
        St: Store,
        P: Policy,
        B: Upload,
    {
        async move {
            let Some(limit) = contain(&self.shared.core.counters, || self.shared.core.policy.body_limit()) else {
                return Step::On(self.pass(RequestBody::untouched(body), Bypass::Panic));
            };
            let body = match buffer(body, limit).await {
                Buffered::Whole(body) => body,
                Buffered::Over(body) => return Step::On(self.pass(body, Bypass::TooLarge)),
                Buffered::Broken(body) => return Step::On(self.pass(body, Bypass::BrokenBody)),
            };
            let identity = match self.identify(&body.bytes) {
                Ok(identity) => identity,
                Err(reason) => return Step::On(self.pass(RequestBody::buffered(body), reason)),
            };
            let keyed = self.recorder.keyed(&identity);
            match self.look(keyed, &identity.key, || Question::from(&identity), &body).await {
                Ok(answer) => Step::Done(Ok(answer)),
                Err(missed) => Step::On(Box::pin(self.miss(Question::from(&identity), body, missed))),
            }
        }
    }

    /// Looks up, from this time on, and answers if what is stored may answer the request.
    async fn look<B>(
        &mut self,
        since: Option<Instant>,
        key: &Key,
        question: impl FnOnce() -> Question,
        body: &Whole,
    ) -> Result<Response<ResponseBody<S::ResponseBody>>, Missed>
    where
        S: Upstream<B>,
        St: Store,
        P: Policy,
        B: Upload,
    {
        let mark = self.shared.core.flights.mark(key);
        let mut found = self.look_up(since, key).await;
        let moment = self.shared.settings.moment();
        let (outcome, refresh) = match self.reuse(&found, moment) {
            Reuse::Fresh { refresh } => (Outcome::Hit, refresh),
            Reuse::StaleWhileRevalidate => (Outcome::Stale(Stale::WhileRevalidate), true),
            Reuse::StaleAccepted => (Outcome::Stale(Stale::Accepted), false),
            Reuse::Validate { conditions, why, on_failure } => {
                let conditions = Some(conditions).filter(|some| !some.is_empty()).map(Box::new);
                return Err(Missed { mark, found, why, conditions, on_failure });
            }
            Reuse::No(why) => return Err(Missed { mark, found, why, conditions: None, on_failure: OnFailure::Pass }),
        };
        let Some(entry) = found.entry.take() else { unreachable!("what may be served is there") };
        if refresh {
            self.refresh(question(), found, Arc::clone(&entry), body.clone());
        }
        Ok(self.stored(entry, key, outcome, moment.now))
    }

    /// The flight, and the upstream.
    #[allow(clippy::manual_async_fn, reason = "an `async fn` keeps what it takes by value twice")]
    fn miss<B>(
        mut self,
        question: Question,
        mut body: Whole,
        mut missed: Missed,
    ) -> impl Future<Output = Answer<S::ResponseBody, S::Error>> + Send
    where
        S: Upstream<B>,
        St: Store,
        P: Policy,
        B: Upload,
    {
        async move {
            let mut looks = 0;
            let mut attempt = 0;
            loop {
                // The store, once more. On the heap, for it is rare, and may take much room.
                if looks > 0 {
                    let since = self.recorder.now();
                    missed = match Box::pin(self.look(since, &question.key, || question, &body)).await {
                        Ok(answer) => return Ok(answer),
                        Err(missed) => missed,
                    };
                }
                looks += 1;
                let on_failure = missed.on_failure;
                let fallback =
                    missed.found.entry.clone().filter(|_| matches!(on_failure, OnFailure::Stale | OnFailure::StaleIfUnreachable));
                if looks < LOOKS
                    && let Some(mut settled) = self.shared.core.flights.settling(&missed.found.key)
                {
                    // Closed rather than sent to.
                    drop(timeout(SETTLE, settled.changed()).await);
                    continue;
                }
                if self.options.wishes().only_if_cached {
                    return Ok(self.timed_out(Outcome::Unsatisfied));
                }

                // The flight.
                let lead = match self.join(&missed, attempt, looks < LOOKS) {
                    Role::LookAgain => continue,
                    Role::Lead(lead) => lead,
                    Role::Alone => self.shared.core.flights.alone(&missed.found.key),
                    Role::Follow(ticket) => match self.follow(ticket, &question.key, fallback, attempt, looks < LOOKS).await {
                        Ok(answer) => return Ok(answer),
                        Err(next) => {
                            attempt = next;
                            continue;
                        }
                    },
                };

                match self.lead(lead, question, &mut body, &mut missed, fallback).await {
                    Some(answer) => return answer,
                    None if looks < LOOKS => {}
                    None => attempt = ALONE,
                }
            }
        }
    }

    /// The upstream, in a task of its own: whoever asked first is a reader like all others. `None` if another process made the answer meanwhile.
    async fn lead<B>(
        &mut self,
        lead: Lead,
        question: Question,
        body: &mut Whole,
        missed: &mut Missed,
        fallback: Option<Arc<Entry>>,
    ) -> Option<Answer<S::ResponseBody, S::Error>>
    where
        S: Upstream<B>,
        St: Store,
        P: Policy,
        B: Upload,
    {
        let entered = self.shared.core.enter();
        if entered.is_none() {
            drop(lead);
            return Some(self.pass(RequestBody::buffered(std::mem::take(body)), Bypass::Shutdown).await);
        }
        self.recorder.outcome(Outcome::Unanswered);
        let (key, why, on_failure) = (&question.key, missed.why, missed.on_failure);
        let asked = Arc::new(head_of(&self.request));
        let request = std::mem::replace(&mut self.request, head_of(&asked));
        let ticket = lead.ticket();
        let tab = Arc::<Tab>::default();
        self.recorder.lead(&tab);
        let start = Instant::now();
        let (answer, opening) = oneshot::channel();
        let (sent, found, conditions) = (std::mem::take(body), missed.found.clone(), missed.conditions.take());
        self.fill(lead, request, asked, sent, question, found, conditions, on_failure == OnFailure::Stale, tab)
            .spawn(self.inner.clone(), Some(answer));
        drop(entered);
        let opening = opening.await;
        self.recorder.waited(start);
        Some(match opening {
            Ok(Opening::LookAgain { request, body: sent }) => {
                self.recorder.leave();
                (self.request, *body) = (*request, sent);
                return None;
            }
            Ok(Opening::Live { head, upstream, reader, storing }) => Ok(self.live(head, upstream, reader, ticket, key, why, storing)),
            Ok(Opening::Joined { live, reader }) => Ok(self.collapsed(&live, reader, ticket, key)),
            Ok(Opening::Freshened(entry)) => Ok(self.stored_after_wait(entry, key, Outcome::Revalidated(why))),
            // A response is withheld where a stale one stood in for it a moment ago.
            Ok(Opening::Failed(failure)) => match (fallback.filter(|entry| failure.is_response() || self.stands_in(entry)), failure) {
                (Some(entry), _) => Ok(self.stored_after_wait(entry, key, Outcome::Stale(Stale::IfError))),
                (None, Failure::Error(_)) if on_failure == OnFailure::Timeout => Ok(self.timed_out(Outcome::Unreachable)),
                (None, Failure::Error(error)) => {
                    self.recorder.outcome(Outcome::Miss(why));
                    self.recorder.end(Ending::Failed);
                    Err(error)
                }
                (None, Failure::Panic(panic)) => std::panic::resume_unwind(panic),
                (None, Failure::Response) => unreachable!("a response is only withheld where a stale one stands in"),
            },
            Ok(Opening::Yours(call)) => match call.await {
                Ok(answer) => answer.map(|response| {
                    self.recorder.leave();
                    let asked = self.shared.settings.keeps_books().then(|| Box::new(head_of(&self.request)));
                    passed(&self.shared.settings, asked, response, Bypass::Shutdown, self.recorder.take())
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            },
            // The runtime is going down, and this future with it.
            Err(_) => std::future::pending().await,
        })
    }

    /// Passes a request on, and heeds what its response says of what is stored.
    pub(crate) async fn watch<B>(mut self: Box<Self>, body: B, reason: Bypass) -> Answer<S::ResponseBody, S::Error>
    where
        S: Upstream<B>,
        St: Store,
        P: Policy,
        B: Upload,
    {
        self.recorder.outcome(Outcome::Bypass(reason));
        let watched = head_of(&self.request);
        let request = std::mem::replace(&mut self.request, head_of(&watched));
        let start = Instant::now();
        let response = match self.inner.clone().oneshot(Request::from_parts(request, RequestBody::untouched(body))).await {
            Ok(response) => response,
            Err(error) => {
                self.recorder.end(Ending::Failed);
                return Err(error);
            }
        };
        let waited = start.elapsed();
        let (head, body) = response.into_parts();
        let seen = response_head_of(&head);
        if let Some(done) = self.invalidate_by(&seen) {
            // Whoever has seen the response does not see what it made invalid. The task does not panic, and only the end of the runtime cancels it.
            drop(done.await);
        }
        let response = Response::from_parts(head, body);
        let policy = &self.shared.core.policy;
        let adopted = contain(&self.shared.core.counters, || policy.adopts(&self.shared.settings.envelope, &watched, &self.options, &seen));
        let Some((identity, asked)) = adopted.flatten() else {
            let asked = self.shared.settings.keeps_books().then(|| Box::new(watched));
            return Ok(passed(&self.shared.settings, asked, response, reason, self.recorder));
        };

        let (found, _) = look_up(&self.shared, &asked, &identity.key).await;
        let Some(entered) = self.shared.core.enter() else {
            let asked = self.shared.settings.keeps_books().then(|| Box::new(watched));
            return Ok(passed(&self.shared.settings, asked, response, reason, self.recorder));
        };
        let lead = self.shared.core.flights.alone(&found.key);
        let ticket = lead.ticket();
        let tab = Arc::<Tab>::default();
        self.recorder.lead(&tab);
        let (answer, opening) = oneshot::channel::<Opening<S::ResponseBody, S::Error>>();
        let fill = self.fill(lead, head_of(&asked), Arc::new(asked), Whole::default(), Question::from(&identity), found, None, false, tab);
        Fill { waited, ..fill }.adopt(response, answer);
        drop(entered);
        match opening.await {
            Ok(Opening::Live { head, reader, .. }) => {
                let recorder = self.answered(Outcome::Bypass(reason), head.status);
                let mut response = Response::from_parts(head, ResponseBody::reading(reader, ticket, recorder));
                if self.shared.settings.status_header {
                    response.headers_mut().append(&CACHE_STATUS, self.shared.settings.bypass_status(reason));
                }
                Ok(response)
            }
            Ok(Opening::Failed(Failure::Panic(panic))) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this future with it.
            _ => std::future::pending().await,
        }
    }

    /// Passes a request on as if the cache were not there. On the heap, so that a hit does not carry the room for it.
    fn pass<B>(&mut self, body: RequestBody<B>, reason: Bypass) -> Rest<S::ResponseBody, S::Error>
    where
        S: Upstream<B>,
        B: Upload,
        St: Store,
        P: Policy,
    {
        let settings = Arc::clone(&self.shared.settings);
        let asked = settings.keeps_books().then(|| Box::new(head_of(&self.request)));
        let request = std::mem::replace(&mut self.request, Request::new(()).into_parts().0);
        let call = self.inner.clone().oneshot(Request::from_parts(request, body));
        let recorder = self.recorder.take();
        Box::pin(async move { pass(&settings, asked, call, reason, recorder).await })
    }
}

/// What went before an attempt that shares nothing with anyone.
const ALONE: u32 = 2;

impl<S, St, P> Flow<S, St, P>
where
    St: Store,
    P: Policy,
{
    fn identify(&self, body: &[u8]) -> Result<Identity, Bypass> {
        let policy = &self.shared.core.policy;
        contain(&self.shared.core.counters, || {
            let slots = policy.slots();
            let slot = if slots > 1 { fastrand::u32(..slots) } else { 0 };
            policy.identify(&self.shared.settings.envelope, &self.request, body, &self.options, slot)
        })
        .unwrap_or(Err(Bypass::Panic))
    }

    async fn look_up(&mut self, since: Option<Instant>, primary: &Key) -> Found {
        let (found, failures) = look_up(&self.shared, &self.request, primary).await;
        self.recorder.looked(since, failures);
        found
    }

    fn reuse(&self, found: &Found, moment: Moment) -> Reuse {
        match &found.entry {
            Some(entry) if self.options.wishes().mode != Mode::WriteOnly => {
                contain(&self.shared.core.counters, || self.shared.core.policy.reuse(&self.request, &self.options, entry, moment))
                    .unwrap_or(Reuse::No(Miss::Request))
            }
            Some(_) => Reuse::No(Miss::Request),
            None if found.variants.is_some() => {
                let conditions = found.variants.as_ref().and_then(|variants| {
                    contain(&self.shared.core.counters, || self.shared.core.policy.elect(&self.request, &self.options, variants)).flatten()
                });
                match conditions {
                    Some(conditions) => Reuse::Validate { conditions, why: Miss::Vary, on_failure: OnFailure::Pass },
                    None => Reuse::No(Miss::Vary),
                }
            }
            // A store that did not answer cannot say what it has not got.
            None if found.generation.is_none() => Reuse::No(Miss::Absent),
            None => {
                let why = contain(&self.shared.core.counters, || self.shared.core.policy.missing(&self.request, &self.options));
                Reuse::No(why.unwrap_or(Miss::Absent))
            }
        }
    }

    /// May the stale answer still be served, now that the upstream has failed? That may have taken longer than the answer is kept for.
    fn stands_in(&self, entry: &Entry) -> bool {
        matches!(self.shared.on_failure(&self.request, &self.options, entry), OnFailure::Stale | OnFailure::StaleIfUnreachable)
    }

    fn join(&self, missed: &Missed, attempt: u32, may_look: bool) -> Role {
        let Shared { core, settings } = &self.shared;
        // Who asks for a refresh does not want an answer that is older than the question.
        if attempt >= ALONE
            || !settings.collapse
            || self.options.wishes().mode == Mode::WriteOnly
            || contain(&core.counters, || core.policy.joins(&self.request, missed.conditions.is_some())) != Some(true)
        {
            return Role::Alone;
        }
        let Missed { mark, found, .. } = missed;
        self.shared.core.flights.join(&found.key, may_look.then_some(*mark), attempt > 0, found.generation)
    }

    /// Waits for another's call, and takes part in what it brings; or says which attempt comes next.
    async fn follow<RB>(
        &mut self,
        ticket: Ticket,
        key: &Key,
        fallback: Option<Arc<Entry>>,
        attempt: u32,
        may_look: bool,
    ) -> Result<Response<ResponseBody<RB>>, u32>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let start = Instant::now();
        let outcome = timeout(self.shared.settings.patience, ticket.outcome()).await;
        self.recorder.waited(start);
        match outcome {
            Ok(State::Streaming(live)) => match self.board(&live, key) {
                Some(reader) => Ok(self.collapsed(&live, reader, ticket, key)),
                None => Err(ALONE),
            },
            Ok(State::Freshened(entry)) => match entry.lifetime.ttl(self.shared.settings.clock.now()) {
                Some(_) => Ok(self.stored_after_wait(entry, key, Outcome::Collapsed)),
                // What has to be validated for each request was not validated for this one.
                None => Err(ALONE),
            },
            Ok(State::Ended(Ended::Failed)) => match fallback.filter(|entry| self.stands_in(entry)) {
                Some(entry) => Ok(self.stored_after_wait(entry, key, Outcome::Stale(Stale::IfError))),
                // One of those who waited takes over. If that fails too, the rest go upstream on their own.
                None => Err(attempt + 1),
            },
            Ok(State::Ended(Ended::Elsewhere)) if may_look => Err(attempt),
            Ok(State::Pending | State::Ended(Ended::NotShared | Ended::Elsewhere)) | Err(_) => Err(ALONE),
        }
    }

    /// Starts a refresh in the background, unless one runs or one has just failed.
    fn refresh<B>(&self, question: Question, found: Found, entry: Arc<Entry>, body: Whole)
    where
        S: Upstream<B>,
        B: Upload,
    {
        if self.options.wishes().mode == Mode::ReadOnly || self.shared.core.tasks.is_closed() {
            return;
        }
        if let Role::Lead(lead) = self.shared.core.flights.join(&found.key, None, false, found.generation) {
            let (policy, mut request) = (&self.shared.core.policy, self.request.clone());
            let conditions = match contain(&self.shared.core.counters, || {
                policy.refreshing(&mut request);
                // What would be asked if it were no longer to be served at all.
                let moment = Moment { now: entry.lifetime.expires(), ..self.shared.settings.moment() };
                policy.reuse(&request, &self.options, &entry, moment)
            }) {
                Some(Reuse::Validate { conditions, .. }) => Some(Box::new(conditions)),
                _ => None,
            };
            let asked = Arc::new(head_of(&request));
            let found = Found { entry: Some(entry), ..found };
            self.fill(lead, request, asked, body, question, found, conditions, false, Arc::default()).spawn(self.inner.clone(), None);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one struct, from two places")]
    fn fill(
        &self,
        lead: Lead,
        request: request::Parts,
        asked: Arc<request::Parts>,
        body: Whole,
        question: Question,
        found: Found,
        conditions: Option<Box<HeaderMap>>,
        withhold_failure: bool,
        tab: Arc<Tab>,
    ) -> Fill<St, P> {
        Fill {
            shared: self.shared.clone(),
            lead,
            request,
            asked,
            body,
            options: self.options.clone(),
            identity: question,
            found,
            conditions: conditions.filter(|conditions| !conditions.is_empty()),
            withhold_failure,
            waited: Duration::ZERO,
            lease: None,
            tab: Settling(tab),
        }
    }
}

impl<S, St, P> Flow<S, St, P>
where
    P: Policy,
{
    /// Goes aboard of another's call, if its answer is one to this request too.
    fn board(&self, live: &Live, primary: &Key) -> Option<Reader> {
        if let Some((fields, key)) = &live.vary {
            let envelope = &self.shared.settings.envelope;
            let own = contain(&self.shared.core.counters, || self.shared.core.policy.variant(envelope, primary, &self.request, fields));
            if own.flatten() != Some(*key) {
                return None;
            }
        }
        live.tape.read()
    }

    /// The answer from the store.
    fn stored<RB>(&mut self, entry: Arc<Entry>, key: &Key, outcome: Outcome, now: SystemTime) -> Response<ResponseBody<RB>>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let age = entry.lifetime.age(now);
        let upstream_status = matches!(outcome, Outcome::Revalidated(_)).then_some(StatusCode::NOT_MODIFIED);
        let (ttl, stale_for) = (entry.lifetime.ttl_at(age), entry.lifetime.staleness_at(age));
        let status = CacheStatus { key: Some(*key), age: Some(age), ttl, stale_for, upstream_status, ..CacheStatus::of(outcome) };
        let mut answer = Replay { status: entry.status, headers: entry.headers.clone(), body: None };
        set_age(age, &mut answer.headers);
        // A panic leaves it as it was stored.
        let _ = contain(&self.shared.core.counters, || self.shared.core.policy.replay(&self.request, &entry, &mut answer));

        let saved = self.recorder.replay(&self.request, &entry);
        if self.shared.settings.cost_headers {
            tell_cost(saved, &mut answer.headers);
        }
        let head = Head { status: answer.status, version: self.request.version, headers: answer.headers };
        let recorder = self.answered(outcome, answer.status);
        let body = match answer.body {
            None => ResponseBody::stored(entry, recorder),
            Some(part) => ResponseBody::part(part, entry.lifetime, recorder),
        };
        let room = self.room();
        respond(&self.shared.settings, head, room, status, body)
    }

    /// The answer from the store, when time has passed since the look-up.
    fn stored_after_wait<RB>(&mut self, entry: Arc<Entry>, key: &Key, outcome: Outcome) -> Response<ResponseBody<RB>>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let now = self.shared.settings.clock.now();
        self.stored(entry, key, outcome, now)
    }

    /// The answer from upstream, to the one who asked.
    #[allow(clippy::too_many_arguments, reason = "the parts of one answer, from one place")]
    fn live<RB>(
        &mut self,
        head: response::Parts,
        upstream: StatusCode,
        reader: Reader,
        ticket: Ticket,
        key: &Key,
        why: Miss,
        storing: bool,
    ) -> Response<ResponseBody<RB>>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let outcome = Outcome::Miss(why);
        let status = CacheStatus { key: Some(*key), storing, upstream_status: Some(upstream), ..CacheStatus::of(outcome) };
        let recorder = self.answered(outcome, head.status);
        let mut response = Response::from_parts(head, ResponseBody::reading(reader, ticket, recorder));
        tell(&self.shared.settings, status, &mut response);
        response
    }

    /// The answer from upstream, to one who joined.
    fn collapsed<RB>(&mut self, live: &Live, reader: Reader, ticket: Ticket, key: &Key) -> Response<ResponseBody<RB>>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let outcome = if live.elsewhere { Outcome::CollapsedElsewhere } else { Outcome::Collapsed };
        let status = CacheStatus { key: Some(*key), storing: live.lifetime.is_some(), ..CacheStatus::of(outcome) };
        self.recorder.join(&live.tab);
        let recorder = self.answered(outcome, live.head.status);
        let mut head = live.head.clone();
        if self.shared.settings.cost_headers {
            tell_cost(None, &mut head.headers);
        }
        let room = self.room();
        respond(&self.shared.settings, head, room, status, ResponseBody::reading(reader, ticket, recorder))
    }

    /// A 504: there is no stored answer for one who wanted one (RFC 9111 section 5.2.1.7), or none that may be served without an upstream that
    /// does not answer (section 5.2.2.2).
    fn timed_out<RB>(&mut self, outcome: Outcome) -> Response<ResponseBody<RB>>
    where
        RB: Body,
        RB::Error: Into<BoxError>,
    {
        let head = Head { status: StatusCode::GATEWAY_TIMEOUT, version: self.request.version, headers: HeaderMap::new() };
        let recorder = self.answered(outcome, head.status);
        let room = self.room();
        respond(&self.shared.settings, head, room, CacheStatus::of(outcome), ResponseBody::empty(recorder))
    }

    /// Room for the extensions of the answer: that of the request's, which nobody needs any more.
    fn room(&mut self) -> Extensions {
        let mut room = std::mem::take(&mut self.request.extensions);
        room.clear();
        room
    }

    /// The head of the answer is there; the record of the request goes on with the body.
    fn answered(&mut self, outcome: Outcome, status: StatusCode) -> Recorder {
        self.recorder.outcome(outcome);
        self.recorder.head(status);
        self.recorder.take()
    }
}

impl<S, St, P> Flow<S, St, P>
where
    St: Store,
    P: Policy,
{
    /// Removes what the response to a watched request makes invalid, in a task of its own: it is done even if the caller leaves.
    fn invalidate_by(&self, response: &response::Parts) -> Option<JoinHandle<()>> {
        let Shared { core, settings } = &self.shared;
        let invalid = contain(&core.counters, || core.policy.invalidates(&settings.envelope, &self.request, &self.options, response));
        let Invalidation { keys, selections } = invalid.unwrap_or_default();
        if keys.is_empty() && selections.is_empty() {
            return None;
        }
        let task = self.shared.clone();
        Some(core.tasks.spawn(async move {
            let Core { store, flights, stop, .. } = &*task.core;
            let removing = async {
                // All at once: a store that does not answer holds the caller up for one deadline.
                join_all(keys.iter().map(async |key| {
                    // Those who come from now on are not to join a call that began before.
                    flights.detach(key);
                    task.attempt("remove", store.remove(key)).await;
                    flights.detach(key);
                }))
                .await;
                for selection in selections {
                    flights.detach_all();
                    task.attempt("remove", store.remove_where(&selection)).await;
                    flights.detach_all();
                }
            };
            // Shutting down, the store is given no more than the bound that the rest has.
            stop.run_until_cancelled(removing).await;
        }))
    }
}
