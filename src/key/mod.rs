//! What makes two requests the same.
//!
//! A [`Key`] is the SHA-256 of an [`envelope`](Envelope): a domain tag, then fields as *tag byte, u64 length, bytes*, so that no
//! field can run into its neighbour. The full 256 bits are used everywhere: as the store's key, inside the record, in the
//! flight table. A key cannot be built without saying [whose answer it is](Scope).

mod envelope;
pub mod json;
mod scope;

use std::{fmt, str::FromStr};

pub use envelope::{Digest, Envelope, Field, Fields, Identity};
pub(crate) use envelope::{Question, Trace};
pub use scope::{CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS, Scope};

/// The identity of a cached request: 256 bits that show nothing of what went in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Well-mixed bits for tables that shard by key.
    pub(crate) fn shard_bits(&self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|i| self.0[i]))
    }
}

/// 64 hexadecimal digits, lower case.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 64];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&hex).map_err(|_| fmt::Error)?)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cache key is 64 hexadecimal digits")
    }
}

impl std::error::Error for InvalidKey {}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidKey);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidKey);
            *byte = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).map_err(|_| InvalidKey)?;
        }
        Ok(Self(bytes))
    }
}
