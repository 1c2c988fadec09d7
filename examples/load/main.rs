//! A load run under faults: two routers, one Redis, many callers, and everything going wrong around them.
//!
//! ```text
//! cargo run --release --example load -- --seconds 180
//! ```
//!
//! Real processes: a `redis-server`, and this program again as each router. Between routers and Redis stand [proxies](proxy) that do to links what
//! networks do. The [upstream] signs each answer for its question; [callers](callers) find out what is wrong, cut short, another's, or too old. The
//! [faults] come by a schedule that the seed determines. It ends with a table, and with exit code 1 if anything happened that must not.

#![allow(clippy::unwrap_used, reason = "what cannot be set up ends the run")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a program, and it uses a part of what tests share"
)]

mod callers;
mod faults;
mod report;
mod routers;
mod upstream;

#[path = "../../tests/support/proxy.rs"]
mod proxy;
#[path = "../../tests/support/redis.rs"]
mod redis_server;
#[path = "../router/main.rs"]
mod router;
// Where the simulator's macros look for it.
use router::simulator;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio_util::sync::CancellationToken;

use crate::{
    callers::{Callers, Invalidations},
    proxy::Proxy,
    redis_server::Server,
    report::Report,
    routers::{ROUTER, Routers},
    upstream::Upstream,
};

/// Load on two routers that share one Redis, while everything around them fails.
#[derive(Clone, Debug, Parser)]
#[command(name = "load")]
struct Args {
    /// How long callers ask
    #[arg(long, default_value_t = 180)]
    seconds: u64,

    /// What the schedule of faults and all questions come from [default: by chance]
    #[arg(long)]
    seed: Option<u64>,

    /// How many callers ask at the same time
    #[arg(long, default_value_t = 64)]
    callers: usize,

    /// How many different questions there are
    #[arg(long, default_value_t = 500)]
    questions: usize,

    /// How long a caller thinks between two questions, at most, in milliseconds
    #[arg(long, default_value_t = 20)]
    think: u64,

    /// How long routers keep answers, in seconds
    #[arg(long, default_value_t = 20)]
    ttl: u64,

    /// Breaks nothing
    #[arg(long)]
    calm: bool,
}

fn main() -> ExitCode {
    // This program is its own router, so that both are of one build.
    if std::env::var_os(ROUTER).is_some() {
        return router::main();
    }
    let args = Args::parse();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(run(args));
    println!("{report}");
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(args: Args) -> Report {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("seed {seed}");
    let start = Instant::now();
    let upstream = Upstream::start(start).await;
    let server = Server::start();
    let proxies = [Proxy::to(server.port()).await, Proxy::to(server.port()).await];
    let routers = Arc::new(Routers::start([proxies[0].url(), proxies[1].url()], upstream.url(), args.ttl).await);
    let invalidations = Arc::new(Invalidations::default());

    let stop = CancellationToken::new();
    let callers = Callers::start(&args, seed, start, Arc::clone(&routers), Arc::clone(&invalidations), stop.clone());
    let progress = tokio::spawn(stop.clone().run_until_cancelled_owned({
        let (callers, calls) = (callers.clone(), upstream.calls());
        async move {
            loop {
                tokio::time::sleep(Duration::from_secs(10)).await;
                println!("{:>6.1} s  {}", start.elapsed().as_secs_f64(), callers.progress(&calls));
            }
        }
    }));
    let end = tokio::time::Instant::from_std(start) + Duration::from_secs(args.seconds);
    let mut faults = faults::Faults::new(seed, start, server, proxies, Arc::clone(&routers), Arc::clone(&invalidations));
    if args.calm {
        tokio::time::sleep_until(end).await;
    } else {
        faults.run(end).await;
    }
    stop.cancel();
    progress.await.ok();
    let counted = callers.finish().await;
    let recovered = faults.recovered().await;
    Report {
        seconds: start.elapsed(),
        counted,
        calls: upstream.calls().total(),
        faults: faults.counts(),
        recovered,
        routers: routers.end().await,
        seed,
    }
}
