//! What observing costs: per request and hook, per period asked for, and in Redis per day.
//!
//! `cargo bench --bench observe`. It starts a `redis-server` of its own.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

#[allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "others use the rest")]
#[path = "../tests/support/redis.rs"]
mod server;

#[allow(unreachable_pub, missing_debug_implementations, reason = "shared by benches")]
#[path = "support/call.rs"]
mod call;

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use call::{answer, recorder, request};
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    ApiPolicy, CacheLayer, Mode, Sharing,
    entry::Usage,
    llm::{Dialects, LlmPrices},
    observe::{Event, MetricsObserver, Observer, RequestRecord, analytics::Analytics},
    status::{Miss, Outcome},
    store::{Memory, Redis},
};

/// Whole requests, through layers that differ in what watches them.
fn requests(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _in = runtime.enter();
    for (kind, mode) in [("hit", Mode::ReadWrite), ("miss", Mode::WriteOnly)] {
        let mut group = criterion.benchmark_group(format!("{kind}, POST, by what watches it"));
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        let layer = |policy| CacheLayer::new(Memory::new(64 << 20), policy);
        let plain = || ApiPolicy::new(Sharing::Shared);
        let looking = || layer(plain().inspector(Dialects::new()));
        let layers = [
            ("nothing", layer(plain())),
            ("usage", looking()),
            ("usage, metrics", looking().observer(MetricsObserver::with_recorder(recorder()))),
            ("usage, prices", looking().cost(LlmPrices::embedded())),
            ("usage, prices, metrics", looking().cost(LlmPrices::embedded()).observer(MetricsObserver::with_recorder(recorder()))),
            ("usage, prices, analytics", looking().cost(LlmPrices::embedded()).observer(Analytics::builder().spawn())),
        ];
        for (name, layer) in layers {
            let cache = layer.layer(service_fn(answer));
            let ask = || async { cache.clone().oneshot(request(mode)).await.unwrap().into_body().collect().await.unwrap() };
            runtime.block_on(ask());
            group.bench_function(name, |bencher| bencher.to_async(&runtime).iter(ask));
        }
        group.finish();
    }
}

/// One record, as observers get it.
fn record() -> RequestRecord {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (told, kept) = std::sync::mpsc::channel();
    let observer = move |event: &Event<'_>| {
        if let Event::Request(record) = event {
            told.send((*record).clone()).unwrap();
        }
    };
    let policy = ApiPolicy::new(Sharing::Shared).inspector(Dialects::new());
    let layer = CacheLayer::new(Memory::new(64 << 20), policy).cost(LlmPrices::embedded()).observer(observer);
    let cache = layer.layer(service_fn(answer));
    runtime.block_on(async {
        for _ in 0..2 {
            cache.clone().oneshot(request(Mode::ReadWrite)).await.unwrap().into_body().collect().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let hit = kept.iter().take(2).last().unwrap();
    assert_eq!(hit.outcome.label(), "hit");
    hit
}

fn hooks(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _in = runtime.enter();
    let record = record();
    let mut group = criterion.benchmark_group("one record");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let metrics = MetricsObserver::with_recorder(recorder());
    group.bench_function("metrics", |bencher| bencher.iter(|| metrics.on_event(&Event::Request(black_box(&record)))));
    let prices = LlmPrices::embedded();
    let usage = Usage { input_uncached: 1200, output: 400, ..Usage::default() };
    group.bench_function("price, exact name", |bencher| {
        bencher.iter(|| prices.price(black_box("gpt-4o-mini-2024-07-18"), None, Some("default"), &usage));
    });
    group.bench_function("price, name with a date", |bencher| {
        bencher.iter(|| prices.price(black_box("gemini-2.5-pro-2026-01-01"), None, None, &usage));
    });
}

/// Makes a record one of many: of four models, two thirds hits, spread as answers are that take a tenth of a millisecond to two, or half a second to eight.
fn vary(record: &mut RequestRecord, number: u64) {
    let chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let factor = 2f64.powf((chance & 0xffff) as f64 / 65_536.0 * 4.0);
    let (outcome, least) = if number.is_multiple_of(3) { (Outcome::Miss(Miss::Absent), 500_000.0) } else { (Outcome::Hit, 120.0) };
    record.outcome = outcome;
    record.timings.total = Duration::from_micros((least * factor) as u64);
    record.model = Some(["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro"][(chance >> 16) as usize % 4].into());
}

/// Of this process, in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// Ten million requests over a day, and what asking for it takes.
fn periods(criterion: &mut Criterion) {
    const REQUESTS: u64 = 10_000_000;
    let runtime = Runtime::new().unwrap();
    let _in = runtime.enter();
    let analytics = Analytics::builder().recent(0).queue(1 << 16).spawn();
    let mut record = record();
    let now = SystemTime::now();
    let start = now - Duration::from_secs(86_400);
    let (began, mut before) = (std::time::Instant::now(), 0);
    for number in 0..REQUESTS {
        record.at = start + Duration::from_millis(number * 86_400_000 / REQUESTS);
        vary(&mut record, number);
        analytics.on_event(&Event::Request(&record));
        if number % 50_000 == 0 {
            runtime.block_on(analytics.flush());
        }
        if number == 50_000 {
            // The queue has been as long as it gets.
            before = resident();
        }
    }
    let day = runtime.block_on(analytics.period(start..now));
    assert_eq!((day.totals.requests, analytics.dropped()), (REQUESTS, 0));
    println!(
        "ten million records summed up in {:.1} s: {:.0} ns each; their sums take {:.1} MB",
        began.elapsed().as_secs_f64(),
        began.elapsed().as_nanos() as f64 / REQUESTS as f64,
        resident().saturating_sub(before) as f64 / 1e6
    );
    let mut group = criterion.benchmark_group("ten million records of a day");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.bench_function("period", |bencher| bencher.to_async(&runtime).iter(|| analytics.period(start..now)));
    group.bench_function("quantiles", |bencher| bencher.iter(|| [0.5, 0.9, 0.99].map(|share| day.hit_latency.quantile(share))));
    group.bench_function("series of 96", |bencher| {
        bencher.to_async(&runtime).iter(|| analytics.series(start..now, Duration::from_secs(900)))
    });
}

/// Adds so many requests a minute up in Redis, from a time on.
fn fill(runtime: &Runtime, analytics: &Analytics, start: SystemTime, minutes: u64, requests: u64) {
    let mut record = record();
    for number in 0..minutes * requests {
        record.at = start + Duration::from_millis(number * 60_000 / requests);
        vary(&mut record, number);
        analytics.on_event(&Event::Request(&record));
        if number % 1000 == 999 {
            runtime.block_on(analytics.flush());
        }
    }
    runtime.block_on(analytics.flush());
}

/// What a day takes in Redis, and an hour at a hundred requests a second, and what asking for the day takes there.
fn redis(criterion: &mut Criterion) {
    const MINUTES: u64 = 24 * 60;
    /// Per minute.
    const REQUESTS: u64 = 200;
    let runtime = Runtime::new().unwrap();
    let _in = runtime.enter();
    let server = server::Server::start();
    let used = || -> u64 {
        let info: String = server.run(&["INFO", "memory"]);
        info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap()
    };
    let long = Duration::from_secs(10);
    let analytics = |records| {
        let store = Redis::builder(server.url()).read_deadline(long).write_deadline(long).build().unwrap();
        Analytics::builder().recent(0).redis(store, records, Duration::from_secs(86_400)).spawn()
    };
    let now = SystemTime::now();
    let start = now - Duration::from_secs(86_400);

    let busy = analytics(0);
    runtime.block_on(busy.last(long));
    let before = used();
    fill(&runtime, &busy, start, 60, 6000);
    println!("the sums of an hour at a hundred requests a second in redis: {:.1} MB", (used() - before) as f64 / 1e6);
    let () = server.run(&["FLUSHALL"]);

    let analytics = analytics(100_000);
    runtime.block_on(analytics.last(long));
    let before = used();
    fill(&runtime, &analytics, start, MINUTES, REQUESTS);
    let day = runtime.block_on(analytics.period(start..now));
    assert!(day.shared && day.totals.requests >= MINUTES * REQUESTS - REQUESTS && analytics.dropped() == 0);
    let records: u64 = server.run(&["XLEN", "trc:{sums}:records"]);
    let stream: u64 = server.run(&["MEMORY", "USAGE", "trc:{sums}:records", "SAMPLES", "0"]);
    let all = used() - before;
    println!("a day in redis: {:.1} MB, of which {records} records {:.1} MB", all as f64 / 1e6, stream as f64 / 1e6);
    let stats: String = server.run(&["INFO", "commandstats"]);
    println!("{}", stats.lines().find(|line| line.starts_with("cmdstat_evalsha")).unwrap_or_default());
    let mut group = criterion.benchmark_group("a day, from redis");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.bench_function("period", |bencher| bencher.to_async(&runtime).iter(|| analytics.period(start..now)));
    group.bench_function("series of 96", |bencher| {
        bencher.to_async(&runtime).iter(|| analytics.series(start..now, Duration::from_secs(900)))
    });
    group.bench_function("newest 50", |bencher| bencher.to_async(&runtime).iter(|| analytics.recent(50)));
}

criterion_group!(benches, requests, hooks, periods, redis);
criterion_main!(benches);
