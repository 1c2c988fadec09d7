use std::time::SystemTime;

use http::{HeaderValue, Request};

use super::*;

fn policy() -> GrpcPolicy {
    GrpcPolicy::new(Sharing::PerCredential).method("l.Library/GetBook").key_metadata(HeaderName::from_static("x-region"))
}

fn call(edit: impl FnOnce(&mut req::Parts)) -> req::Parts {
    let request =
        Request::post("http://books.example/l.Library/GetBook").header("content-type", "application/grpc").header("te", "trailers");
    let mut parts = request.header("authorization", "Bearer one").body(()).unwrap().into_parts().0;
    edit(&mut parts);
    parts
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut req::Parts) {
    move |parts| _ = parts.headers.insert(name, HeaderValue::from_static(value))
}

const MESSAGE: &[u8] = b"\0\0\0\0\x01m";

#[test]
fn only_listed_methods_of_grpc_are_admitted() {
    let admit = |policy: &GrpcPolicy, edit: Box<dyn FnOnce(&mut req::Parts)>| policy.admit(&mut call(edit), &mut CacheOptions::new());
    for (admission, edit) in [
        (Admission::Cache, Box::new(|_: &mut req::Parts| {}) as Box<dyn FnOnce(&mut req::Parts)>),
        (Admission::Cache, Box::new(set("content-type", "application/grpc+proto"))),
        (Admission::Cache, Box::new(set("content-type", "Application/gRPC;charset=utf-8"))),
        (Admission::Bypass(Bypass::Method), Box::new(set("content-type", "application/grpc-web+proto"))),
        (Admission::Bypass(Bypass::Method), Box::new(set("content-type", "application/json"))),
        (Admission::Bypass(Bypass::Method), Box::new(|parts| drop(parts.headers.remove("content-type")))),
        (Admission::Bypass(Bypass::Method), Box::new(|parts| parts.method = Method::GET)),
        (Admission::Bypass(Bypass::Path), Box::new(|parts| parts.uri = "/l.Library/DeleteBook".parse().unwrap())),
        (Admission::Bypass(Bypass::Path), Box::new(|parts| parts.uri = "/l.Library/GetBook/".parse().unwrap())),
        (Admission::Bypass(Bypass::Upgrade), Box::new(set("upgrade", "h2c"))),
    ] {
        assert_eq!(admit(&policy(), edit), admission);
    }
    assert_eq!(admit(&GrpcPolicy::new(Sharing::Shared).method("/l.Library/GetBook"), Box::new(|_| {})), Admission::Cache);
    assert_eq!(admit(&GrpcPolicy::new(Sharing::Shared), Box::new(|_| {})), Admission::Bypass(Bypass::Path));
}

#[test]
fn what_separates_calls_and_what_does_not() {
    let key = |policy: &GrpcPolicy, parts: &req::Parts, body: &[u8]| {
        policy.identify(&Envelope::new(""), parts, body, &CacheOptions::new(), 0).map(|identity| identity.key)
    };
    let base = key(&policy(), &call(|_| {}), MESSAGE).unwrap();
    for (shares, edit) in [
        (true, Box::new(set("grpc-timeout", "1S")) as Box<dyn FnOnce(&mut req::Parts)>),
        (true, Box::new(set("grpc-accept-encoding", "gzip"))),
        (true, Box::new(set("grpc-trace-bin", "AAAA"))),
        (true, Box::new(set("user-agent", "grpc-c/1"))),
        (true, Box::new(set("x-other", "1"))),
        (true, Box::new(set("accept", "*/*"))),
        (false, Box::new(set("x-region", "eu"))),
        (false, Box::new(set("authorization", "Bearer two"))),
        (false, Box::new(set("grpc-encoding", "gzip"))),
        (false, Box::new(set("content-type", "application/grpc+json"))),
        (false, Box::new(|parts| parts.uri = "http://books.example/l.Library/ListBooks".parse().unwrap())),
        (false, Box::new(|parts| parts.uri = "http://other.example/l.Library/GetBook".parse().unwrap())),
    ] {
        let parts = call(edit);
        assert_eq!(key(&policy(), &parts, MESSAGE).unwrap() == base, shares, "{parts:?}");
    }
    assert_ne!(key(&policy(), &call(|_| {}), b"\0\0\0\0\x01n").unwrap(), base);
    assert_ne!(key(&policy(), &call(|_| {}), b"\x01\0\0\0\x01m").unwrap(), base, "compressed is not plain");
    assert_eq!(key(&policy(), &call(|_| {}), b"\0\0\0\0\x01m\0\0\0\0\0"), Err(Bypass::Streaming));
    let compressed = policy().store_compressed(true);
    assert_ne!(
        key(&compressed, &call(set("grpc-accept-encoding", "gzip")), MESSAGE),
        key(&compressed, &call(set("grpc-accept-encoding", "identity")), MESSAGE)
    );
    let credential = policy().credential_metadata(HeaderName::from_static("x-token"));
    assert_ne!(key(&credential, &call(set("x-token", "1")), MESSAGE), key(&credential, &call(set("x-token", "2")), MESSAGE));
}

#[test]
fn what_is_stored_succeeded_and_is_readable_by_all() {
    let head = |fields: &[(&'static str, &'static str)]| {
        let mut head = Response::new(()).into_parts().0;
        head.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        for (name, value) in fields {
            head.headers.insert(*name, HeaderValue::from_static(value));
        }
        head
    };
    let moment = Moment { now: SystemTime::UNIX_EPOCH, luck: 0.0, waited: Duration::ZERO };
    let store = |policy: &GrpcPolicy, head: &res::Parts| policy.store(&call(|_| {}), &CacheOptions::new(), head, None, moment).map(drop);
    for (fields, expected) in [
        (&[][..], Ok(())),
        (&[("grpc-status", "0")], Ok(())),
        (&[("grpc-encoding", "identity")], Ok(())),
        (&[("grpc-status", "5")], Err(NotStored::GrpcStatus)),
        (&[("grpc-status", "4")], Err(NotStored::Personal)),
        (&[("grpc-status", "16")], Err(NotStored::Personal)),
        (&[("grpc-encoding", "gzip")], Err(NotStored::Encoded)),
        (&[("content-type", "text/html")], Err(NotStored::Status)),
        (&[("cache-control", "no-store")], Err(NotStored::Forbidden)),
    ] {
        assert_eq!(store(&policy(), &head(fields)), expected, "{fields:?}");
    }
    assert_eq!(store(&policy().store_compressed(true), &head(&[("grpc-encoding", "gzip")])), Ok(()));

    let complete = |status: Option<&'static str>| {
        let mut trailers = HeaderMap::new();
        status.map(|status| trailers.insert("grpc-status", HeaderValue::from_static(status)));
        policy().complete(&head(&[]), Some(&trailers))
    };
    assert_eq!(complete(Some("0")), Ok(()));
    assert_eq!(complete(Some("13")), Err(NotStored::GrpcStatus));
    assert_eq!(complete(None), Err(NotStored::Incomplete));
    assert_eq!(policy().complete(&head(&[]), None), Err(NotStored::Incomplete));
    assert_eq!(policy().complete(&head(&[("content-type", "Application/gRPC+proto")]), None), Err(NotStored::Incomplete));
    assert_eq!(policy().complete(&head(&[("grpc-status", "0")]), None), Ok(()));
}

#[test]
fn the_upstream_is_asked_for_plain_messages_and_given_time_for_all() {
    for (timeout, given) in [("100m", "60000000u"), ("2M", "120000m"), ("nonsense", "nonsense")] {
        let mut parts = call(|parts| {
            set("grpc-timeout", timeout)(parts);
            set("grpc-accept-encoding", "gzip")(parts);
        });
        policy().prepare(&mut parts);
        assert_eq!(parts.headers["grpc-timeout"], given);
        assert!(!parts.headers.contains_key("grpc-accept-encoding"));
    }
    let mut parts = call(set("grpc-accept-encoding", "gzip"));
    policy().store_compressed(true).prepare(&mut parts);
    assert!(!parts.headers.contains_key("grpc-timeout"), "no caller waits for so long");
    assert!(parts.headers.contains_key("grpc-accept-encoding"));
}
