//! HTTP caching by the standards, over real sockets: a client, the proxy of the examples, and a scripted origin.
//!
//! The cases are written from the text of the standards, one module per part of it. See [`script`] for their language.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

#[path = "../support/redis.rs"]
mod server;

#[path = "../../examples/proxy/admin.rs"]
mod admin;
#[path = "../../examples/proxy/fields.rs"]
mod fields;
#[path = "../../examples/proxy/interim.rs"]
mod interim;
#[path = "../../examples/shared/listener.rs"]
mod listener;
#[path = "../../examples/proxy/origin.rs"]
mod origin;
#[path = "../../examples/proxy/proxy.rs"]
mod proxy;

mod script;
mod wire;

mod collapsing;
mod conditions;
mod directives;
mod expires;
mod invalidation;
mod messages;
mod peers;
mod private;
mod ranges;
mod redis_store;
mod search;
mod stale;
mod storing;
mod together;
mod validation;
mod vary;
