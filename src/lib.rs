//! Tower middleware that caches whole responses, streams included, in memory or Redis.

mod body;
pub mod clock;
pub mod cost;
#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod entry;
mod error;
mod fill;
mod flight;
mod flow;
mod future;
mod handle;
pub mod inspect;
pub mod key;
mod layer;
#[cfg(feature = "llm")]
pub mod llm;
pub mod observe;
mod options;
pub mod policy;
mod service;
pub mod status;
pub mod store;

pub use body::{RequestBody, ResponseBody};
pub use clock::Clock;
pub use cost::{CostModel, NanoUsd};
pub use error::{BoxError, Error};
pub use future::ResponseFuture;
pub use handle::Handle;
pub use layer::CacheLayer;
pub use options::{CacheOptions, Mode};
pub use policy::{ApiPolicy, Policy, Sharing};
pub use service::Cache;
pub use status::CacheStatus;
