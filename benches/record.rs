//! What the binary form of a record costs: 8 KB of JSON in one frame, and 8 KB of events in 32; plain, compressed and sealed.
//!
//! `cargo bench --bench record`

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_response_cache::{
    entry::{
        Entry, Frames, Lifetime, Metadata, Record, Usage,
        record::{Codec, Compression, SealKeys},
    },
    key::Key,
};

const LEN: usize = 8 << 10;
const KEY: Key = Key::from_bytes([7; 32]);

/// An LLM's answer, with the fields that its providers send.
fn entry(content_type: &'static str, body: Frames) -> Entry {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", content_type),
        ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("server", "cloudflare"),
        ("openai-version", "2020-10-01"),
        ("openai-processing-ms", "812"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("x-content-type-options", "nosniff"),
        ("cf-cache-status", "DYNAMIC"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let metadata = Metadata {
        request_id: Some("0189f7a0-3c1b-7cc0-9d57-6e7a2f6f3c11".into()),
        provider: Some("openai".into()),
        model: Some("gpt-4o-mini-2024-07-18".into()),
        cached_at: Some(since),
        upstream_time: Duration::from_millis(2400),
        upstream_first_byte: Duration::from_millis(310),
        usage: Some(Usage { input_uncached: 120, output: 700, ..Usage::default() }),
        labels: vec![("model".into(), "gpt-4o-mini".into())].into(),
        ..Metadata::default()
    };
    Entry { status: StatusCode::OK, headers, body, trailers: None, lifetime: Lifetime::fresh(since, Duration::from_secs(3600)), metadata }
}

fn record(criterion: &mut Criterion) {
    let codec = Codec::new(1 << 20);
    let mut group = criterion.benchmark_group("record, 8 KB");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(LEN as u64));
    let json = entry("application/json", Bytes::from(vec![b'x'; LEN]).into());
    let events = entry("text/event-stream", Frames::new((0..32).map(|_| Bytes::from(vec![b'x'; LEN / 32]))));
    for (name, entry) in [("JSON", json), ("32 events", events)] {
        let record = Record::Response(Arc::new(entry));
        let bytes = codec.encode(&KEY, &record).map(Bytes::from).expect("it is within all bounds");
        assert_eq!(codec.decode(&KEY, bytes.clone()).expect("it was just encoded"), record);
        group.bench_function(format!("encode, {name}"), |bencher| bencher.iter(|| codec.encode(&KEY, black_box(&record))));
        group.bench_function(format!("decode, {name}"), |bencher| bencher.iter(|| codec.decode(&KEY, black_box(&bytes).clone())));
        group.bench_function(format!("list, {name}"), |bencher| bencher.iter(|| codec.listing(&KEY, &black_box(&bytes)[..Codec::PREFIX])));
    }
    group.finish();
    packed(criterion);
}

/// What compression and sealing cost, on text that looks like an answer.
fn packed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packed record");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let words: Vec<&str> = include_str!("../CONTRIBUTING.md").split_whitespace().collect();
    let mut pick = fastrand::Rng::with_seed(7);
    let mut prose = |len: usize| {
        let mut text = String::new();
        while text.len() < len {
            text.push_str(words[pick.usize(..words.len())]);
            text.push(' ');
        }
        text
    };
    let json = |text: &str| entry("application/json", Bytes::from(format!("{{\"choices\":[{{\"content\":{text:?}}}]}}")).into());
    let events = |text: &str, len: usize| {
        let event = |word: &str| {
            Bytes::from(format!(
                "data: {{\"id\":\"chatcmpl-AbC123\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{word} \"}},\"finish_reason\":null}}]}}\n\n"
            ))
        };
        entry(
            "text/event-stream",
            Frames::new(text.split_whitespace().filter(|word| !word.contains(['"', '\\'])).map(event).take(len / 190)),
        )
    };
    let key = [1; 32];
    for (name, entry) in [
        ("8 KB JSON", json(&prose(8 << 10))),
        ("64 KB JSON", json(&prose(64 << 10))),
        ("8 KB events", events(&prose(8 << 10), 8 << 10)),
        ("64 KB events", events(&prose(64 << 10), 64 << 10)),
    ] {
        let record = Record::Response(Arc::new(entry));
        let plain = Codec::new(1 << 20);
        let len = plain.encode(&KEY, &record).expect("it is within all bounds").len();
        for (how, codec) in [
            ("plain", plain.clone()),
            ("compressed", plain.clone().compression(Compression::From(0))),
            ("sealed", plain.clone().seal(SealKeys::new(1, key))),
        ] {
            let bytes = codec.encode(&KEY, &record).map(Bytes::from).expect("it is within all bounds");
            println!("{name}, {how}: {} of {len} bytes, {:.1}x", bytes.len(), len as f64 / bytes.len() as f64);
            group.bench_function(format!("encode, {name}, {how}"), |bencher| bencher.iter(|| codec.encode(&KEY, black_box(&record))));
            group
                .bench_function(format!("decode, {name}, {how}"), |bencher| bencher.iter(|| codec.decode(&KEY, black_box(&bytes).clone())));
        }
    }
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
