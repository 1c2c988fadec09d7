//! The router, as its callers, its operators and its upstreams see it: over real sockets, in this process or as the real program.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

#[path = "../../examples/router/main.rs"]
#[allow(dead_code)]
mod router;
// Where the simulator's macros look for it.
use router::simulator;

#[path = "../support/cluster.rs"]
#[allow(dead_code)]
mod clusters;
mod harness;
#[path = "../support/redis.rs"]
#[allow(dead_code)]
mod redis;
// Where the cluster's servers are looked for.
use self::redis as server;

mod admin;
mod answers;
mod arrivals;
mod callers;
mod failures;
mod program;
mod shared_store;
mod streams;
mod tls;
mod upstreams;
