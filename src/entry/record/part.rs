//! The binary form of a part of a live stream.
//!
//! Made and read by the same rules as records are: plain, bounded, and nothing taken on trust. All numbers are little-endian.
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! |      0 |     4 | magic: `9f 54 52 4c` (`\x9fTRL`) |
//! |      4 |     1 | version: 1 |
//! |      5 |     1 | kind: 1 head, 2 frames, 3 end, 4 settled |
//! |      6 |     2 | flags, as those of a record |
//! |      8 |     8 | number of the part, from 0 |
//! |     16 |     8 | length of what follows, plain |
//! |        |    28 | sealed only: id of the key, nonce |
//! |        |     … | what the kind has to say; compressed: as one frame of Zstandard; sealed: encrypted |
//! |        |     8 | checksum: XXH3-64 of all before it, seeded with that of the place; sealed: instead of it 16 bytes, the tag |
//!
//! A part is bound to its place: the key, the token of the lease under which it was made, and its number. So none stands in another's place, and
//! the end, which says how long the body is and what its checksum is, proves that all parts before it were read.

use bytes::Bytes;
use http::{StatusCode, Version};

use super::{
    Codec, MAX_FRAMES, MAX_LISTED, cut_short, is_framing, is_measured,
    read::Reader,
    write::{Writer, storable, storable_trailers},
};
use crate::{
    cost::NanoUsd,
    error::Error,
    key::Key,
    policy::is_hop_by_hop,
    store::{Generation, LiveEnd, LiveHead, LivePart, Token},
};

const MAGIC: [u8; 4] = *b"\x9fTRL";
const VERSION: u8 = 1;
const HEAD: u8 = 1;
const FRAMES: u8 = 2;
const END: u8 = 3;
const SETTLED: u8 = 4;

/// Where what the kind has to say begins.
const CLEAR: usize = 24;

/// The longest that a kind may have to say.
const MAX_PART: usize = 1 << 20;

/// Where a part stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) key: &'a Key,
    pub(crate) token: Token,
    pub(crate) number: u64,
}

impl Place<'_> {
    /// What is bound to the part besides its beginning, which has the number.
    fn bound(&self) -> [u8; 48] {
        let mut bound = [0; 48];
        bound[..32].copy_from_slice(self.key.as_bytes());
        bound[32..].copy_from_slice(&self.token.0);
        bound
    }
}

impl Codec {
    /// The binary form of a part. `None` if it is too long, or has what the form has no room for; header fields that a reader would refuse are left out.
    pub(crate) fn encode_part(&self, place: Place<'_>, part: &LivePart) -> Option<Vec<u8>> {
        let mut plain = Writer { bytes: Vec::new() };
        let kind = match part {
            LivePart::Head(head) => {
                write_head(&mut plain, head)?;
                HEAD
            }
            LivePart::Frames(frames) => {
                write_frames(&mut plain, frames)?;
                FRAMES
            }
            LivePart::End(end) => {
                write_end(&mut plain, end)?;
                END
            }
            LivePart::Settled => SETTLED,
            LivePart::Withdrawn => return None,
        };
        let plain = plain.bytes;
        if plain.len() > MAX_PART {
            return None;
        }
        let mut clear = Writer { bytes: Vec::with_capacity(CLEAR + 64 + plain.len()) };
        clear.bytes.extend_from_slice(&MAGIC);
        clear.u8(VERSION);
        clear.u8(kind);
        clear.u16(0);
        clear.u64(place.number);
        clear.u64(plain.len() as u64);
        self.packing.pack_part(clear.bytes, &place.bound(), &plain)
    }

    /// The way back.
    ///
    /// # Errors
    ///
    /// [Corrupt](Error::is_corrupt), whatever is wrong with the bytes, or if they belong to another place.
    pub(crate) fn decode_part(&self, place: Place<'_>, bytes: &[u8]) -> Result<LivePart, Error> {
        let (clear, rest) = bytes.split_at_checked(CLEAR).ok_or_else(cut_short)?;
        let mut shared = Reader { rest: clear };
        if shared.array::<4>()? != MAGIC || shared.u8()? != VERSION {
            return Err(Error::corrupt("not a part of a live stream"));
        }
        let kind = shared.u8()?;
        let flags = shared.u16()?;
        if shared.u64()? != place.number {
            return Err(Error::corrupt("a part of a live stream is out of its place"));
        }
        let len = usize::try_from(shared.u64()?).ok().filter(|len| *len <= MAX_PART);
        let len = len.ok_or_else(|| Error::corrupt("a part of a live stream is longer than allowed"))?;
        let plain = Bytes::from(self.packing.unpack_part(clear, flags, &place.bound(), rest, len)?);
        let mut reader = Reader { rest: &plain };
        let part = match kind {
            HEAD => LivePart::Head(Box::new(read_head(&mut reader, &plain)?)),
            FRAMES => LivePart::Frames(read_frames(&mut reader, &plain)?),
            END => LivePart::End(Box::new(read_end(&mut reader, &plain)?)),
            SETTLED => LivePart::Settled,
            _ => return Err(Error::corrupt("a part of a live stream is of an unknown kind")),
        };
        reader.end()?;
        Ok(part)
    }
}

fn write_head(out: &mut Writer, head: &LiveHead) -> Option<()> {
    out.u16(Some(head.status.as_u16()).filter(|status| *status >= 200)?);
    out.u8(match head.version {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 11,
    });
    out.lifetime(&head.lifetime);
    out.u8(head.promised.is_some().into());
    out.u64(head.promised.unwrap_or_default());
    for number in head.generation.0 {
        out.u64(number);
    }
    out.u8(head.vary.is_some().into());
    if let Some((fields, key)) = &head.vary {
        out.bytes.extend_from_slice(key.as_bytes());
        out.count(fields.len(), MAX_LISTED)?;
        for name in fields {
            out.text(name.as_str())?;
        }
    }
    out.fields(&storable(&head.headers, head.promised.unwrap_or_default()))
}

fn read_head(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<LiveHead, Error> {
    let status: StatusCode = reader.status()?;
    let version = match reader.u8()? {
        9 => Version::HTTP_09,
        10 => Version::HTTP_10,
        11 => Version::HTTP_11,
        20 => Version::HTTP_2,
        30 => Version::HTTP_3,
        _ => return Err(Error::corrupt("the head of a live stream is of an unknown version")),
    };
    let lifetime = reader.lifetime()?;
    let (is_promised, promised) = (reader.flag()?, reader.u64()?);
    let generation = Generation([reader.u64()?, reader.u64()?]);
    let vary = match reader.flag()? {
        false => None,
        true => {
            let key = Key::from_bytes(reader.array()?);
            let names = reader.count(MAX_LISTED, 2)?;
            Some(((0..names).map(|_| reader.name()).collect::<Result<_, _>>()?, key))
        }
    };
    let headers = reader.fields(bytes, is_hop_by_hop)?;
    let promised = is_promised.then_some(promised);
    if !is_measured(&headers, promised.unwrap_or_default()) {
        return Err(Error::corrupt("the content-length of a live stream belies its body"));
    }
    Ok(LiveHead { status, version, headers, lifetime, promised, vary, generation })
}

fn write_frames(out: &mut Writer, frames: &[Bytes]) -> Option<()> {
    out.u32(u32::try_from(frames.len()).ok().filter(|count| *count as usize <= MAX_FRAMES)?);
    for frame in frames {
        out.u32(u32::try_from(frame.len()).ok()?);
        out.bytes.extend_from_slice(frame);
    }
    Some(())
}

fn read_frames(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<Vec<Bytes>, Error> {
    let count = reader.u32()? as usize;
    // A frame takes five bytes at least: what is allocated stays within a small multiple of what is there.
    if count > reader.rest.len() / 5 {
        return Err(cut_short());
    }
    let frame = |_| {
        let len = reader.u32()? as usize;
        match reader.take(len)? {
            [] => Err(Error::corrupt("a frame of a live stream is empty")),
            frame => Ok(bytes.slice_ref(frame)),
        }
    };
    (0..count).map(frame).collect()
}

fn write_end(out: &mut Writer, end: &LiveEnd) -> Option<()> {
    out.u64(end.length);
    out.u64(end.checksum);
    for text in [&end.model, &end.provider] {
        out.optional_text(text.as_deref())?;
    }
    out.usage(end.usage.as_ref());
    out.u8(end.cost.is_some().into());
    out.u64(end.cost.unwrap_or_default().0);
    out.u8(end.trailers.is_some().into());
    match &end.trailers {
        Some(trailers) => out.fields(&storable_trailers(trailers)),
        None => Some(()),
    }
}

fn read_end(reader: &mut Reader<'_>, bytes: &Bytes) -> Result<LiveEnd, Error> {
    let (length, checksum) = (reader.u64()?, reader.u64()?);
    let (model, provider) = (reader.optional_text()?, reader.optional_text()?);
    let usage = reader.usage()?;
    let (is_known, cost) = (reader.flag()?, reader.u64()?);
    let trailers = match reader.flag()? {
        true => Some(reader.fields(bytes, is_framing)?),
        false => None,
    };
    Ok(LiveEnd { trailers, length, checksum, model, provider, usage, cost: is_known.then_some(NanoUsd(cost)) })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{HeaderMap, HeaderName};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::{from_unix_millis, unix_millis},
        entry::{
            Lifetime, Usage,
            record::{Compression, SealKeys},
        },
    };

    const KEY: Key = Key::from_bytes([0x5a; 32]);
    const TOKEN: Token = Token([7; 16]);

    fn place(number: u64) -> Place<'static> {
        Place { key: &KEY, token: TOKEN, number }
    }

    fn codecs() -> Vec<Codec> {
        let plain = Codec::new(1 << 20);
        vec![
            plain.clone(),
            #[cfg(feature = "zstd")]
            plain.clone().compression(Compression::From(0)),
            #[cfg(feature = "seal")]
            plain.clone().seal(SealKeys::new(1, [1; 32]).namespace("shop")),
            #[cfg(all(feature = "seal", feature = "zstd"))]
            plain.compression(Compression::From(0)).seal(SealKeys::new(1, [1; 32])),
        ]
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn head() -> LiveHead {
        LiveHead {
            status: StatusCode::OK,
            version: Version::HTTP_2,
            headers: headers(&[("content-type", "text/event-stream"), ("content-length", "10"), ("x-many", "1")]),
            lifetime: Lifetime::fresh(from_unix_millis(unix_millis(SystemTime::now())), Duration::from_secs(60)),
            promised: Some(10),
            vary: Some((vec![HeaderName::from_static("accept-language")], Key::from_bytes([1; 32]))),
            generation: Generation([1, 2]),
        }
    }

    fn parts() -> Vec<LivePart> {
        let frames = (0..100).map(|n| Bytes::from(format!("data: {{\"needle\": {n}}}\n\n"))).collect();
        let end = LiveEnd {
            trailers: Some(headers(&[("grpc-status", "0")])),
            length: 3,
            checksum: 4,
            model: Some("model".into()),
            provider: None,
            usage: Some(Usage { output: 9, ..Usage::default() }),
            cost: Some(NanoUsd(5)),
        };
        vec![
            LivePart::Head(Box::new(head())),
            LivePart::Head(Box::new(LiveHead { vary: None, promised: None, headers: HeaderMap::new(), ..head() })),
            LivePart::Frames(vec![Bytes::from_static(b"x")]),
            LivePart::Frames(frames),
            LivePart::End(Box::new(end)),
            LivePart::End(Box::default()),
            LivePart::Settled,
        ]
    }

    #[test]
    fn parts_come_back_as_they_were_and_only_in_their_own_place() {
        for codec in codecs() {
            for part in parts() {
                let bytes = codec.encode_part(place(3), &part).unwrap();
                assert_eq!(codec.decode_part(place(3), &bytes).unwrap(), part);
                let elsewhere =
                    [place(4), Place { token: Token([8; 16]), ..place(3) }, Place { key: &Key::from_bytes([0x5b; 32]), ..place(3) }];
                for other in elsewhere {
                    assert!(codec.decode_part(other, &bytes).unwrap_err().is_corrupt(), "{other:?}");
                }
            }
        }
    }

    #[cfg(feature = "seal")]
    #[test]
    fn a_sealed_part_shows_nothing_and_none_but_its_key_opens_or_makes_it() {
        let [plain, sealed] = [&codecs()[0], &Codec::new(1 << 20).seal(SealKeys::new(1, [1; 32]).namespace("shop"))].map(Codec::clone);
        let others = [SealKeys::new(1, [2; 32]).namespace("shop"), SealKeys::new(1, [1; 32]).namespace("inn"), SealKeys::new(2, [1; 32])];
        for part in parts() {
            let bytes = sealed.encode_part(place(0), &part).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"needle"));
            assert!(plain.decode_part(place(0), &bytes).unwrap_err().is_corrupt());
            for keys in &others {
                assert!(Codec::new(1 << 20).seal(keys.clone()).decode_part(place(0), &bytes).unwrap_err().is_corrupt());
            }
            let forged = plain.encode_part(place(0), &part).unwrap();
            assert!(sealed.decode_part(place(0), &forged).unwrap_err().is_corrupt());
        }
    }

    #[test]
    fn a_head_that_would_split_or_frame_a_response_is_not_read() {
        let codec = &codecs()[0];
        for (name, value) in [("connection", "close"), ("transfer-encoding", "chunked"), ("content-length", "11")] {
            let mut plain = Writer { bytes: Vec::new() };
            write_head(&mut plain, &LiveHead { headers: HeaderMap::new(), ..head() }).unwrap();
            plain.bytes.truncate(plain.bytes.len() - 2);
            plain.fields(&headers(&[(name, value)])).unwrap();
            let mut clear = Writer { bytes: Vec::new() };
            clear.bytes.extend_from_slice(&MAGIC);
            for byte in [VERSION, HEAD, 0, 0] {
                clear.u8(byte);
            }
            clear.u64(0);
            clear.u64(plain.bytes.len() as u64);
            let forged = codec.packing.pack_part(clear.bytes, &place(0).bound(), &plain.bytes).unwrap();
            assert!(codec.decode_part(place(0), &forged).unwrap_err().is_corrupt(), "{name}");
        }
        let head = LiveHead { headers: headers(&[("connection", "close"), ("content-length", "11"), ("x-kept", "1")]), ..head() };
        let bytes = codec.encode_part(place(0), &LivePart::Head(Box::new(head))).unwrap();
        let LivePart::Head(read) = codec.decode_part(place(0), &bytes).unwrap() else { panic!("a head") };
        assert_eq!(read.headers, headers(&[("x-kept", "1")]), "the writer leaves out what a reader refuses");
    }

    proptest! {
        #[test]
        fn a_part_with_any_byte_flipped_missing_or_added_is_not_read(which in 0usize..7, at: prop::sample::Index, flip in 1u8..) {
            for codec in codecs() {
                let bytes = codec.encode_part(place(0), &parts()[which]).unwrap();
                let at = at.index(bytes.len());
                let mut flipped = bytes.clone();
                flipped[at] ^= flip;
                let mut added = bytes.clone();
                added.insert(at, flip);
                for damaged in [&flipped[..], &added, &bytes[..at]] {
                    // One more byte of the same value in front of another of it changes nothing.
                    if damaged != bytes {
                        prop_assert!(codec.decode_part(place(0), damaged).is_err());
                    }
                }
            }
        }

        #[test]
        fn whatever_is_read_as_a_part_there_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for codec in codecs() {
                prop_assert!(codec.decode_part(place(0), &bytes).is_err());
            }
        }
    }
}
