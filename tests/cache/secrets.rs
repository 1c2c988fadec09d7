//! Canary secrets in every place that a request or a response has: none gets out of it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, Service};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, CacheStatus, Sharing,
    key::Scope,
    observe::{Event, TracingObserver},
    store::Memory,
};

use crate::{
    log::Log,
    origin::{Origin, data},
    store::{Fault, Scripted},
};

const CANARY: &str = "canary-5e1f";

/// A request of which every part is secret.
fn request(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://user:{CANARY}@origin/{path}/{CANARY}?key={CANARY}&q={CANARY}");
    let body = format!(r#"{{"api_key":"{CANARY}","stream":true}}"#);
    let options = CacheOptions::new().extra(CANARY).scope(Scope::tenant(CANARY)).label("provider", "p").request_id("r-1");
    let mut request =
        Request::post(uri).header("content-type", "application/json").extension(options).body(Full::new(body.into())).unwrap();
    for name in ["authorization", "cookie", "x-api-key", "x-anything", "openai-organization"] {
        request.headers_mut().insert(name, HeaderValue::from_static(CANARY));
    }
    request
}

#[tokio::test]
async fn no_secret_of_a_request_or_a_response_is_logged_shown_or_told() {
    let log = Log::default();
    // All levels and all targets: what the crate itself writes, too.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(log.writer()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let origin = Origin::new(|call| async move {
        let secret = HeaderValue::from_static(CANARY);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", secret.clone());
        match call.head.uri.path().split('/').nth(1) {
            Some("fails") => return Err("refused by the upstream".into()),
            Some("panics") => panic!("broken by a test"),
            Some("breaks") => {
                let frames = [data(CANARY), Err("broken off".into())];
                return Ok(Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()));
            }
            _ => {}
        }
        let frames = [data(format!("body {CANARY}")), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        Ok(Response::builder()
            .header("transfer-encoding", "chunked")
            .header("set-cookie", secret.clone())
            .header("x-request-id", secret.clone())
            .header("x-anything", secret)
            .body(body)
            .unwrap())
    });
    for (sharing, get, put) in [
        (Sharing::PerCredential, Fault::None, Fault::None),
        (Sharing::Shared, Fault::Fails, Fault::None),
        (Sharing::by(|_| Scope::tenant(CANARY)), Fault::None, Fault::Panics),
    ] {
        let policy = ApiPolicy::new(sharing).bypass_if(|request| request.uri.path().starts_with("/bypassed"));
        log.add(&policy);
        let store = Scripted::new(Memory::new(1 << 20)).on_get(get).on_put(put);
        let events = log.clone();
        let layer = CacheLayer::new(store, policy)
            .namespace(CANARY)
            .show_key(true)
            .observer(TracingObserver)
            .observer(move |event: &Event<'_>| events.add(event));
        let handle = layer.handle();
        log.add((&layer, &handle));
        let mut cache = layer.layer(origin.clone());
        for path in ["a", "a", "b", "bypassed", "fails", "breaks", "panics"] {
            let asked = cache.call(request(path));
            log.add(&asked);
            let answer = match tokio::spawn(asked).await {
                Ok(Ok(answer)) => answer,
                // The upstream's own error is the caller's to see; a panic has none.
                Ok(Err(_)) | Err(_) => continue,
            };
            log.add((answer.extensions().get::<CacheStatus>(), answer.headers().get("cache-status"), answer.body()));
            if answer.status() == StatusCode::OK {
                drop(answer.into_body().collect().await);
            }
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        let bytes = request("a").map(|_| Bytes::from_static(b"{}"));
        log.add(handle.keys(&bytes));
        log.add((CacheOptions::new().scope(Scope::tenant(CANARY)).mode(tower_response_cache::Mode::Off), Scope::tenant(CANARY)));
        log.add(handle.insert(&bytes, Response::builder().status(500).body(Bytes::from_static(CANARY.as_bytes())).unwrap(), None).await);
        let get = Request::get(format!("http://{CANARY}/")).body(Bytes::new()).unwrap();
        log.add(handle.keys(&get).unwrap_err());
        log.add(handle.get(&get).await.unwrap_err().to_string());
        log.add(handle.stats().await);
    }
    let text = log.text();
    for told in ["INFO", "kind=\"unavailable\"", "Request(", "Fill(", "Trouble(", "hit", "r-1", "fwd=miss"] {
        assert!(text.contains(told), "the log does not tell of {told}: nothing is proven by its silence");
    }
    let line = text.lines().find(|line| line.contains(CANARY));
    assert_eq!(line, None);
}
