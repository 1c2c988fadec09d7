//! What the binary form of a record costs: 8 KB of JSON in one frame, and 8 KB of events in 32.
//!
//! `cargo bench --bench record`

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_response_cache::{
    entry::{Entry, Frames, Lifetime, Metadata, Record, Usage, record::Codec},
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
        labels: vec![("model".into(), "gpt-4o-mini".into())],
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
}

criterion_group!(benches, record);
criterion_main!(benches);
