//! What it costs to look at an answer while it goes by: per frame of an event stream, and per document.
//!
//! `cargo bench --bench inspect`

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{Request, Response};
use tower_response_cache::{
    inspect::{Findings, Inspect, Inspector},
    llm::Dialects,
};

const FRAMES: u64 = 1000;

fn begin(dialects: &Dialects, content_type: &str, length: Option<usize>) -> Box<dyn Inspector> {
    let request = Request::post("http://origin/").body(()).unwrap().into_parts().0;
    let mut response = Response::builder().header("content-type", content_type);
    if let Some(length) = length {
        response = response.header("content-length", length);
    }
    dialects.begin(&request, &response.body(()).unwrap().into_parts().0).unwrap()
}

fn look<'f>(content_type: &str, length: Option<usize>, frames: impl IntoIterator<Item = &'f [u8]>) -> Findings {
    let mut inspector = begin(&Dialects::new(), content_type, length);
    for frame in frames {
        inspector.frame(black_box(frame));
    }
    inspector.end()
}

/// A chat stream of frames of about 260 bytes, one event each.
fn chat(more: &str) -> Vec<String> {
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"data: {{"id":"chatcmpl-CWq2uDkQZLm8vJpN4s7eT1xR0bYcH","object":"chat.completion.chunk","created":1761904321,"model":"gpt-4o-mini-2024-07-18","system_fingerprint":"fp_560af6e559","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{more}}}"#
        ) + "\n\n"
    };
    let words = ["The", " first", " lighthouse", " stood", " at", " Alexandria", ",", " \\\"Pharos\\\""];
    let first = chunk(r#"{"role":"assistant","content":""}"#, "null");
    let middle = (0..FRAMES as usize).map(|n| chunk(&format!(r#"{{"content":"{}"}}"#, words[n % words.len()]), "null"));
    std::iter::once(first).chain(middle).chain([chunk("{}", "\"stop\""), "data: [DONE]\n\n".to_owned()]).collect()
}

fn anthropic() -> Vec<String> {
    let golden = include_str!("../tests/golden/llm/anthropic.sse.txt");
    let events = golden.split_inclusive("\n\n").map(str::to_owned);
    let (delta, others): (Vec<_>, Vec<_>) = events.partition(|event| event.contains("text_delta"));
    let stop = others.iter().position(|event| event.contains("message_delta")).unwrap();
    let many = std::iter::repeat_n(delta[0].clone(), FRAMES as usize);
    others[..stop].iter().cloned().chain(many).chain(others[stop..].iter().cloned()).collect()
}

fn document(bytes: usize) -> String {
    let text = "A lighthouse is a tower with a light, and \\\"Pharos\\\" was the first of them.\\n".repeat(bytes / 80);
    format!(
        r#"{{"id":"chatcmpl-CWqAd9fKs","object":"chat.completion","created":1761904700,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}}}"#
    )
}

fn embeddings(vectors: usize) -> String {
    let vector = vec!["-0.0069292834"; 1536].join(",");
    let item = format!(r#"{{"object":"embedding","index":0,"embedding":[{vector}]}}"#);
    let data = vec![item; vectors].join(",");
    format!(r#"{{"object":"list","data":[{data}],"model":"text-embedding-3-small","usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#)
}

fn inspect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream, per frame");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).throughput(Throughput::Elements(FRAMES));
    let mut stream = |name: &str, frames: &[String], cut: usize| {
        let longest = frames.iter().map(String::len).max().unwrap_or(0);
        let text = frames.concat();
        let pieces: Vec<&[u8]> =
            if cut == 0 { frames.iter().map(|frame| frame.as_bytes()).collect() } else { text.as_bytes().chunks(cut).collect() };
        let found = look("text/event-stream", None, pieces.iter().copied());
        assert!(found.proven && found.objection.is_none(), "{found:?}");
        group.bench_function(format!("{name} ({longest} B)"), |bencher| {
            bencher.iter(|| look("text/event-stream", None, pieces.iter().copied()));
        });
    };
    stream("chat", &chat(""), 0);
    stream("chat, obfuscated", &chat(r#","usage":null,"obfuscation":"Kq2""#), 0);
    stream("chat, with usage in every chunk", &chat(r#","usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}"#), 0);
    stream("chat, cut every 100 bytes", &chat(""), 100);
    stream("chat, in pieces of 16 KB", &chat(""), 16 << 10);
    stream("anthropic", &anthropic(), 0);
    group.finish();

    let mut group = criterion.benchmark_group("document");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (name, text) in [("chat, 8 KB", document(8 << 10)), ("embeddings, 64 vectors", embeddings(64))] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        for (how, length) in [("length known", Some(text.len())), ("chunked", None)] {
            assert!(look("application/json", length, [text.as_bytes()]).usage.is_some());
            group.bench_function(format!("{name}, {how}"), |bencher| {
                bencher.iter(|| look("application/json", length, [text.as_bytes()]));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, inspect);
criterion_main!(benches);
