#![cfg(all(feature = "zstd", feature = "seal"))]

use std::sync::Arc;

use super::*;
use crate::entry::{
    Entry, Frames, Record,
    record::{Codec, tests::samples},
};

const KEY: Key = Key::from_bytes([0x5a; 32]);
const MAX: usize = 1 << 20;

fn keys() -> SealKeys {
    SealKeys::new(7, [1; 32]).namespace("shop")
}

fn plain() -> Codec {
    Codec::new(MAX)
}

fn compressed() -> Codec {
    plain().compression(Compression::From(0))
}

fn sealed() -> Codec {
    plain().seal(keys())
}

fn both() -> Codec {
    compressed().seal(keys())
}

/// Shrinks, and has a needle in each part.
fn large() -> Record {
    let Some(Record::Response(entry)) = samples().into_iter().nth(1) else { unreachable!() };
    let mut entry = Entry::clone(&entry);
    entry.metadata.labels.push("needle", "needle");
    entry.headers.insert("x-needle", "needle".parse().unwrap());
    entry.body = Frames::new((0..200).map(|n| Bytes::from(format!("data: {{\"needle\": {n}}}\n\n"))));
    Record::Response(Arc::new(entry))
}

fn encode(codec: &Codec, record: &Record) -> Bytes {
    codec.encode(&KEY, record).unwrap().into()
}

#[test]
fn packed_records_come_back_as_they_were_and_are_listed_without_their_body() {
    for codec in [compressed(), sealed(), both()] {
        for record in samples().iter().chain([&large()]) {
            let bytes = encode(&codec, record);
            assert_eq!(&codec.decode(&KEY, bytes.clone()).unwrap(), record);
            let listed = |codec: &Codec, bytes: &[u8]| codec.listing(&KEY, &bytes[..bytes.len().min(Codec::PREFIX)]).unwrap();
            assert_eq!(listed(&codec, &bytes), listed(&plain(), &encode(&plain(), record)));
        }
    }
    let [whole, packed] = [plain(), both()].map(|codec| encode(&codec, &large()).len());
    assert!(packed < whole / 4, "{packed} of {whole}");
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    let Record::Response(mut entry) = large() else { unreachable!() };
    Arc::make_mut(&mut entry).body = Bytes::from((0..50_000).map(|_| fastrand::u8(..)).collect::<Vec<_>>()).into();
    let record = Record::Response(entry);
    assert_eq!(encode(&compressed(), &record), encode(&plain(), &record));
}

#[test]
fn event_streams_are_compressed_early_other_bodies_late_and_encoded_ones_never() {
    for (len, is_stream, is_encoded, expected) in [
        (1 << 10, true, false, true),
        ((1 << 10) - 1, true, false, false),
        (16 << 10, false, false, true),
        ((16 << 10) - 1, false, false, false),
        (1 << 20, false, true, false),
    ] {
        assert_eq!(Compression::Auto.applies(len, is_stream, is_encoded), expected, "{len} {is_stream} {is_encoded}");
        assert!(!Compression::Off.applies(len, is_stream, is_encoded));
    }
}

#[test]
fn whatever_is_flipped_cut_or_added_is_refused() {
    for codec in [compressed(), sealed(), both()] {
        for record in samples().iter().chain([&large()]) {
            let bytes = encode(&codec, record);
            for at in 0..bytes.len() {
                assert!(codec.decode(&KEY, bytes.slice(..at)).is_err(), "cut at {at}");
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << (at % 8);
                assert!(codec.decode(&KEY, flipped.into()).is_err(), "flipped at {at}");
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert!(codec.decode(&KEY, longer.into()).is_err());
        }
    }
}

/// As one would write it who knows the form but no key.
fn forged(record: &[u8], plain_len: u64) -> Bytes {
    let mut bytes = record.to_vec();
    let front = u32::from_le_bytes(*bytes[48..].first_chunk().unwrap()) as usize;
    bytes[SHARED..SHARED + 8].copy_from_slice(&plain_len.to_le_bytes());
    let sum = checksum(0, &bytes[..front - CHECKSUM]);
    bytes[front - CHECKSUM..front].copy_from_slice(&sum.to_le_bytes());
    let end = bytes.len() - CHECKSUM;
    let sum = checksum(sum, &bytes[front..end]);
    bytes[end..].copy_from_slice(&sum.to_le_bytes());
    bytes.into()
}

#[test]
fn a_record_that_inflates_beyond_what_it_says_or_what_is_allowed_is_refused() {
    let bytes = encode(&compressed(), &large());
    let honest = encode(&plain(), &large()).len() as u64;
    assert_eq!(compressed().decode(&KEY, forged(&bytes, honest)).unwrap(), large());
    // A kilobyte of zeros for a megabyte: more than the largest record, and then more than it says.
    for plain_len in [0, 60, honest - 1, honest + 1, MAX as u64 + 1, u64::MAX] {
        let refused = compressed().decode(&KEY, forged(&bytes, plain_len)).unwrap_err();
        assert!(refused.is_corrupt(), "{plain_len}");
    }
    let small = Codec::new(bytes.len() + 100);
    assert!(small.decode(&KEY, bytes).unwrap_err().to_string().contains("longer than allowed"));
}

#[test]
fn only_who_has_the_key_reads_or_writes_and_only_for_this_place() {
    let record = large();
    let bytes = encode(&both(), &record);
    assert!(!bytes.windows(6).any(|bytes| bytes == b"needle"), "in the clear");
    let refuses = |codec: Codec, bytes: Bytes| assert!(codec.decode(&KEY, bytes).unwrap_err().is_corrupt());
    refuses(compressed(), bytes.clone());
    refuses(plain().seal(SealKeys::new(7, [2; 32]).namespace("shop")), bytes.clone());
    refuses(plain().seal(SealKeys::new(8, [1; 32]).namespace("shop")), bytes.clone());
    refuses(plain().seal(keys().namespace("bakery")), bytes.clone());
    // Under another key, with the key in the clear changed or not.
    let elsewhere = Key::from_bytes([0x5b; 32]);
    assert!(both().decode(&elsewhere, bytes.clone()).unwrap_err().is_corrupt());
    let mut moved = bytes.to_vec();
    moved[8..40].copy_from_slice(elsewhere.as_bytes());
    assert!(both().decode(&elsewhere, moved.into()).unwrap_err().is_corrupt());
    // The front of one and the response of another.
    let other = encode(&both(), &record);
    assert_ne!(bytes, other, "a nonce was used twice");
    let front = u32::from_le_bytes(*bytes[48..].first_chunk().unwrap()) as usize;
    refuses(both(), [&bytes[..front], &other[front..]].concat().into());
    // Unsealed in the place of sealed.
    for unsealed in [plain(), compressed()] {
        refuses(both(), encode(&unsealed, &record));
        assert!(both().listing(&KEY, &encode(&unsealed, &record)).unwrap_err().is_corrupt());
    }
}

#[test]
fn keys_are_changed_without_losing_a_record() {
    let [old, new] = [(1, [1; 32]), (2, [2; 32])];
    let before = plain().seal(SealKeys::new(old.0, old.1));
    let during = plain().seal(SealKeys::new(old.0, old.1).and(new.0, new.1));
    let after = plain().seal(SealKeys::new(new.0, new.1).and(old.0, old.1));
    let record = large();
    for (writer, reader) in [(&before, &during), (&during, &before), (&during, &after), (&after, &during)] {
        assert_eq!(reader.decode(&KEY, encode(writer, &record)).unwrap(), record);
    }
    let without = plain().seal(SealKeys::new(new.0, new.1));
    assert!(without.decode(&KEY, encode(&before, &record)).unwrap_err().is_corrupt());
}

#[test]
fn keys_are_not_printed() {
    let printed = format!("{:?} {:?}", SealKeys::new(7, [0xab; 32]), both());
    assert!(printed.contains('7') && !printed.contains("171") && !printed.to_lowercase().contains("abab"), "{printed}");
}

#[test]
fn golden_packed_records_are_read() {
    let golden: [&[u8]; 2] = [
        include_bytes!("../../../../tests/golden/record-v1-compressed.bin"),
        include_bytes!("../../../../tests/golden/record-v1-sealed.bin"),
    ];
    for (codec, golden) in [compressed(), both()].iter().zip(golden) {
        assert_eq!(codec.decode(&KEY, Bytes::from_static(golden)).unwrap(), large());
    }
}
