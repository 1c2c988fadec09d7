//! Over real connections: what a server does with a request body that nobody read, protocols that are switched, trailers.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tower::Layer;
use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, Sharing, store::Memory};

use crate::origin::{Origin, text};

/// A server with a cache in front of an upstream; returns its address.
async fn serve(origin: Origin, policy: ApiPolicy) -> std::net::SocketAddr {
    let cache = CacheLayer::new(Memory::new(16 << 20), policy).layer(origin);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(cache.clone());
            tokio::spawn(async move {
                // Clients of these tests hang up as they please.
                drop(auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

/// One connection, on which requests are written as they are.
struct Line(BufReader<TcpStream>);

impl Line {
    async fn open(address: std::net::SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    async fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The head of a response, in lower case.
    async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            self.0.read_line(&mut head).await.unwrap();
            assert!(head.len() > before, "the connection was closed after {head:?}");
        }
        head.to_ascii_lowercase()
    }

    /// A whole response with a `content-length`: status line and `cache-status`, and body.
    async fn response(&mut self) -> (String, String) {
        let head = self.head().await;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let mut body = vec![0; field("content-length: ").parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        (format!("{} {}", &head[9..12], field("cache-status: tower-response-cache; ")), String::from_utf8(body).unwrap())
    }
}

fn policy() -> ApiPolicy {
    ApiPolicy::new(Sharing::Shared).methods([Method::GET, Method::POST]).paths(|path| path.starts_with("/cached"))
}

#[tokio::test]
async fn after_a_hit_the_next_request_on_the_connection_is_read_right() {
    let origin = Origin::signed();
    let address = serve(origin.clone(), policy()).await;
    let mut line = Line::open(address).await;
    let hidden = "POST /hidden HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    // The body of each is a request in disguise: were it left on the connection, it would be answered.
    let cached = format!("POST /cached HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len());
    let chunked = format!(
        "POST /cached HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\nx-trailer: 1\r\n\r\n",
        hidden.len()
    );
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = format!("call 1 to /cached with {hidden}");

    line.write(&cached).await;
    assert_eq!(line.response().await, ("200 fwd=miss; fwd-status=200; stored".to_owned(), answer.clone()));
    for again in [&cached, &chunked] {
        // Until the first is stored, others collapse on it; then they are hits. All at once on the same connection with what follows.
        loop {
            line.write(&format!("{again}{next}")).await;
            let (status, body) = line.response().await;
            assert_eq!(body, answer);
            let (passed, body) = line.response().await;
            assert!(passed.starts_with("200 fwd=bypass; detail=path") && body.ends_with(" to /next with "), "{passed} {body}");
            if status.starts_with("200 hit") {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn after_an_answer_to_a_body_that_was_not_read_nothing_of_it_is_taken_for_a_request() {
    // The upstream answers without a look at the body, which is over the cache's limit: it was read in part.
    struct Deaf;
    impl tower::Service<Request<RequestBody<Incoming>>> for Deaf {
        type Response = http::Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<RequestBody<Incoming>>) -> Self::Future {
            std::future::ready(Ok(http::Response::new(Full::new(Bytes::from(request.uri().path().to_owned())))))
        }
    }
    impl Clone for Deaf {
        fn clone(&self) -> Self {
            Self
        }
    }
    let cache = CacheLayer::new(Memory::new(1 << 20), policy().request_limit(16)).layer(Deaf);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(cache);
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    });
    let mut line = Line::open(address).await;
    let hidden = "POST /hidden HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    line.write(&format!("POST /cached HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len())).await;
    line.write("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(line.response().await.1, "/cached");
    // The server may read the rest and go on, or hang up; it may not answer what was never asked.
    let mut rest = String::new();
    let mut chunk = [0; 1024];
    while !rest.ends_with("/next") {
        match line.0.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(n) => rest.push_str(std::str::from_utf8(&chunk[..n]).unwrap()),
        }
    }
    assert!(!rest.contains("/hidden"), "{rest}");
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_its_body_is_given_it_before_a_hit() {
    let origin = Origin::signed();
    let address = serve(origin.clone(), policy()).await;
    let mut line = Line::open(address).await;
    for round in 0..100 {
        line.write("POST /cached HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        // The key is made from the body: the cache has to read it, so the server has to ask for it.
        assert!(line.head().await.starts_with("http/1.1 100 "), "round {round}");
        line.write("body").await;
        let (status, body) = line.response().await;
        assert_eq!(body, "call 1 to /cached with body");
        line.write("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(line.response().await.1.ends_with(" to /next with "));
        if status.starts_with("200 hit") {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it was never a hit");
}

#[tokio::test]
async fn a_protocol_is_switched_through_the_cache_and_the_answer_is_nobody_elses() {
    let origin = Origin::new(|mut call| async move {
        let upgrade = hyper::upgrade::on(Request::from_parts(std::mem::replace(&mut call.head, Request::new(()).into_parts().0), ()));
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().remove("content-length");
        response.headers_mut().insert("upgrade", "echo".parse().unwrap());
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        Ok(response)
    });
    let address = serve(origin.clone(), policy()).await;
    for call in 1..=2 {
        let mut line = Line::open(address).await;
        line.write("GET /cached HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
        let head = line.head().await;
        assert!(head.starts_with("http/1.1 101 ") && head.contains("detail=upgrade"), "{head}");
        line.write("echo").await;
        let mut word = [0; 4];
        line.0.read_exact(&mut word).await.unwrap();
        assert_eq!((&word, origin.calls()), (b"echo", call));
    }
}

#[tokio::test]
async fn trailers_cross_a_real_connection_on_a_miss_and_on_a_hit() {
    let origin = Origin::new(|_| async {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [crate::origin::data("message"), Ok(http_body::Frame::trailers(trailers))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        Ok(http::Response::builder().version(http::Version::HTTP_2).header("content-type", "application/grpc").body(body).unwrap())
    });
    let address = serve(origin.clone(), policy()).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let statuses = Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..100 {
        let request = Request::post("http://a/cached").header("te", "trailers").body(Full::new(Bytes::new())).unwrap();
        let response = sender.clone().send_request(request).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
        statuses.lock().unwrap().push(status);
        if statuses.lock().unwrap().last().unwrap().contains("; hit") {
            break;
        }
    }
    assert!(statuses.lock().unwrap().last().unwrap().contains("; hit"));
    assert_eq!(origin.calls(), 1);
    connection.abort();
}

/// The layer and the body types in the router that most people have.
#[tokio::test]
async fn in_axum_a_hit_leaves_the_connection_in_order_too() {
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared));
    let app =
        axum::Router::new().route("/cached", axum::routing::post(|body: String| async move { format!("answer to {body}") })).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut line = Line::open(address).await;
    let mut hits = 0;
    for _ in 0..1000 {
        line.write("POST /cached HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbodyPOST /cached HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nother").await;
        for expected in ["answer to body", "answer to other"] {
            let (status, body) = line.response().await;
            assert_eq!(body, expected);
            hits += usize::from(status.starts_with("200 hit"));
        }
        if hits >= 4 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(hits >= 4);
    server.abort();
}
