//! An upstream whose answers prove what they are: each ends with a digest of a secret, its question, its length, and all before.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub number: usize,
    pub streamed: bool,
}

/// So many models share the questions.
pub const MODELS: usize = 10;

impl Question {
    pub fn model(self) -> usize {
        self.number % MODELS
    }

    pub fn body(self) -> String {
        let Self { number, streamed } = self;
        format!(r#"{{"model":"load-{}","stream":{streamed},"messages":[{{"role":"user","content":"question {number}"}}]}}"#, self.model())
    }

    fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let content = body.pointer("/messages/0/content")?.as_str()?;
        Some(Self { number: content.strip_prefix("question ")?.parse().ok()?, streamed: body["stream"].as_bool()? })
    }
}

/// Calls that reached the upstream.
#[derive(Clone, Default)]
pub struct Calls(Arc<AtomicU64>);

impl Calls {
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Upstream {
    address: SocketAddr,
    calls: Calls,
}

impl Upstream {
    pub async fn start(start: Instant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Calls::default();
        tokio::spawn({
            let calls = calls.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).ok();
                    let calls = calls.clone();
                    let service = service_fn(move |request| answer(start, calls.clone(), request));
                    tokio::spawn(
                        async move { Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok() },
                    );
                }
            }
        });
        Self { address, calls }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(start: Instant, calls: Calls, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    calls.0.fetch_add(1, Ordering::Relaxed);
    let asked = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Some(question) = Question::read(&asked) else {
        let mut refused = Response::new(StreamBody::new(tokio_stream::empty()).boxed_unsync());
        *refused.status_mut() = http::StatusCode::BAD_REQUEST;
        return Ok(refused);
    };
    // As providers do, some answers take their time to begin.
    sleep(Duration::from_millis(fastrand::u64(2..60))).await;
    let frames = frames(question, start.elapsed());
    let length: usize = frames.iter().map(Bytes::len).sum();
    let mut response = Response::builder();
    response = if question.streamed {
        response.header(header::CONTENT_TYPE, "text/event-stream")
    } else {
        response.header(header::CONTENT_TYPE, "application/json").header(header::CONTENT_LENGTH, length)
    };
    let (feed, fed) = mpsc::channel(4);
    tokio::spawn(async move {
        for frame in frames {
            if feed.send(Ok(Frame::data(frame))).await.is_err() {
                return;
            }
            if question.streamed {
                sleep(Duration::from_millis(fastrand::u64(..10))).await;
            }
        }
    });
    Ok(response.body(StreamBody::new(ReceiverStream::new(fed)).boxed_unsync()).unwrap())
}

const SIGNED: &str = "\"sig\":\"";

/// What comes after the signature.
const fn end_of(streamed: bool) -> &'static str {
    if streamed { "\"}\n\ndata: [DONE]\n\n" } else { "\"}" }
}

/// An answer, piece by piece. No two are the same.
fn frames(question: Question, made: Duration) -> Vec<Bytes> {
    let Question { number, streamed } = question;
    let (nonce, made) = (fastrand::u64(..), made.as_millis());
    let about = format!(r#""id":"chatcmpl-{nonce:x}","created":1800000000,"model":"load-{}""#, question.model());
    let told = format!(r#""question":{number},"streamed":{streamed},"made":{made}"#);
    let usage = r#""usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30}"#;
    let mut frames = Vec::new();
    if streamed {
        for piece in 0..fastrand::usize(3..30) {
            let text = filler(fastrand::usize(8..400));
            frames.push(format!(
                r#"data: {{{about},"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{"content":"{piece} {text}"}},"finish_reason":null}}]}}{}"#,
                "\n\n"
            ));
        }
        frames.push(format!(
            r#"data: {{{about},"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}{}"#,
            "\n\n"
        ));
        frames.push(format!(r#"data: {{{about},"object":"chat.completion.chunk","choices":[],{usage},{told},"#));
    } else {
        // Some are longer than what Redis is asked for at first.
        let text = filler(if fastrand::u8(..16) == 0 { fastrand::usize(60_000..150_000) } else { fastrand::usize(100..8000) });
        frames.push(format!(
            r#"{{{about},"object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],{usage},{told},"#
        ));
    }
    let signed: usize = frames.iter().map(String::len).sum();
    let length = signed + SIGNED.len() + 64 + end_of(streamed).len();
    let signature = sign(question, length, frames.iter().map(String::as_bytes));
    let last = frames.pop().unwrap_or_default();
    frames.push(format!("{last}{SIGNED}{signature}{}", end_of(streamed)));
    frames.into_iter().map(Bytes::from).collect()
}

fn filler(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

fn sign<'a>(Question { number, streamed }: Question, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("the secret of this run {number} {streamed} {length} "));
    parts.for_each(|part| digest.update(part));
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an answer proves to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The answer to the question, made so many milliseconds after the start.
    Whole(u64),
    /// The beginning of one.
    Truncated,
    /// An answer to another question.
    Foreign,
    /// None at all.
    Wrong,
}

pub fn prove(question: Question, body: &[u8]) -> Proof {
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(_) => return Proof::Wrong,
    };
    let told = |name: &str| {
        let (_, after) = text.rsplit_once(&format!("\"{name}\":"))?;
        after.split(',').next()
    };
    let claimed = told("question").and_then(|number| number.parse().ok()).zip(told("streamed").and_then(|streamed| streamed.parse().ok()));
    let claimed = claimed.map(|(number, streamed)| Question { number, streamed });
    let is_signed = |by: Question| {
        let signed = text.strip_suffix(end_of(by.streamed)).and_then(|text| text.rsplit_once(SIGNED));
        signed.is_some_and(|(signed, signature)| signature == sign(by, body.len(), std::iter::once(signed.as_bytes())))
    };
    match claimed {
        Some(claimed) if is_signed(claimed) && claimed != question => Proof::Foreign,
        Some(claimed) if is_signed(claimed) => told("made").and_then(|made| made.parse().ok()).map_or(Proof::Wrong, Proof::Whole),
        _ if !text.ends_with(end_of(question.streamed)) => Proof::Truncated,
        _ => Proof::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_prove_what_they_are() {
        for streamed in [false, true] {
            let question = Question { number: 7, streamed };
            let body = frames(question, Duration::from_millis(1234)).concat();
            assert_eq!(prove(question, &body), Proof::Whole(1234));
            assert_eq!(prove(Question { number: 8, streamed }, &body), Proof::Foreign);
            assert_eq!(prove(Question { number: 7, streamed: !streamed }, &body), Proof::Foreign);
            assert_eq!(prove(question, &body[..body.len() / 2]), Proof::Truncated);
            let mut bad = body.clone();
            bad[60] ^= 1;
            assert_eq!(prove(question, &bad), Proof::Wrong);
            assert_eq!(prove(question, &[&body[..100], &body[101..]].concat()), Proof::Wrong);
        }
    }
}
