#[cfg(not(feature = "seal"))]
use crate::error::Error;

/// Key id and nonce.
pub(super) const HEADER: usize = 4 + NONCE;
const NONCE: usize = 24;
/// What proves each of the two sealed parts.
pub(super) const TAG: usize = 16;

#[cfg(feature = "seal")]
mod with {
    use std::{fmt, sync::Arc};

    use chacha20poly1305::{AeadInOut as _, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};

    use super::{HEADER, NONCE, TAG};
    use crate::{Error, entry::record::SHARED};

    /// Keys with which records are sealed: encrypted and authenticated, by XChaCha20-Poly1305 with a random nonce for each record.
    ///
    /// What is sealed can be neither read nor forged, nor stand under another key or in another namespace, by those who can read and write the
    /// store but do not know the key. They can still remove it, and put back what was sealed under the same key before, until that expires.
    ///
    /// To change keys: give all processes the new one as [another](Self::and); then make it the first, with the old one as another; and drop the
    /// old one when what it sealed has expired.
    #[derive(Clone)]
    pub struct SealKeys {
        /// The first seals.
        keys: Arc<[(u32, XChaCha20Poly1305)]>,
        namespace: Arc<[u8]>,
    }

    impl SealKeys {
        /// Seals with this key. The id is stored with each record; ids of different keys differ. The key is 32 random bytes, not a password.
        pub fn new(id: u32, key: [u8; 32]) -> Self {
            Self { keys: [(id, XChaCha20Poly1305::new(&key.into()))].into(), namespace: Arc::from([]) }
        }

        /// Opens what this key sealed, too.
        #[must_use]
        pub fn and(mut self, id: u32, key: [u8; 32]) -> Self {
            self.keys = self.keys.iter().cloned().chain([(id, XChaCha20Poly1305::new(&key.into()))]).collect();
            self
        }

        /// Sets a namespace that what is sealed is bound to. Default: empty, or the prefix of a store that has one.
        #[must_use]
        pub fn namespace(mut self, namespace: &str) -> Self {
            self.namespace = namespace.as_bytes().into();
            self
        }

        /// Sets the namespace, if there is none.
        #[cfg(feature = "redis")]
        pub(crate) fn or_namespace(self, namespace: &str) -> Self {
            if self.namespace.is_empty() { self.namespace(namespace) } else { self }
        }

        /// Appends the sealed rest of a front to its beginning, and then the sealed tail, if there is one.
        pub(in super::super) fn seal(&self, out: &mut Vec<u8>, own: &[u8], tail: Option<&[u8]>) -> Option<()> {
            let (id, cipher) = self.keys.first()?;
            let mut random = [0; NONCE];
            getrandom::fill(&mut random).ok()?;
            let bound = self.bound(out, *id);
            out.extend_from_slice(&id.to_le_bytes());
            let [front, rest] = nonces(random);
            out.extend_from_slice(&front);
            let tag = append(cipher, &front, &bound, out, own)?;
            if let Some(tail) = tail {
                append(cipher, &rest, &[&bound[..], &tag].concat(), out, tail)?;
            }
            Some(())
        }

        /// Opens the rest of a front, of which the beginning is in the clear.
        pub(in super::super) fn open(&self, clear: &[u8], sealed: &[u8]) -> Result<(Vec<u8>, Opener<'_>), Error> {
            let (header, sealed) = sealed.split_first_chunk::<HEADER>().ok_or_else(forged)?;
            let (id, nonce) = header.split_first_chunk::<4>().ok_or_else(forged)?;
            let id = u32::from_le_bytes(*id);
            let (_, cipher) = self
                .keys
                .iter()
                .find(|(known, _)| *known == id)
                .ok_or_else(|| Error::corrupt("the record is sealed with an unknown key"))?;
            let [front, rest] = nonces(nonce.try_into().map_err(|_| forged())?);
            let bound = self.bound(clear, id);
            let own = take(cipher, &front, &bound, sealed)?;
            let tag = sealed.last_chunk::<TAG>().ok_or_else(forged)?;
            Ok((own, Opener { cipher, nonce: rest, bound: [&bound[..], tag].concat() }))
        }

        /// Appends a part of a live stream, sealed, to its beginning in the clear. It is bound to both that and its place.
        #[cfg(feature = "redis")]
        pub(in super::super) fn seal_part(&self, out: &mut Vec<u8>, place: &[u8], plain: &[u8]) -> Option<()> {
            let (id, cipher) = self.keys.first()?;
            let mut nonce = [0; NONCE];
            getrandom::fill(&mut nonce).ok()?;
            let bound = [out, place, &id.to_le_bytes(), &self.namespace].concat();
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&nonce);
            append(cipher, &nonce, &bound, out, plain).map(drop)
        }

        /// The way back.
        #[cfg(feature = "redis")]
        pub(in super::super) fn open_part(&self, clear: &[u8], place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
            let (header, sealed) = sealed.split_first_chunk::<HEADER>().ok_or_else(forged)?;
            let (id, nonce) = header.split_first_chunk::<4>().ok_or_else(forged)?;
            let known = self.keys.iter().find(|(known, _)| known.to_le_bytes() == *id);
            let (_, cipher) = known.ok_or_else(|| Error::corrupt("the record is sealed with an unknown key"))?;
            take(cipher, nonce.try_into().map_err(|_| forged())?, &[clear, place, id, &self.namespace].concat(), sealed)
        }

        /// What the sealed parts are bound to besides: the part in the clear, with version, kind, flags, key and lengths; key id; namespace.
        fn bound(&self, clear: &[u8], id: u32) -> Vec<u8> {
            debug_assert!(clear.len() > SHARED);
            [clear, &id.to_le_bytes(), &self.namespace].concat()
        }
    }

    /// Opens the second of two sealed parts, which is bound to the first.
    pub(in super::super) struct Opener<'a> {
        cipher: &'a XChaCha20Poly1305,
        nonce: [u8; NONCE],
        bound: Vec<u8>,
    }

    impl Opener<'_> {
        pub(in super::super) fn open_tail(&self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
            take(self.cipher, &self.nonce, &self.bound, sealed)
        }
    }

    /// Two nonces that no other record has, and that differ from each other.
    fn nonces(mut random: [u8; NONCE]) -> [[u8; NONCE]; 2] {
        random[NONCE - 1] &= !1;
        let mut other = random;
        other[NONCE - 1] |= 1;
        [random, other]
    }

    fn append(cipher: &XChaCha20Poly1305, nonce: &[u8; NONCE], bound: &[u8], out: &mut Vec<u8>, plain: &[u8]) -> Option<[u8; TAG]> {
        let start = out.len();
        out.extend_from_slice(plain);
        let tag = cipher.encrypt_inout_detached(&XNonce::from(*nonce), bound, (&mut out[start..]).into()).ok()?;
        out.extend_from_slice(&tag);
        Some(tag.into())
    }

    fn take(cipher: &XChaCha20Poly1305, nonce: &[u8; NONCE], bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG>().ok_or_else(forged)?;
        let mut plain = sealed.to_vec();
        let opened = cipher.decrypt_inout_detached(&XNonce::from(*nonce), bound, plain.as_mut_slice().into(), &Tag::from(*tag));
        opened.map(|()| plain).map_err(|_| forged())
    }

    fn forged() -> Error {
        Error::corrupt("the record was not sealed with this key for this place")
    }

    impl fmt::Debug for SealKeys {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("SealKeys").field("ids", &self.keys.iter().map(|(id, _)| id).collect::<Vec<_>>()).finish_non_exhaustive()
        }
    }
}

#[cfg(feature = "seal")]
pub(super) use with::Opener;
#[cfg(feature = "seal")]
pub use with::SealKeys;

/// Without the feature `seal` there are none.
#[cfg(not(feature = "seal"))]
#[derive(Clone, Debug)]
pub enum SealKeys {}

#[cfg(not(feature = "seal"))]
impl SealKeys {
    pub(super) fn seal(&self, _: &mut Vec<u8>, _: &[u8], _: Option<&[u8]>) -> Option<()> {
        match *self {}
    }

    #[cfg(feature = "redis")]
    pub(super) fn seal_part(&self, _: &mut Vec<u8>, _: &[u8], _: &[u8]) -> Option<()> {
        match *self {}
    }

    #[cfg(feature = "redis")]
    pub(super) fn open_part(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<Vec<u8>, Error> {
        match *self {}
    }

    pub(super) fn open(&self, _: &[u8], _: &[u8]) -> Result<(Vec<u8>, Opener<'_>), Error> {
        match *self {}
    }
}

#[cfg(not(feature = "seal"))]
pub(super) struct Opener<'a>(std::convert::Infallible, std::marker::PhantomData<&'a ()>);

#[cfg(not(feature = "seal"))]
impl Opener<'_> {
    pub(super) fn open_tail(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        match self.0 {}
    }
}
