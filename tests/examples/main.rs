//! Each example is run, and says what it should.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

mod axum;
mod clients;
mod custom;
mod load;
mod program;
mod proxy;
mod tonic;
