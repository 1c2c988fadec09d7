//! Measures subjects side by side: rounds are interleaved, so that what else the machine does meets all of them; medians are printed.

use std::{
    io::{self, IsTerminal as _},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::LocalBoxFuture;
use tokio::runtime::Runtime;

/// One of those that are compared.
pub struct Subject {
    name: &'static str,
    /// So many requests, one after the other.
    batch: Box<dyn Fn(u32) -> LocalBoxFuture<'static, ()>>,
}

impl Subject {
    pub fn new<F>(name: &'static str, request: impl Fn() -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let request = Rc::new(request);
        let batch = move |requests| -> LocalBoxFuture<'static, ()> {
            let request = Rc::clone(&request);
            Box::pin(async move {
                for _ in 0..requests {
                    request().await;
                }
            })
        };
        Self { name, batch: Box::new(batch) }
    }
}

/// What is measured, with the runtime that its connections belong to.
pub struct Subjects {
    pub runtime: Runtime,
    /// The first is what others are compared with.
    pub subjects: Vec<Subject>,
}

const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(40);

pub fn print(title: &str, Subjects { runtime, subjects }: Subjects) {
    let time = |subject: &Subject, requests| {
        let start = Instant::now();
        runtime.block_on((subject.batch)(requests));
        start.elapsed()
    };
    // The first request is a miss; what it stores may be stored in the background.
    for subject in &subjects {
        time(subject, 1);
    }
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(100)).await });
    let sizes = subjects.iter().map(|subject| {
        let once = time(subject, 100) / 100;
        u32::try_from(ROUND.as_nanos() / once.as_nanos().max(1)).unwrap_or(u32::MAX).max(1)
    });
    let sizes: Vec<u32> = sizes.collect();
    let mut times = vec![Vec::new(); subjects.len()];
    for round in 0..ROUNDS {
        if io::stderr().is_terminal() {
            eprint!("\r{title}: round {} of {ROUNDS}", round + 1);
        }
        for ((subject, &size), times) in subjects.iter().zip(&sizes).zip(&mut times) {
            times.push(time(subject, size).as_secs_f64() * 1e6 / f64::from(size));
        }
    }
    if io::stderr().is_terminal() {
        eprintln!();
    }

    println!("| {title} | us | over the first | allocations |\n|---|---|---|---|");
    let mut first = None;
    for (subject, mut times) in subjects.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        let first = *first.get_or_insert(median);
        let counted = allocation_counter::measure(|| runtime.block_on((subject.batch)(1000)));
        println!("| {} | {median:.2} | {:.2}x | {} |", subject.name, median / first, counted.count_total / 1000);
    }
}
