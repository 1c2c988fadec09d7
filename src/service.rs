use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::{Service, ServiceExt as _};

use crate::{
    answer,
    body::{RequestBody, ResponseBody},
    error::BoxError,
    flow::Flow,
    future::ResponseFuture,
    observe::Recorder,
    options::CacheOptions,
    policy::{Admission, Bypass, Policy},
    shared::{Shared, contain},
    store::Store,
    upstream::head_of,
};

/// Answers from the cache when it can, and asks the inner service when it cannot.
///
/// It is always ready, so that answers from the cache do not depend on a service that is saturated or down: where the inner service is
/// asked, a fresh clone of it is driven to readiness within the call. Backpressure of the inner service is thus felt in the response future, not in `poll_ready`.
///
/// Errors are the inner service's own. Dropping the response future or the body at any point disturbs no other caller.
pub struct Cache<S, St, P> {
    pub(crate) inner: S,
    pub(crate) shared: Shared<St, P>,
}

impl<S, St, P> Cache<S, St, P> {
    /// The inner service.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S, St, P, B, RB> Service<Request<B>> for Cache<S, St, P>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    St: Store,
    P: Policy,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send + 'static,
    RB: Body + Send + 'static,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, RB>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let mut options = parts.extensions.remove::<CacheOptions>().unwrap_or_default();
        let mut recorder = Recorder::begin(self.shared.sink());
        let policy = &self.shared.core.policy;
        let admission = contain(&self.shared.core.counters, || policy.admit(&mut parts, &mut options));
        let admission = match self.shared.settings.restrict(admission.unwrap_or(Admission::Bypass(Bypass::Panic)), &mut options) {
            Admission::Cache if self.shared.core.tasks.is_closed() => Admission::Bypass(Bypass::Shutdown),
            admission => admission,
        };
        recorder.label(&options);
        match admission {
            Admission::Cache => {
                let deadline = contain(&self.shared.core.counters, || policy.deadline(&parts)).flatten();
                let flow = Flow::new(self.shared.clone(), self.inner.clone(), parts, options, recorder);
                match deadline {
                    None => ResponseFuture::flow(flow.run(body)),
                    Some(deadline) => {
                        ResponseFuture::rest(answer::within(deadline, Arc::clone(&self.shared.settings), Box::pin(flow.run(body))))
                    }
                }
            }
            Admission::Bypass(reason) => self.pass(parts, body, reason, recorder),
            Admission::Watch(reason) => {
                let flow = Box::new(Flow::new(self.shared.clone(), self.inner.clone(), parts, options, recorder));
                ResponseFuture::rest(flow.watch(body, reason))
            }
        }
    }
}

impl<S, St, P> Cache<S, St, P>
where
    S: Clone,
{
    fn pass<B, RB>(&self, parts: http::request::Parts, body: B, reason: Bypass, recorder: Recorder) -> ResponseFuture<S, B, RB>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<RB>>,
        B: Body,
    {
        let asked = self.shared.settings.keeps_books().then(|| Box::new(head_of(&parts)));
        let request = Request::from_parts(parts, RequestBody::untouched(body));
        ResponseFuture::pass(self.inner.clone().oneshot(request), self.shared.settings.clone(), asked, reason, recorder)
    }
}

impl<S, St, P> Clone for Cache<S, St, P>
where
    S: Clone,
{
    fn clone(&self) -> Self {
        let Self { inner, shared } = self;
        Self { inner: inner.clone(), shared: shared.clone() }
    }
}

impl<S, St, P> fmt::Debug for Cache<S, St, P>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("inner", &self.inner).finish_non_exhaustive()
    }
}
