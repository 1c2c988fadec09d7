//! A simulated provider, so that the router answers without an API key.
//!
//! It speaks the dialects of OpenAI (chat and text completions, Responses, embeddings, models), Anthropic (Messages) and Gemini
//! (`generateContent`, `streamGenerateContent`) as the real ones do: JSON and streams, usage, identifiers, headers, errors, and the time that a
//! model takes. What it says is made up: words that depend on the question and on chance. No two answers are the same, so a caller sees at once
//! which answer came out of a cache.
//!
//! Tokens are estimated as [`prompt`] describes; usage and pace both count in them.
//!
//! # Faults
//!
//! A model whose name is one of these, or ends in it (`gpt-4o-sim-cut`), does what it says in every dialect:
//!
//! | model | what happens |
//! |---|---|
//! | `sim-error-429`, `sim-error-500`, any `sim-error-{4xx or 5xx}` | that status, with an error body |
//! | `sim-error-in-stream` | a 200 that turns into an error: the stream half-way, a document at once |
//! | `sim-cut` | half an answer, and then the body ends as if all were well: no terminal event, no closing brace |
//! | `sim-refusal` | the model declines: `content_filter`, `response.incomplete`, `stop_reason: refusal`, `promptFeedback.blockReason` |
//! | `sim-empty` | a complete answer without a word in it |

// Every program that includes this module uses a part of it.
#![allow(dead_code)]

mod anthropic;
mod body;
mod chat;
mod embeddings;
mod fault;
mod fields;
mod gemini;
mod head;
mod json;
mod models;
mod pace;
mod problem;
mod prompt;
mod prose;
mod responses;
mod route;
mod script;

use std::{
    convert::Infallible,
    fmt::Display,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tower::Service;

pub(crate) use self::{body::SimBody, pace::Pace};
use self::{
    fault::Fault,
    head::Head,
    problem::Problem,
    route::{Endpoint, Route},
    script::{Call, Script},
};

/// Requests with more than this many bytes are refused.
const BODY_LIMIT: usize = 16 << 20;

/// The simulated provider. Clones are the same provider.
#[derive(Clone, Debug)]
pub(crate) struct Simulator {
    pace: Pace,
    seed: u64,
    calls: Arc<AtomicU64>,
}

impl Simulator {
    /// A provider that speaks at this pace. Its answers are new with every process.
    pub(crate) fn new(pace: Pace) -> Self {
        Self::with_seed(pace, fastrand::u64(..))
    }

    /// A provider whose n-th answer is the same as the n-th of another one with this seed, if the question is. Only times differ.
    pub(crate) fn with_seed(pace: Pace, seed: u64) -> Self {
        Self { pace, seed, calls: Arc::default() }
    }

    /// How many requests came in, whatever became of them.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn answer<B>(self, request: Request<B>) -> Response<SimBody>
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        let route = Route::of(&parts);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut call = Call { rng: Rng::with_seed(self.seed.wrapping_add(number)), fault: None, created };
        let mut head = Head::new(route.dialect, number, &mut call);
        match self.script(&route, &parts, body, &mut call).await {
            Ok(script) => self.perform(script, head, &mut call.rng).await,
            Err(problem) => head.problem(&problem, route.allow),
        }
    }

    async fn script<B>(&self, route: &Route<'_>, parts: &request::Parts, body: B, call: &mut Call) -> Result<Script, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: Display,
    {
        let endpoint = route.endpoint(&parts.method)?;
        match endpoint {
            Endpoint::Models => return Ok(models::list(route.dialect)),
            Endpoint::Model(id) => return models::one(route.dialect, id),
            _ => {}
        }
        let body: Value = serde_json::from_slice(&collect(body).await?).map_err(Problem::malformed)?;
        if !body.is_object() {
            return Err(Problem::malformed("expected an object"));
        }
        let model = match endpoint {
            Endpoint::Gemini(model, _) => Some(model),
            _ => body.get("model").and_then(Value::as_str),
        };
        call.fault = model.and_then(Fault::of);
        let script = match endpoint {
            Endpoint::Chat => chat::chat(call, &body),
            Endpoint::Completions => chat::completions(call, &body),
            Endpoint::Embeddings => embeddings::embeddings(call, &body),
            Endpoint::Responses => responses::responses(call, &body),
            Endpoint::Messages => anthropic::anthropic(call, &parts.headers, &body),
            Endpoint::Gemini(model, delivery) => gemini::gemini(call, model, delivery, &body),
            Endpoint::Models | Endpoint::Model(_) => unreachable!("answered above"),
        }?;
        match call.fault {
            Some(Fault::Status(status)) => Err(Problem::ordered(status)),
            _ => Ok(script),
        }
    }

    /// Speaks: a stream from its first token on, a document when its last token is there.
    async fn perform(&self, script: Script, mut head: Head, rng: &mut Rng) -> Response<SimBody> {
        let tokens = script.frames.iter().map(|(tokens, _)| *tokens).max().unwrap_or(0);
        let Some(schedule) = self.pace.schedule(tokens, rng) else {
            return head.script(script, Duration::ZERO, |_| None);
        };
        let start = Instant::now();
        let wait = if script.streamed { schedule[0] } else { schedule[tokens] };
        sleep_until(start + wait).await;
        head.script(script, wait, |tokens| Some(start + schedule[tokens]))
    }
}

impl<B> Service<Request<B>> for Simulator
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Display,
{
    type Response = Response<SimBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<SimBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

/// Whose manners an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

/// The whole body, if it is not too large.
async fn collect<B>(body: B) -> Result<BytesMut, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Problem::other(StatusCode::BAD_REQUEST, None, format!("We could not read the body of your request: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > BODY_LIMIT {
            return Err(Problem::other(StatusCode::PAYLOAD_TOO_LARGE, None, "Request exceeds the maximum size of 16 MiB."));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}
