//! Tower middleware that caches whole responses, streams included, in memory or Redis.

pub mod clock;
pub mod entry;
mod error;
pub mod inspect;
pub mod key;
#[cfg(feature = "llm")]
pub mod llm;
mod options;
pub mod store;

pub use clock::Clock;
pub use error::{BoxError, Error};
pub use options::{CacheOptions, Mode};
