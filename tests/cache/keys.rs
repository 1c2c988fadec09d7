//! What makes two requests the same: a table of pairs.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Version};
use tower_response_cache::{ApiPolicy, CacheLayer, CacheOptions, Handle, Sharing, key::Scope, store::Memory};

fn handle(policy: ApiPolicy) -> Handle<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), policy).handle()
}

fn chat(edit: impl FnOnce(&mut Request<Bytes>)) -> Request<Bytes> {
    let mut request = Request::post("https://api.example/v1/chat/completions?a=1&b=2")
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("authorization", "Bearer one")
        .body(Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"seed":1}"#))
        .unwrap();
    edit(&mut request);
    request
}

type Edit = Box<dyn FnOnce(&mut Request<Bytes>)>;

fn set(name: &'static str, value: &'static str) -> Edit {
    Box::new(move |request| {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    })
}

fn uri(uri: &'static str) -> Edit {
    Box::new(move |request| *request.uri_mut() = uri.parse().unwrap())
}

fn body(body: &'static str) -> Edit {
    Box::new(move |request| *request.body_mut() = Bytes::from_static(body.as_bytes()))
}

fn options(options: CacheOptions) -> Edit {
    Box::new(move |request| {
        request.extensions_mut().insert(options);
    })
}

type Pair = (&'static str, bool, Edit);

#[test]
fn what_separates_and_what_does_not() {
    let pairs: Vec<Pair> = vec![
        ("nothing", true, Box::new(|_| {})),
        ("host", false, uri("https://other.example/v1/chat/completions?a=1&b=2")),
        ("scheme", false, uri("http://api.example/v1/chat/completions?a=1&b=2")),
        ("port", false, uri("https://api.example:8443/v1/chat/completions?a=1&b=2")),
        ("path", false, uri("https://api.example/v1/completions?a=1&b=2")),
        ("encoded slash", false, uri("https://api.example/v1/chat%2Fcompletions?a=1&b=2")),
        ("dot segment", false, uri("https://api.example/v1/./chat/completions?a=1&b=2")),
        ("query order", false, uri("https://api.example/v1/chat/completions?b=2&a=1")),
        ("duplicate parameter", false, uri("https://api.example/v1/chat/completions?a=1&b=2&a=1")),
        ("no query", false, uri("https://api.example/v1/chat/completions")),
        ("method", false, Box::new(|request| *request.method_mut() = http::Method::GET)),
        ("credentials", false, set("authorization", "Bearer two")),
        ("more credentials", false, set("x-api-key", "one")),
        ("cookie", false, set("cookie", "session=1")),
        ("a vendor's own credentials", false, set("xi-api-key", "one")),
        ("a gateway's own credentials", false, set("ocp-apim-subscription-key", "one")),
        ("who a proxy says it is", false, set("x-forwarded-access-token", "one")),
        ("credentials in the authority", false, uri("https://me:secret@api.example/v1/chat/completions?a=1&b=2")),
        ("content type", false, set("content-type", "text/plain")),
        ("parameter of the content type", true, set("content-type", "application/json; charset=utf-8")),
        ("coding of the body", false, set("content-encoding", "gzip")),
        ("accept", false, set("accept", "text/event-stream")),
        ("organization", false, set("openai-organization", "org-1")),
        ("project", false, set("openai-project", "p-1")),
        ("beta", false, set("openai-beta", "assistants=v2")),
        ("anthropic version", false, set("anthropic-version", "2023-06-01")),
        ("request id", true, set("x-request-id", "1")),
        ("trace context", true, set("traceparent", "00-1-1-01")),
        ("user agent", true, set("user-agent", "curl")),
        ("date", true, set("date", "Mon, 23 Nov 2026 00:00:00 GMT")),
        ("accept-encoding", true, set("accept-encoding", "gzip, br")),
        ("http version", true, Box::new(|request| *request.version_mut() = Version::HTTP_2)),
        ("stream", false, body(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"seed":1,"stream":true}"#)),
        ("order and white space", true, body(r#"{ "seed":1, "messages":[{"content":"h\u0069","role":"user"}],"model":"m"}"#)),
        ("order of messages", false, body(r#"{"model":"m","messages":[{"role":"user","content":"hi"},{}],"seed":1}"#)),
        ("lexeme of a number", false, body(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"seed":1.0}"#)),
        ("duplicate member", false, body(r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"seed":1,"seed":1}"#)),
        ("body", false, body(r#"{"model":"m","messages":[{"role":"user","content":"ho"}],"seed":1}"#)),
        ("extra", false, options(CacheOptions::new().extra("x"))),
        ("upstream", false, options(CacheOptions::new().upstream("eu"))),
        ("scope", false, options(CacheOptions::new().scope(Scope::tenant("t")))),
        ("labels and tags", true, options(CacheOptions::new().label("provider", "p").tag("t").request_id("r"))),
    ];
    let handle = handle(ApiPolicy::new(Sharing::PerCredential).methods([http::Method::POST, http::Method::GET]));
    let base = handle.keys(&chat(|_| {})).unwrap();
    for (name, shares, edit) in pairs {
        assert_eq!(handle.keys(&chat(edit)).unwrap() == base, shares, "{name}");
    }
}

#[test]
fn what_says_how_the_bytes_of_a_body_are_read_separates() {
    let handle = handle(ApiPolicy::new(Sharing::Shared));
    let key = |content_type: &'static str| {
        let mut request = Request::post("http://a/").body(Bytes::from_static(b"--x--y")).unwrap();
        for line in content_type.lines() {
            request.headers_mut().append("content-type", HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        handle.keys(&request).unwrap()
    };
    for (one, other) in [
        ("multipart/form-data; boundary=x", "multipart/form-data; boundary=y"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-16"),
        ("text/plain", "text/plain; charset=utf-7"),
        ("application/json", "application/json; charset=iso-8859-1"),
        ("application/json", "application/json; charset=utf-8; charset=utf-16"),
        ("application/json", "application/json;odata=verbose"),
        ("application/vnd.api+json", "application/vnd.api+json; ext=\"https://ext.example\""),
        ("application/json", "application/json\n text/plain"),
        ("text/plain", "text/plain\ntext/plain"),
        ("text/\u{e4}", "text/\u{f6}"),
    ] {
        assert_ne!(key(one), key(other), "{one} and {other}");
    }
    for same in
        ["application/json;charset=utf-8", "application/json; charset=UTF-8", "application/json; Charset=\"utf-8\"", "application/json;"]
    {
        assert_eq!(key("application/json"), key(same), "{same}");
    }
    assert_eq!(key("text/plain; charset=utf-8"), key("text/plain;charset=utf-8"));
}

#[test]
fn absolute_form_and_origin_form_give_one_key() {
    let handle = handle(ApiPolicy::new(Sharing::Shared).assume_https());
    let origin_form = chat(|request| {
        *request.uri_mut() = "/v1/chat/completions?a=1&b=2".parse().unwrap();
        request.headers_mut().insert("host", HeaderValue::from_static("api.example"));
    });
    assert_eq!(handle.keys(&origin_form).unwrap(), handle.keys(&chat(|_| {})).unwrap());
}

#[test]
fn credentials_in_the_query_are_whose_not_what() {
    let gemini = |key: &str| {
        Request::post(format!("https://g.example/v1beta/models/m:generateContent?alt=sse&key={key}")).body(Bytes::new()).unwrap()
    };
    let shared = handle(ApiPolicy::new(Sharing::Shared));
    assert_eq!(shared.keys(&gemini("one")).unwrap(), shared.keys(&gemini("two")).unwrap());
    let apart = handle(ApiPolicy::new(Sharing::PerCredential));
    assert_ne!(apart.keys(&gemini("one")).unwrap(), apart.keys(&gemini("two")).unwrap());
}

#[test]
fn moving_bytes_between_neighbouring_lines_of_a_header_separates() {
    let handle = handle(ApiPolicy::new(Sharing::PerCredential).key_header(HeaderName::from_static("x-k")));
    let with = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        chat(move |request| {
            for line in lines {
                request.headers_mut().append("x-k", line.parse().unwrap());
            }
        })
    };
    let keys: std::collections::HashSet<_> = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"], &[]]
        .iter()
        .map(|lines| handle.keys(&with(lines)).unwrap())
        .collect();
    assert_eq!(keys.len(), 6);
}

#[test]
fn namespaces_share_nothing_and_ignored_members_do_not_count() {
    let of = |namespace: &str, policy: ApiPolicy| {
        CacheLayer::new(Memory::new(1 << 20), policy).namespace(namespace).handle().keys(&chat(|_| {})).unwrap()
    };
    assert_ne!(of("a", ApiPolicy::new(Sharing::Shared)), of("b", ApiPolicy::new(Sharing::Shared)));

    let handle = handle(ApiPolicy::new(Sharing::Shared).ignore_member("user"));
    let one = chat(body(r#"{"model":"m","user":"one","deep":{"user":1}}"#));
    let two = chat(body(r#"{"user":"two","model":"m","deep":{"user":1}}"#));
    let deeper = chat(body(r#"{"user":"two","model":"m","deep":{"user":2}}"#));
    assert_eq!(handle.keys(&one).unwrap(), handle.keys(&two).unwrap());
    assert_ne!(handle.keys(&one).unwrap(), handle.keys(&deeper).unwrap());
}
