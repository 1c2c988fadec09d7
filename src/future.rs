use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, request};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{Service, util::Oneshot};

use crate::{
    answer::{self, Answer},
    body::RequestBody,
    error::BoxError,
    flow::{Rest, Step},
    observe::{Ending, Recorder},
    policy::Bypass,
    shared::Settings,
};

pin_project! {
    /// The response of a [`Cache`](crate::Cache), to come.
    pub struct ResponseFuture<S, B, RB>
    where
        S: Service<Request<RequestBody<B>>>,
        B: Body,
    {
        #[pin]
        kind: Kind<S, B, RB, S::Error>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<S, B, RB, E>
    where
        S: Service<Request<RequestBody<B>>>,
        B: Body,
    {
        // What bypasses the cache allocates nothing.
        Pass {
            #[pin]
            call: Oneshot<S, Request<RequestBody<B>>>,
            settings: Arc<Settings>,
            asked: Option<Box<request::Parts>>,
            reason: Bypass,
            recorder: Option<Recorder>,
        },
        Flow { flow: Pin<Box<dyn Future<Output = Step<RB, E>> + Send>> },
        Rest { rest: Rest<RB, E> },
    }
}

impl<S, B, RB> ResponseFuture<S, B, RB>
where
    S: Service<Request<RequestBody<B>>>,
    B: Body,
{
    pub(crate) fn pass(
        call: Oneshot<S, Request<RequestBody<B>>>,
        settings: Arc<Settings>,
        asked: Option<Box<request::Parts>>,
        reason: Bypass,
        recorder: Recorder,
    ) -> Self {
        Self { kind: Kind::Pass { call, settings, asked, reason, recorder: Some(recorder) } }
    }

    pub(crate) fn flow(flow: impl Future<Output = Step<RB, S::Error>> + Send + 'static) -> Self {
        Self { kind: Kind::Flow { flow: Box::pin(flow) } }
    }

    pub(crate) fn rest(rest: impl Future<Output = Answer<RB, S::Error>> + Send + 'static) -> Self {
        Self { kind: Kind::Rest { rest: Box::pin(rest) } }
    }
}

impl<S, B, RB> Future for ResponseFuture<S, B, RB>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>>,
    B: Body,
    RB: Body,
    RB::Error: Into<BoxError>,
{
    type Output = Answer<RB, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut kind = self.project().kind;
        if let KindProjection::Flow { flow } = kind.as_mut().project() {
            match ready!(flow.as_mut().poll(cx)) {
                Step::Done(answer) => return Poll::Ready(answer),
                Step::On(rest) => kind.set(Kind::Rest { rest }),
            }
        }
        match kind.project() {
            KindProjection::Pass { call, settings, asked, reason, recorder } => {
                let answer = ready!(call.poll(cx));
                let Some(mut recorder) = recorder.take() else { unreachable!("a future is not polled after it is ready") };
                Poll::Ready(match answer {
                    Ok(response) => Ok(answer::passed(settings, asked.take(), response, *reason, recorder)),
                    Err(error) => {
                        recorder.end(Ending::Failed);
                        Err(error)
                    }
                })
            }
            KindProjection::Rest { rest } => rest.as_mut().poll(cx),
            KindProjection::Flow { .. } => unreachable!("a flow that has come to an end has an answer, or a rest"),
        }
    }
}

impl<S, B, RB> fmt::Debug for ResponseFuture<S, B, RB>
where
    S: Service<Request<RequestBody<B>>>,
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture(..)")
    }
}
