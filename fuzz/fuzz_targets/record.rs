//! The binary form of records: nothing that lies in a store makes the reader panic, and what it takes it writes the same again.

#![no_main]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::{
    arbitrary::{Result, Unstructured},
    fuzz_target,
};
use tower_response_cache::{
    entry::{Entry, Frames, Labels, Lifetime, Metadata, Record, Usage, Variants, record::Codec},
    key::Key,
};

const KEY: Key = Key::from_bytes([7; 32]);
const MAX: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    // As it lies there, and as one would lie there who knows the form.
    read(input.to_vec());
    read(mended(input.to_vec()));
    let _ = written_and_damaged(&mut Unstructured::new(input));
});

/// What is read is written, and read again, the same.
fn read(bytes: Vec<u8>) -> Option<Record> {
    let codec = Codec::new(MAX);
    let _ = codec.listing(&KEY, &bytes[..bytes.len().min(Codec::PREFIX)]);
    let record = codec.decode(&KEY, Bytes::from(bytes)).ok()?;
    let again = codec.encode(&KEY, &record).expect("what was read can be written");
    let twice = codec.decode(&KEY, Bytes::from(again.clone())).expect("what was written can be read");
    assert_same(&record, &twice);
    assert_eq!(codec.encode(&KEY, &twice).as_ref(), Some(&again));
    assert!(codec.decode(&Key::from_bytes([8; 32]), Bytes::from(again)).is_err(), "another key");
    Some(record)
}

/// A record comes back; cut or changed, it is refused.
fn written_and_damaged(input: &mut Unstructured<'_>) -> Result<()> {
    let record = record(input)?;
    let Some(bytes) = Codec::new(MAX).encode(&KEY, &record) else { return Ok(()) };
    let back = read(bytes.clone()).expect("what was written can be read");
    match (&record, &back) {
        (Record::Response(one), Record::Response(two)) => {
            assert_eq!((one.status, &one.body, one.lifetime, &one.metadata), (two.status, &two.body, two.lifetime, &two.metadata));
            assert!(two.headers.iter().all(|(name, value)| one.headers.get_all(name).iter().any(|other| other == value)));
        }
        _ => assert_same(&record, &back),
    }
    let mut damaged = bytes;
    let at = input.choose_index(damaged.len())?;
    if input.arbitrary()? {
        damaged.truncate(at);
    } else {
        damaged[at] ^= input.int_in_range(1..=255)?;
    }
    assert!(read(damaged.clone()).is_none(), "damage at {at}");
    // The same damage by someone who can compute checksums: right or refused, never a panic.
    read(mended(damaged));
    Ok(())
}

fn assert_same(one: &Record, two: &Record) {
    match (one, two) {
        (Record::Response(one), Record::Response(two)) => {
            assert_eq!((one.status, &one.headers, &one.body, &one.trailers), (two.status, &two.headers, &two.body, &two.trailers));
            assert_eq!((one.lifetime, &one.metadata), (two.lifetime, &two.metadata));
        }
        (Record::Variants(one), Record::Variants(two)) => assert_eq!(one, two),
        _ => panic!("another kind"),
    }
}

/// Bytes with all that a reader checks first put right: magic, version, flags, key, lengths, checksums. See the codec's documentation.
fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    const SHARED: usize = 52;
    if bytes.len() < SHARED + 8 {
        return bytes;
    }
    let total = bytes.len();
    bytes[..5].copy_from_slice(b"\x9fTRC\x01");
    bytes[5] = if bytes[5] == 2 { 2 } else { 1 };
    bytes[6..8].fill(0);
    bytes[8..40].copy_from_slice(KEY.as_bytes());
    bytes[40..48].copy_from_slice(&(total as u64).to_le_bytes());
    let claimed = u32::from_le_bytes([bytes[48], bytes[49], bytes[50], bytes[51]]) as usize;
    let front = if bytes[5] == 2 { total } else { claimed.clamp(SHARED + 8, total) };
    bytes[48..52].copy_from_slice(&(front as u32).to_le_bytes());
    let sum = twox_hash::XxHash3_64::oneshot(&bytes[..front - 8]);
    bytes[front - 8..front].copy_from_slice(&sum.to_le_bytes());
    if total >= front + 8 {
        let rest = twox_hash::XxHash3_64::oneshot_with_seed(sum, &bytes[front..total - 8]);
        bytes[total - 8..].copy_from_slice(&rest.to_le_bytes());
    }
    bytes
}

fn record(input: &mut Unstructured<'_>) -> Result<Record> {
    if input.ratio(1, 8)? {
        let fields = list(input, 4, |input| list(input, 4, name))?;
        return Ok(Record::Variants(Arc::new(Variants { fields, tags: Vec::new(), epoch: input.arbitrary()?, expires: time(input)? })));
    }
    Ok(Record::Response(Arc::new(Entry {
        status: StatusCode::from_u16(input.int_in_range(200..=999)?).expect("in range"),
        headers: headers(input)?,
        body: Frames::new(list(input, 6, |input| input.arbitrary::<Vec<u8>>().map(Bytes::from))?),
        trailers: option(input, headers)?,
        lifetime: Lifetime {
            since: time(input)?,
            fresh_for: millis(input)?,
            stale_while_revalidate: millis(input)?,
            stale_if_error: millis(input)?,
            kept_for: millis(input)?,
        },
        metadata: Metadata {
            request_id: input.arbitrary()?,
            provider: input.arbitrary()?,
            model: input.arbitrary()?,
            cached_at: option(input, time)?,
            upstream_time: millis(input)?,
            upstream_first_byte: millis(input)?,
            usage: option(input, |input| {
                let [input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning] = input.arbitrary()?;
                let [audio_input, audio_cache_read, audio_output] = input.arbitrary()?;
                Ok(Usage {
                    input_uncached,
                    cache_read,
                    cache_write_5m,
                    cache_write_1h,
                    output,
                    reasoning,
                    audio_input,
                    audio_cache_read,
                    audio_output,
                })
            })?,
            service_tier: input.arbitrary()?,
            tags: input.arbitrary()?,
            labels: Labels::from(input.arbitrary::<Vec<(String, String)>>()?),
            upstream_request_id: input.arbitrary()?,
        },
    })))
}

fn list<T>(input: &mut Unstructured<'_>, most: usize, item: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..input.int_in_range(0..=most)?).map(|_| item(input)).collect()
}

fn option<T>(input: &mut Unstructured<'_>, item: impl Fn(&mut Unstructured<'_>) -> Result<T>) -> Result<Option<T>> {
    if input.arbitrary()? { item(input).map(Some) } else { Ok(None) }
}

fn headers(input: &mut Unstructured<'_>) -> Result<HeaderMap> {
    let lines = list(input, 6, |input| Ok((name(input)?, HeaderValue::from_bytes(input.arbitrary()?))))?;
    Ok(lines.into_iter().filter_map(|(name, value)| Some((name, value.ok()?))).collect())
}

fn name(input: &mut Unstructured<'_>) -> Result<HeaderName> {
    const NAMES: [&str; 6] = ["content-type", "content-length", "connection", "transfer-encoding", "vary", "x-own"];
    Ok(HeaderName::from_static(input.choose::<&str>(&NAMES)?))
}

fn time(input: &mut Unstructured<'_>) -> Result<SystemTime> {
    Ok(SystemTime::UNIX_EPOCH + millis(input)?)
}

fn millis(input: &mut Unstructured<'_>) -> Result<Duration> {
    // Up to a thousand years.
    Ok(Duration::from_millis(input.int_in_range(0..=1000 * 365 * 86_400_000)?))
}
