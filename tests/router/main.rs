//! The router, as its callers, its operators and its upstreams see it: over real sockets, in this process or as the real program.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "it is all tests")]

#[path = "../../examples/router/main.rs"]
#[allow(dead_code)]
mod router;
// Where the simulator's macros look for it.
use router::simulator;

mod harness;
#[path = "../support/redis.rs"]
#[allow(dead_code)]
mod redis;

mod admin;
mod answers;
mod callers;
mod failures;
mod program;
mod shared_store;
mod streams;
mod tls;
mod upstreams;
