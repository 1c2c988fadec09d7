#[cfg(not(feature = "zstd"))]
use crate::error::Error;

/// Which records are compressed, with Zstandard at level 1.
///
/// One that does not get smaller by an eighth is stored as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// None.
    #[cfg_attr(not(feature = "zstd"), default)]
    Off,
    /// Event streams from 1 KiB, which shrink to a tenth or less, and all else from 16 KiB, unless the origin has encoded it. The default
    /// where the feature `zstd` is on.
    #[cfg(feature = "zstd")]
    #[default]
    Auto,
    /// All whose response, head and body, takes at least so many bytes.
    #[cfg(feature = "zstd")]
    From(usize),
}

impl Compression {
    pub(super) fn applies(self, len: usize, is_stream: bool, is_encoded: bool) -> bool {
        match self {
            Self::Off => {
                let _ = (len, is_stream, is_encoded);
                false
            }
            #[cfg(feature = "zstd")]
            Self::Auto => !is_encoded && len >= if is_stream { 1 << 10 } else { 16 << 10 },
            #[cfg(feature = "zstd")]
            Self::From(least) => len >= least,
        }
    }
}

#[cfg(feature = "zstd")]
mod with {
    use std::{cell::RefCell, io::Cursor};

    use zstd::bulk::{Compressor, Decompressor};

    use crate::error::Error;

    const LEVEL: i32 = 1;

    // A context takes some 600 KB, and longer to make than to use: one for each thread that has needed one.
    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }

    /// `None` if it does not get smaller by an eighth.
    pub(in super::super) fn compress(plain: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(plain.len() - plain.len() / 8);
        COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress_to_buffer(plain, &mut out).ok())?;
        out.shrink_to_fit();
        Some(out)
    }

    /// Appends exactly `len` bytes, for which there is room. It writes into that room alone, and never grows it.
    pub(in super::super) fn expand(packed: &[u8], out: &mut Vec<u8>, len: usize) -> Result<(), Error> {
        let at = out.len();
        let mut room = Cursor::new(out);
        room.set_position(at as u64);
        let expand = |decompressor: &mut Option<Decompressor<'_>>| decompressor.as_mut()?.decompress_to_buffer(packed, &mut room).ok();
        match DECOMPRESSOR.with_borrow_mut(expand) {
            Some(written) if written == len => Ok(()),
            _ => Err(Error::corrupt("the record does not expand to what it says")),
        }
    }
}

#[cfg(feature = "zstd")]
pub(super) use with::{compress, expand};

#[cfg(not(feature = "zstd"))]
pub(super) fn compress(_: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(not(feature = "zstd"))]
pub(super) fn expand(_: &[u8], _: &mut Vec<u8>, _: usize) -> Result<(), Error> {
    Err(Error::corrupt("the record is compressed, which this build cannot read"))
}
