//! The versioned binary form of a record.

use bytes::Bytes;

use super::Record;
use crate::{error::Error, key::Key, store::Listing};

/// Turns records into bytes and back, within bounds.
#[derive(Clone, Debug)]
pub struct Codec {
    max_record: usize,
}

impl Codec {
    /// A codec for records of up to `max_record` bytes.
    pub fn new(max_record: usize) -> Self {
        Self { max_record }
    }

    /// The binary form of a record under a key; `None` if it is over the bound.
    pub fn encode(&self, key: &Key, record: &Record) -> Option<Vec<u8>> {
        let _ = (key, record, self.max_record);
        None
    }

    /// The way back. Copies no body.
    ///
    /// # Errors
    ///
    /// [Corrupt](Error::is_corrupt), whatever is wrong with the bytes.
    pub fn decode(&self, key: &Key, bytes: Bytes) -> Result<Record, Error> {
        let _ = (key, bytes);
        Err(Error::corrupt("not written yet"))
    }

    /// What the start of a record says of it: [`PREFIX`](Self::PREFIX) bytes are enough for most; `None` if more are needed.
    ///
    /// # Errors
    ///
    /// [Corrupt](Error::is_corrupt), whatever is wrong with the bytes.
    pub fn listing(&self, key: &Key, prefix: &[u8]) -> Result<Option<Listing>, Error> {
        let _ = (key, prefix);
        Ok(None)
    }

    /// How much of a record to read for its listing.
    pub const PREFIX: usize = 2048;
}
