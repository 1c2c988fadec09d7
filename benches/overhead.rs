//! What the cache costs, beside the bare service: hit, miss and bypass of an 8 KB answer, in one run.
//!
//! `cargo bench --bench overhead`

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]

mod subjects;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn overhead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("8 KB");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let runtime = subjects::runtime();
    for subject in subjects::all(&runtime) {
        group.bench_function(subject.name, |bencher| bencher.to_async(&runtime).iter(|| (subject.once)()));
    }
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
