//! The cache where people put it: in axum's routers, around clients, and among the middleware of `tower` and `tower-http`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

#[path = "../support/origin.rs"]
mod origin;

mod axum;
mod clients;
mod tower;
