//! Keys as they must stay: entries outlive the process that wrote them, and are found by it.

use bytes::Bytes;
use http::{HeaderName, Method, Request};
use serde_json::Value;
use tower_response_cache::{ApiPolicy, CacheLayer, CacheOptions, Sharing, key::Scope, store::Memory};

/// Requests and their keys: `tests/golden/keys.py` works the keys out from the format alone.
///
/// A key is the SHA-256 of `tower-response-cache/1` and then fields, each as tag byte, length as big-endian u64, bytes: namespace
/// (1), method (3), scheme (4), authority (5), path (6), query (7), the name (8) and each line (9) of header fields, upstream (10),
/// body as canonical JSON (11) or raw (12), extra (13; parts with a length each), slot if not the first (14), and last the scope (2), a SHA-256 itself.
///
/// **A key that changes orphans every entry, or worse, finds another's.** If one has to, the format is a new one: give it a new
/// domain tag, and this table the new keys beside the old.
const VECTORS: &str = include_str!("../golden/keys.json");

#[test]
fn keys_are_what_they_have_always_been() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() >= 20);
    for vector in &vectors {
        let expected: Vec<&str> = vector["keys"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(keys(vector), expected, "{}", vector["name"]);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn keys(vector: &Value) -> Vec<String> {
    let settings = &vector["policy"];
    let layer = CacheLayer::new(Memory::new(1 << 20), policy(settings)).namespace(settings["namespace"].as_str().unwrap_or_default());
    let keys = layer.handle().keys(&request(vector)).unwrap();
    keys.iter().map(ToString::to_string).collect()
}

fn policy(settings: &Value) -> ApiPolicy {
    let sharing = match settings["tenant_header"].as_str() {
        Some(name) => {
            let name = name.to_owned();
            Sharing::by(move |request| Scope::tenant(&request.headers[name.as_str()]))
        }
        None if settings["shared"] == true => Sharing::Shared,
        None => Sharing::PerCredential,
    };
    let mut policy = ApiPolicy::new(sharing)
        .methods([Method::GET, Method::POST])
        .canonical_json(settings["canonical"] != false)
        .variants(settings["variants"].as_u64().map_or(1, |n| n.try_into().unwrap()));
    for name in settings["ignore"].as_array().into_iter().flatten() {
        policy = policy.ignore_member(text(name));
    }
    for name in settings["key_headers"].as_array().into_iter().flatten() {
        policy = policy.key_header(text(name).parse::<HeaderName>().unwrap());
    }
    if settings["assume_https"] == true { policy.assume_https() } else { policy }
}

fn request(vector: &Value) -> Request<Bytes> {
    let mut request = Request::builder().method(text(&vector["method"])).uri(text(&vector["uri"]));
    for line in vector["headers"].as_array().unwrap() {
        request = request.header(text(&line[0]), text(&line[1]));
    }
    let mut options = CacheOptions::new();
    for part in vector["options"]["extra"].as_array().into_iter().flatten() {
        options = options.extra(text(part));
    }
    if let Some(upstream) = vector["options"]["upstream"].as_str() {
        options = options.upstream(upstream);
    }
    if let Some(tenant) = vector["options"]["tenant"].as_str() {
        options = options.scope(Scope::tenant(tenant));
    }
    request.extension(options).body(vector["body"].as_str().unwrap_or_default().to_owned().into()).unwrap()
}
