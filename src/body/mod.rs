//! Bodies: what the inner service receives, what the caller receives, and the tape between an upstream call and its readers.

mod request;
mod response;
pub(crate) mod tape;

pub use request::RequestBody;
pub(crate) use request::{Buffered, Whole, buffer, poll_bytes};
pub use response::ResponseBody;
