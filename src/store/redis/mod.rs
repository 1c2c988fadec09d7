//! Keeps entries in Redis.
/// Keeps entries in Redis.
#[derive(Debug)]
pub struct Redis;
