//! Tower middleware that caches whole responses, streams included, in memory or Redis.
//!
//! A [`CacheLayer`] wraps any [`tower::Service`] over HTTP. It hashes each request, body included, answers from its [store](store::Store) when the same
//! was asked before, and otherwise copies the response into the store while it streams to the caller. Identical requests in flight share
//! one upstream call, live.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, Sharing, store::Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_response_cache::BoxError> {
//! // A service that takes a while to answer.
//! let slow = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
//!     let question = request.into_body().collect().await?.to_bytes();
//!     Ok::<_, tower_response_cache::BoxError>(Response::new(Full::new(question)))
//! });
//! let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::PerCredential));
//! let cached = layer.layer(slow);
//!
//! for expected in ["fwd=miss", "hit"] {
//!     let request = Request::post("http://example.com/").body(Full::new(Bytes::from("a question")))?;
//!     let response = cached.clone().oneshot(request).await?;
//!     assert!(response.headers()["cache-status"].to_str()?.contains(expected));
//!     assert_eq!(response.into_body().collect().await?.to_bytes(), "a question");
//!     # while layer.handle().stats().await.stored == 0 { tokio::task::yield_now().await }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The path of a request
//!
//! ```text
//! request ─► admit (policy; head only) ─── bypass ─────────► inner service
//!               │
//!            buffer the body ───────────── too large ──────► inner service, streamed
//!               │
//!            key ─► look up ─── fresh ─────────────────────► hit
//!               │           └── stale, may be served ──────► stale, refreshed in the background
//!               │
//!            join the flight ── another leads ─────────────► its answer, live, from the first byte
//!               │ lead
//!            fill: inner service ─► tape ─► every reader, as it arrives
//!                                     └─► whole and good? ─► the store
//! ```
//!
//! # Where to look
//!
//! - The [`guide`]: quick start per stack, keys, tenants, streaming, invalidation, the order of layers, troubleshooting.
//! - [`CacheLayer`]: settings, each with its default. [`Cache`]: the service. [`Handle`]: look up, insert, invalidate, count, shut down.
//! - [`ApiPolicy`], [`GrpcPolicy`], [`HttpPolicy`] and [`Sharing`]: what is cached, and whose answer it is. [`Policy`]: to write your own.
//! - [`CacheOptions`]: what one request wants. [`StoreOptions`]: what its handler wants. [`CacheStatus`]: what became of it. [`observe`]: what became of all of them.
//! - [`store`]: in memory, in Redis, or [your own](store::Store). [`key`]: what makes two requests the same.
//!
//! # Guarantees
//!
//! The error type is the inner service's: the cache fails no request. Dropping a response future or body at any point disturbs no other caller.
//! Memory is bounded everywhere. There is no `unsafe`. Cached requests need a tokio runtime.

mod answer;
mod body;
pub mod clock;
pub mod convert;
pub mod cost;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod entry;
mod error;
pub mod explain;
mod fill;
mod flight;
mod flow;
mod future;
pub mod guide;
mod handle;
pub mod inspect;
pub mod key;
mod layer;
#[cfg(feature = "llm")]
pub mod llm;
mod lookup;
#[cfg(feature = "reqwest-middleware")]
mod middleware;
pub mod observe;
mod options;
pub mod policy;
mod service;
mod shared;
pub mod status;
pub mod store;
mod upstream;

pub use body::{RequestBody, ResponseBody};
pub use clock::Clock;
pub use cost::{CostModel, NanoUsd};
pub use error::{BoxError, Error};
pub use future::ResponseFuture;
pub use handle::{Handle, Warmed};
pub use layer::CacheLayer;
pub use options::{CacheOptions, Mode, StoreOptions};
pub use policy::{ApiPolicy, GrpcPolicy, HttpPolicy, Policy, Sharing};
pub use service::Cache;
pub use status::CacheStatus;

/// The README's snippets compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
