//! What a key costs, beside the bare SHA-256 of the same body and the usual way through a tree, in one run.
//!
//! `cargo bench --bench key`; the table at the end has microseconds, and how often the bare hash would fit into them.

#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tower_response_cache::{ApiPolicy, CacheLayer, Handle, Sharing, key::json, store::Memory};

const TURN: &str = "Tell me about the history of the lighthouse.\\nWas it \\\"always\\\" on that rock, and who lit it first?";

/// A conversation of about `size` bytes, members in the order in which clients write them.
fn chat(size: usize, turn: &str, tools: &str) -> String {
    let mut body = format!(r#"{{"model":"gpt-4o-mini","messages":[{{"role":"system","content":"{turn}"}}"#);
    while body.len() + tools.len() + 2 * turn.len() < size {
        let role = if body.len() % 2 == 0 { "user" } else { "assistant" };
        write!(body, r#",{{"role":"{role}","content":"{turn}"}}"#).unwrap();
    }
    body + "]," + tools + r#""temperature":0.7,"top_p":1,"max_tokens":1024,"seed":9007199254740993,"stream":true}"#
}

fn tools(count: usize) -> String {
    let tool = |i| {
        format!(
            r#"{{"type":"function","function":{{"name":"lookup_{i}","description":"Finds a lighthouse by its name.","parameters":{{"type":"object","properties":{{"name":{{"type":"string","description":"as on the chart"}},"limit":{{"type":"integer","minimum":1,"maximum":50}},"coast":{{"type":"string","enum":["north","south","east","west"]}}}},"required":["name"],"additionalProperties":false}},"strict":true}}}}"#
        )
    };
    format!(r#""tools":[{}],"tool_choice":"auto","#, (0..count).map(tool).collect::<Vec<_>>().join(","))
}

fn request(body: &Bytes) -> Request<Bytes> {
    let request = Request::post("https://api.example/v1/chat/completions");
    request.header("content-type", "application/json").header("authorization", "Bearer one").body(body.clone()).unwrap()
}

fn handle(canonical: bool) -> Handle<Memory, ApiPolicy> {
    CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential).canonical_json(canonical)).handle()
}

fn canonical(body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    assert_eq!(json::canonicalize(body, &json::Options::default(), out, &mut |_, _| {}), json::Form::Canonical);
}

thread_local! {
    /// The quickest round of each way over each body.
    static TABLE: RefCell<Vec<(String, &'static str, Duration)>> = const { RefCell::new(Vec::new()) };
}

fn measure<R>(criterion: &mut Criterion, name: &str, body: &Bytes, way: &'static str, mut run: impl FnMut() -> R) {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(700)).sample_size(50);
    group.throughput(Throughput::Bytes(body.len() as u64));
    let mut best = Duration::MAX;
    group.bench_function(way, |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(run());
            }
            let elapsed = start.elapsed();
            best = best.min(elapsed.div_f64(rounds as f64));
            elapsed
        });
    });
    group.finish();
    TABLE.with_borrow_mut(|table| table.push((name.to_owned(), way, best)));
}

fn keys(criterion: &mut Criterion) {
    let turn = TURN.repeat(4);
    let bodies = [
        ("1 KB chat", chat(1 << 10, TURN, "")),
        ("4 KB", chat(4 << 10, &turn, "")),
        ("4 KB with tools", chat(4 << 10, TURN, &tools(6))),
        ("64 KB", chat(64 << 10, &turn, &tools(6))),
    ];
    for (name, body) in bodies {
        let body = Bytes::from(body);
        let request = request(&body);
        let mut out = Vec::new();
        measure(criterion, name, &body, "SHA-256 of the raw bytes", || Sha256::digest(&body));
        measure(criterion, name, &body, "canonical form alone", || canonical(&body, &mut out));
        measure(criterion, name, &body, "canonical form, SHA-256", || {
            canonical(&body, &mut out);
            Sha256::digest(&out)
        });
        let of = handle(true);
        measure(criterion, name, &body, "whole key, canonical", || of.keys(&request));
        let of = handle(false);
        measure(criterion, name, &body, "whole key, raw bytes", || of.keys(&request));
        measure(criterion, name, &body, "serde_json Value, SHA-256", || {
            let value: Value = serde_json::from_slice(&body).unwrap();
            Sha256::digest(serde_json::to_vec(&value).unwrap())
        });
    }
    table();
}

fn table() {
    let rows = TABLE.take();
    let columns: Vec<&String> = rows.iter().filter(|row| row.1 == rows[0].1).map(|row| &row.0).collect();
    println!("| us (times the bare hash) | {} |", columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for way in rows[..rows.len() / columns.len()].iter().map(|row| row.1) {
        print!("| {way} |");
        for column in &columns {
            let time = |way| rows.iter().find(|row| row.0 == **column && row.1 == way).map_or(f64::NAN, |row| row.2.as_secs_f64() * 1e6);
            print!(" {:.2} ({:.1}) |", time(way), time(way) / time(rows[0].1));
        }
        println!();
    }
}

criterion_group!(benches, keys);
criterion_main!(benches);
