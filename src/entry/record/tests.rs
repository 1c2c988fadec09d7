use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::entry::{Entry, Frames, Lifetime, Metadata, Usage, Variants};

const KEY: Key = Key::from_bytes([0x5a; 32]);
const CODEC: Codec = Codec { max_record: 1 << 20, packing: Packing { compression: Compression::Off, seal: None } };

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

/// A JSON answer: one frame, no trailers, little known about it.
fn plain() -> Entry {
    let body = Bytes::from_static(br#"{"answer":42}"#);
    Entry {
        status: StatusCode::OK,
        headers: fields(&[("content-type", "application/json"), ("content-length", "13"), ("x-placeholder-017", "0")]),
        body: body.into(),
        trailers: None,
        lifetime: Lifetime::fresh(at(1_700_000_000_123), Duration::from_secs(3600)),
        metadata: Metadata::default(),
    }
}

/// An event stream: several frames, trailers, and all that can be known.
fn stream() -> Entry {
    let frames: [&'static [u8]; 3] = [b"data: {\"delta\":\"Hi\"}\n\n", b"data: {\"delta\":\"!\"}\n", b"\ndata: [DONE]\n\n"];
    let mut headers = fields(&[("content-type", "text/event-stream"), ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-r", "")]);
    headers.insert("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    Entry {
        status: StatusCode::CREATED,
        headers,
        body: Frames::new(frames.map(Bytes::from_static)),
        trailers: Some(fields(&[("grpc-status", "0"), ("x-placeholder-t14", "t")])),
        lifetime: Lifetime {
            since: at(1_700_000_000_000),
            fresh_for: Duration::from_millis(60_001),
            stale_while_revalidate: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(300),
            kept_for: Duration::from_secs(7200),
        },
        metadata: Metadata {
            request_id: Some("req-1".into()),
            provider: Some("openai".into()),
            model: Some("gpt-4o-mini".into()),
            cached_at: Some(at(1_700_000_001_000)),
            upstream_time: Duration::from_micros(1_234_567),
            upstream_first_byte: Duration::from_micros(210_000),
            usage: Some(Usage {
                input_uncached: 1,
                cache_read: 2,
                cache_write_5m: 3,
                cache_write_1h: 4,
                output: 5,
                reasoning: 6,
                ..Usage::default()
            }),
            service_tier: Some("flex".into()),
            tags: vec!["team:blue".into(), "é".into()],
            labels: vec![("model".into(), "gpt-4o-mini".into()), ("route".into(), "chat".into())].into(),
            upstream_request_id: Some("".into()),
        },
    }
}

fn index() -> Variants {
    let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
    Variants {
        fields: vec![names(&["accept-language", "x-tenant"]), names(&[]), names(&["accept-encoding"])],
        tags: Vec::new(),
        epoch: 0x0123_4567_89ab_cdef,
        expires: at(1_800_000_000_000),
    }
}

pub(super) fn samples() -> [Record; 3] {
    [Record::Response(Arc::new(plain())), Record::Response(Arc::new(stream())), Record::Variants(Arc::new(index()))]
}

fn encode(record: &Record) -> Vec<u8> {
    CODEC.encode(&KEY, record).expect("within the bound")
}

fn encode_entry(entry: Entry) -> Vec<u8> {
    encode(&Record::Response(Arc::new(entry)))
}

fn decode(bytes: &[u8]) -> Result<Record, Error> {
    CODEC.decode(&KEY, Bytes::copy_from_slice(bytes))
}

fn refusal(bytes: &[u8]) -> String {
    let error = decode(bytes).expect_err("must be refused");
    assert!(error.is_corrupt());
    error.to_string()
}

/// Makes checksums right, as a forger would; as far as the lengths make sense.
fn forge(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
    if (60..=bytes.len()).contains(&len) {
        let sum = checksum(0, &bytes[..len - 8]);
        bytes[len - 8..len].copy_from_slice(&sum.to_le_bytes());
        if bytes.len() >= len + 8 {
            let end = bytes.len() - 8;
            let sum = checksum(sum, &bytes[len..end]);
            bytes[end..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    bytes
}

fn position(bytes: &[u8], of: &[u8]) -> usize {
    memchr::memmem::find(bytes, of).expect("it is there")
}

/// Writes over a part of a record and makes the checksums right.
fn overwritten(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    forge(bytes)
}

#[test]
fn records_come_back_as_they_were() {
    for record in samples() {
        let back = decode(&encode(&record)).unwrap();
        assert_eq!(back, record);
        if let (Some(back), Some(entry)) = (back.response(), record.response()) {
            assert_eq!(back.headers.iter().collect::<Vec<_>>(), entry.headers.iter().collect::<Vec<_>>(), "order of fields");
            assert_eq!(back.body.as_slice(), entry.body.as_slice(), "boundaries of frames");
        }
    }
}

#[test]
fn golden_records_are_read_and_written_to_the_byte() {
    let golden: [&[u8]; 3] = [
        include_bytes!("../../../tests/golden/record-v1-response.bin"),
        include_bytes!("../../../tests/golden/record-v1-stream.bin"),
        include_bytes!("../../../tests/golden/record-v1-variants.bin"),
    ];
    for (record, golden) in samples().iter().zip(golden) {
        assert_eq!(&decode(golden).unwrap(), record);
        assert!(encode(record) == golden, "the form has changed: that takes a new version");
    }
}

#[test]
fn usage_with_audio_takes_room_only_where_there_is_some() {
    let mut entry = stream();
    let usage = entry.metadata.usage.unwrap();
    let without = encode_entry(entry.clone());
    for (audio_input, audio_cache_read, audio_output) in [(7, 0, 0), (0, 8, 0), (0, 0, 9), (7, 8, 9)] {
        entry.metadata.usage = Some(Usage { audio_input, audio_cache_read, audio_output, ..usage });
        let bytes = encode_entry(entry.clone());
        assert_eq!((bytes[126], bytes.len()), (2, without.len() + 24));
        let golden: [&[u8]; 2] = [b"\x02\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0", &without[127 + 16..127 + 48]];
        assert_eq!(bytes[126..175], golden.concat());
        assert_eq!(bytes[175..199], [audio_input, audio_cache_read, audio_output].map(u64::to_le_bytes).concat());
        assert_eq!(decode(&bytes).unwrap(), Record::Response(Arc::new(entry.clone())));
    }
    assert_eq!(refusal(&overwritten(without, 126, &[3])), "the record has a usage in an unknown form");
}

#[test]
fn a_body_and_header_values_are_slices_of_the_record() {
    let bytes = Bytes::from(encode_entry(stream()));
    let within = bytes.as_ptr_range();
    let entry = CODEC.decode(&KEY, bytes.clone()).unwrap().response().unwrap();
    assert!(entry.body.as_slice().iter().all(|frame| within.contains(&frame.as_ptr())));
    assert!(entry.headers["content-type"].as_bytes().as_ptr_range().start >= within.start);
    assert!(within.contains(&entry.headers["content-type"].as_bytes().as_ptr()));
}

#[test]
fn sensitive_header_values_stay_sensitive() {
    let mut entry = plain();
    entry.headers.insert("x-secret", HeaderValue::from_static("s")).into_iter().for_each(drop);
    entry.headers.get_mut("x-secret").unwrap().set_sensitive(true);
    let back = decode(&encode_entry(entry)).unwrap().response().unwrap();
    assert!(back.headers["x-secret"].is_sensitive());
    assert!(!back.headers["content-type"].is_sensitive());
}

#[test]
fn times_before_the_epoch_and_endless_lifetimes_saturate() {
    let mut entry = plain();
    entry.lifetime = Lifetime::fresh(SystemTime::UNIX_EPOCH - Duration::from_secs(1), Duration::MAX);
    entry.metadata.upstream_time = Duration::MAX;
    let back = decode(&encode_entry(entry)).unwrap().response().unwrap();
    assert_eq!(back.lifetime.since, SystemTime::UNIX_EPOCH);
    assert_eq!(back.lifetime.fresh_for, Duration::from_millis(u64::MAX));
    assert_eq!(back.metadata.upstream_time, Duration::from_micros(u64::MAX));
    assert!(back.lifetime.expires() > at(1_800_000_000_000));
}

#[test]
fn a_prefix_is_enough_for_a_listing() {
    for record in samples() {
        let bytes = encode(&record);
        let expected = Listing::of(KEY, &record);
        let front = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
        for len in 0..=bytes.len() {
            let listing = CODEC.listing(&KEY, &bytes[..len]).unwrap();
            assert_eq!(listing, expected.clone().filter(|_| len >= front), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn the_prefix_that_stores_read_holds_a_usual_listing() {
    let bytes = encode_entry(stream());
    assert!(CODEC.listing(&KEY, &bytes[..bytes.len().min(Codec::PREFIX)]).unwrap().is_some());
}

#[test]
fn no_record_is_read_under_another_key() {
    for record in samples() {
        let bytes = encode(&record);
        let mut key = *KEY.as_bytes();
        key[31] ^= 1;
        let other = Key::from_bytes(key);
        let error = CODEC.decode(&other, bytes.clone().into()).unwrap_err();
        assert!(error.is_corrupt() && error.to_string().contains("another key"), "{error}");
        assert!(CODEC.listing(&other, &bytes).unwrap_err().is_corrupt());
    }
}

#[test]
fn a_truncated_record_is_corrupt_wherever_it_is_cut() {
    for record in samples() {
        let bytes = encode(&record);
        for len in 0..bytes.len() {
            refusal(&bytes[..len]);
            if len >= 52 {
                refusal(&forge(bytes[..len].to_vec()));
            }
        }
    }
}

#[test]
fn a_record_with_one_bit_flipped_is_corrupt_wherever_it_is() {
    for record in samples() {
        let bytes = encode(&record);
        let front = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refusal(&flipped);
            if bit / 8 < front {
                assert!(!matches!(CODEC.listing(&KEY, &flipped), Ok(Some(_))), "bit {bit} of the front");
            }
        }
    }
}

#[test]
fn a_record_with_a_byte_more_or_less_is_corrupt_wherever_it_is() {
    for record in samples() {
        let bytes = encode(&record);
        for at in 0..=bytes.len() {
            for byte in [0, 1, b'x', 0xff] {
                let mut longer = bytes.clone();
                longer.insert(at, byte);
                refusal(&longer);
            }
        }
        for at in 0..bytes.len() {
            let mut shorter = bytes.clone();
            shorter.remove(at);
            refusal(&shorter);
        }
    }
}

/// What the checksums say must not be all that stands between a forger and a panic.
#[test]
fn forged_records_are_read_or_refused_and_never_panic() {
    for record in samples() {
        let bytes = encode(&record);
        for at in 0..bytes.len() {
            for byte in [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'\r', b'\n', bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                let forged = overwritten(bytes.clone(), at, &[byte]);
                if let Err(error) = decode(&forged) {
                    assert!(error.is_corrupt());
                }
                let _ = CODEC.listing(&KEY, &forged);
            }
        }
    }
}

#[test]
fn a_record_of_a_newer_version_says_so() {
    for version in [2, 3, 255] {
        assert!(refusal(&overwritten(encode_entry(plain()), 4, &[version])).contains("written by a newer version"));
    }
    assert!(refusal(&overwritten(encode_entry(plain()), 4, &[0])).contains("no version"));
}

#[test]
fn unknown_magic_kinds_and_flags_are_refused() {
    let bytes = encode_entry(plain());
    assert_eq!(refusal(&overwritten(bytes.clone(), 0, b"x")), "not a record");
    assert_eq!(refusal(&[b'x'; 4096]), "not a record");
    for kind in [0, 3, 255] {
        assert!(refusal(&overwritten(bytes.clone(), 5, &[kind])).contains("kind"));
    }
    for bit in [0, 1] {
        assert_ne!(refusal(&overwritten(bytes.clone(), 6, &(1u16 << bit).to_le_bytes())), "", "it is not packed");
    }
    for bit in 2..16 {
        assert!(refusal(&overwritten(bytes.clone(), 6, &(1u16 << bit).to_le_bytes())).contains("flags"));
    }
}

#[test]
fn lengths_that_claim_more_than_there_is_are_refused_before_anything_is_made_for_them() {
    let stream = encode_entry(stream());
    let front = u32::from_le_bytes(stream[48..52].try_into().unwrap()) as usize;
    let table = position(&stream, b"data: {") - 12;
    let name = position(&stream, b"content-type");
    let tag = position(&stream, b"team:blue");
    for (what, at, claim) in [
        ("the whole", 40, &(1u64 << 60).to_le_bytes()[..]),
        ("the whole, within the bound", 40, &(1u64 << 19).to_le_bytes()),
        ("the front", 48, &u32::MAX.to_le_bytes()),
        ("the front, less than its least", 48, &59u32.to_le_bytes()),
        ("the front, nothing", 48, &0u32.to_le_bytes()),
        ("the body", 92, &(1u64 << 60).to_le_bytes()),
        ("the body, less than there is", 92, &1u64.to_le_bytes()),
        ("the count of tags", tag - 4, &u16::MAX.to_le_bytes()),
        ("the count of tags, within the cap", tag - 4, &4096u16.to_le_bytes()),
        ("a tag", tag - 2, &0xfffeu16.to_le_bytes()),
        ("a tag that is none", tag - 2, &0xffffu16.to_le_bytes()),
        ("the count of fields", front, &u16::MAX.to_le_bytes()),
        ("the count of fields, within the cap", front, &4096u16.to_le_bytes()),
        ("a field name", name - 6, &u16::MAX.to_le_bytes()),
        ("a field value", name - 4, &(u32::MAX >> 1).to_le_bytes()),
        ("the count of frames", table - 4, &u32::MAX.to_le_bytes()),
        ("the count of frames, within the cap", table - 4, &(1u32 << 18).to_le_bytes()),
        ("a frame", table, &u32::MAX.to_le_bytes()),
    ] {
        let mut forged = stream.clone();
        forged[at..at + claim.len()].copy_from_slice(claim);
        assert!(!refusal(&forge(forged)).contains("damaged"), "{what}");
    }
    let variants = encode(&samples()[2]);
    assert!(refusal(&overwritten(variants.clone(), 68, &[255])).contains("cut short"));
    assert!(refusal(&overwritten(variants, 69, &u16::MAX.to_le_bytes())).contains("more of something"));
}

#[test]
fn frames_are_not_empty_and_make_up_the_body() {
    let stream = encode_entry(stream());
    let table = position(&stream, b"data: {") - 12;
    for lengths in [[0u32, 41, 16], [22, 21, 15], [22, 20, 14]] {
        let lengths: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        assert_eq!(lengths.len(), 12);
        assert_eq!(refusal(&overwritten(stream.clone(), table, &lengths)), "the record's frames do not make up its body");
    }
}

#[test]
fn a_stored_field_can_neither_split_a_response_nor_frame_it() {
    let bytes = encode_entry(plain());
    let at = position(&bytes, b"x-placeholder-017");
    for name in ["transfer-encoding", "x-inject\r\nevil: 1", "x place holder 01", "\0placeholder-017x"] {
        assert_eq!(name.len(), 17);
        assert!(refusal(&overwritten(bytes.clone(), at, name.as_bytes())).contains("header field"), "{name:?}");
    }
    for value in [b"\r", b"\n", b"\0", b"\x7f"] {
        assert_eq!(refusal(&overwritten(bytes.clone(), at + 17, value)), "the record has an invalid header field");
    }
    // The name in another case is the same name.
    assert!(refusal(&overwritten(bytes.clone(), at, b"Transfer-Encoding")).contains("never stored"));

    let stream = encode_entry(stream());
    let at = position(&stream, b"x-placeholder-t14");
    assert!(refusal(&overwritten(stream, at, b"transfer-encoding")).contains("never stored"));
}

#[test]
fn a_stored_content_length_tells_the_length_of_the_body() {
    let bytes = encode_entry(plain());
    let at = position(&bytes, b"content-length") + 14;
    for value in ["12", "14", "99", "+9", " 1", "-1", "0x", "1,"] {
        assert!(refusal(&overwritten(bytes.clone(), at, value.as_bytes())).contains("content-length"), "{value:?}");
    }
    // Over an empty body one may stand, as in the answer to HEAD.
    let mut head = plain();
    head.body = Frames::default();
    let back = decode(&encode_entry(head.clone())).unwrap().response().unwrap();
    assert_eq!(*back, head);
    // But not two, whatever they say.
    let mut twice = plain();
    twice.headers = fields(&[("content-length", "13"), ("content-lengt1", "13")]);
    let bytes = encode_entry(twice);
    let at = position(&bytes, b"content-lengt1");
    assert!(refusal(&overwritten(bytes, at, b"content-length")).contains("content-length"));
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let mut entry = plain();
    for (name, value) in [
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("content-length", "13"),
    ] {
        entry.headers.append(name, HeaderValue::from_static(value));
    }
    entry.trailers = Some(fields(&[("content-length", "13"), ("trailer", "x"), ("transfer-encoding", "chunked"), ("x-sum", "1")]));
    let back = decode(&encode_entry(entry)).unwrap().response().unwrap();
    assert_eq!(back.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type", "x-placeholder-017"]);
    assert_eq!(back.trailers, Some(fields(&[("x-sum", "1")])));
}

#[test]
fn interim_statuses_are_neither_written_nor_read() {
    let mut entry = plain();
    entry.status = StatusCode::SWITCHING_PROTOCOLS;
    assert_eq!(CODEC.encode(&KEY, &Record::Response(Arc::new(entry))), None);
    for status in [0u16, 99, 100, 103, 199, 1000, u16::MAX] {
        assert!(refusal(&overwritten(encode_entry(plain()), 100, &status.to_le_bytes())).contains("status"), "{status}");
    }
    for status in [200u16, 206, 304, 999] {
        let back = decode(&overwritten(encode_entry(plain()), 100, &status.to_le_bytes())).unwrap();
        assert_eq!(back.response().unwrap().status.as_u16(), status);
    }
}

#[test]
fn flags_and_texts_are_what_they_can_be() {
    let bytes = encode_entry(stream());
    let trailers = position(&bytes, b"[DONE]\n\n") + 8;
    assert!(refusal(&overwritten(bytes.clone(), trailers, &[2])).contains("flag"));
    assert!(refusal(&overwritten(bytes.clone(), trailers, &[0])).contains("more in it"));
    let tag = position(&bytes, b"team:blue");
    assert!(refusal(&overwritten(bytes, tag, &[0xff])).contains("UTF-8"));
}

#[test]
fn the_bound_holds_both_ways() {
    let record = &samples()[1];
    let bytes = encode(record);
    let (just, under) = (Codec::new(bytes.len()), Codec::new(bytes.len() - 1));
    assert_eq!(just.encode(&KEY, record).as_deref(), Some(&bytes[..]));
    assert_eq!(under.encode(&KEY, record), None);
    assert_eq!(&just.decode(&KEY, bytes.clone().into()).unwrap(), record);
    assert!(under.decode(&KEY, bytes.clone().into()).unwrap_err().to_string().contains("longer than allowed"));
    assert!(under.listing(&KEY, &bytes).unwrap_err().is_corrupt());
    assert_eq!(Codec::new(8).encode(&KEY, &Record::Response(Arc::new(plain()))), None);
}

#[test]
fn what_the_form_has_no_room_for_is_not_written() {
    let refused = |change: fn(&mut Entry)| {
        let mut entry = plain();
        change(&mut entry);
        assert_eq!(Codec::new(1 << 28).encode(&KEY, &Record::Response(Arc::new(entry))), None);
    };
    refused(|entry| entry.metadata.tags = vec![String::new(); MAX_LISTED + 1]);
    refused(|entry| entry.metadata.labels = vec![Default::default(); MAX_LISTED + 1].into());
    refused(|entry| entry.metadata.model = Some("x".repeat(65_535).into()));
    refused(|entry| {
        entry.headers.extend((0..=MAX_FIELDS).map(|_| (None, HeaderValue::from_static("x"))).fold(
            HeaderMap::new(),
            |mut map, (_, value): (Option<HeaderName>, _)| {
                map.append("x", value);
                map
            },
        ))
    });
    refused(|entry| entry.body = Frames::new((0..=MAX_FRAMES).map(|_| Bytes::from_static(b"x"))));
}

#[test]
fn an_error_shows_nothing_of_the_record() {
    let mut bytes = encode_entry(stream());
    let at = position(&bytes, b"team:blue");
    bytes[at] ^= 1;
    let error = decode(&bytes).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("eam:blue"));
}

fn any_name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![Just("content-type"), Just("set-cookie"), Just("vary"), Just("cache-control"), Just("etag"), Just("x-a"), Just("x-b")]
        .prop_map(HeaderName::from_static)
        .boxed()
        .prop_union("[a-z0-9!#$%&'*+.^_`|~-]{1,40}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap()).boxed())
        .prop_filter("not of a connection", |name| !is_framing(name))
}

fn any_value() -> impl Strategy<Value = HeaderValue> {
    let byte = prop_oneof![8 => 0x20u8..0x7f, 2 => 0x80u8..=0xff, 1 => Just(b'\t')];
    (vec(byte, 0..60), any::<bool>()).prop_map(|(bytes, sensitive)| {
        let mut value = HeaderValue::from_bytes(&bytes).unwrap();
        value.set_sensitive(sensitive);
        value
    })
}

fn any_fields() -> impl Strategy<Value = HeaderMap> {
    vec((any_name(), any_value()), 0..24).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    })
}

fn any_body() -> impl Strategy<Value = Frames> {
    let frame = (0..2000usize, any::<u8>()).prop_map(|(len, first)| (0..len).map(|at| first.wrapping_add(at as u8)).collect());
    vec(frame.prop_map(|frame: Vec<u8>| Bytes::from(frame)), 0..12).prop_map(Frames::new)
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    (0..1u64 << 50).prop_map(at)
}

fn any_lifetime() -> impl Strategy<Value = Lifetime> {
    (any_time(), any::<[u64; 4]>()).prop_map(|(since, spans)| {
        let [fresh_for, stale_while_revalidate, stale_if_error, kept_for] = spans.map(Duration::from_millis);
        Lifetime { since, fresh_for, stale_while_revalidate, stale_if_error, kept_for }
    })
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let audio = prop_oneof![Just([0; 3]), any::<[u64; 3]>()];
    (any::<[u64; 6]>(), audio).prop_map(|(text, [audio_input, audio_cache_read, audio_output])| {
        let [input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning] = text;
        Usage { input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning, audio_input, audio_cache_read, audio_output }
    })
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let text = || "\\PC{0,30}";
    let shared = || option::of(text().prop_map(Arc::from));
    let texts = (shared(), shared(), shared(), shared(), shared());
    let times = (option::of(any_time()), any::<u64>(), any::<u64>());
    let lists = (vec(text(), 0..5), vec((text(), text()), 0..5));
    (texts, times, option::of(any_usage()), lists).prop_map(
        |((request_id, provider, model, upstream_request_id, service_tier), (cached_at, took, first_byte), usage, (tags, labels))| {
            Metadata {
                request_id,
                provider,
                model,
                cached_at,
                upstream_time: Duration::from_micros(took),
                upstream_first_byte: Duration::from_micros(first_byte),
                usage,
                service_tier,
                tags,
                labels: labels.into(),
                upstream_request_id,
            }
        },
    )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let status = (200u16..=999).prop_map(|status| StatusCode::from_u16(status).unwrap());
    (status, any_fields(), any_body(), option::of(any_fields()), any_lifetime(), any_metadata(), any::<bool>()).prop_map(
        |(status, mut headers, body, trailers, lifetime, metadata, measured)| {
            if measured {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            }
            Entry { status, headers, body, trailers, lifetime, metadata }
        },
    )
}

proptest! {
    #[test]
    fn any_entry_comes_back_as_it_was(entry in any_entry(), key: [u8; 32]) {
        let key = Key::from_bytes(key);
        let record = Record::Response(Arc::new(entry.clone()));
        let bytes = CODEC.encode(&key, &record).unwrap();
        prop_assert_eq!(CODEC.listing(&key, &bytes).unwrap(), Listing::of(key, &record));
        let back = CODEC.decode(&key, bytes.into()).unwrap().response().unwrap();
        prop_assert_eq!(&*back, &entry);
        let shown = |map: &HeaderMap| map.iter().map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive())).collect::<Vec<_>>();
        prop_assert_eq!(shown(&back.headers), shown(&entry.headers));
        prop_assert_eq!(back.trailers.as_ref().map(shown), entry.trailers.as_ref().map(shown));
        prop_assert_eq!(back.body.as_slice(), entry.body.as_slice());
    }

    #[test]
    fn any_variants_come_back_as_they_were(
        fields in vec(vec(any_name(), 0..6), 0..9), tags in vec(("[!-~]{0,256}", any::<[u8; 32]>()), 0..9), epoch: u64, expires in any_time()
    ) {
        let tags = tags.into_iter().map(|(tag, key)| (HeaderValue::try_from(tag).unwrap(), Key::from_bytes(key))).collect();
        let record = Record::Variants(Arc::new(Variants { fields, tags, epoch, expires }));
        prop_assert_eq!(decode(&encode(&record)).unwrap(), record);
    }

    #[test]
    fn any_bytes_behind_a_right_beginning_are_refused_without_a_panic(entry in any_entry(), noise in vec(any::<u8>(), 1..300), at: prop::sample::Index) {
        let mut bytes = encode_entry(entry);
        let at = 48 + at.index(bytes.len() - 48);
        let end = bytes.len().min(at + noise.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        if let Err(error) = decode(&forge(bytes)) {
            prop_assert!(error.is_corrupt());
        }
    }
}
