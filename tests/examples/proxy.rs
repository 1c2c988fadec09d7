use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Router, routing::get};
use http::{Method, header::CACHE_CONTROL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::program::{Server, example, http, timeless};

#[tokio::test]
async fn the_proxy_answers_from_its_cache_what_the_origin_lets_it_keep() {
    let calls = Arc::new(AtomicU32::new(0));
    let page = |directives: &'static str| {
        let calls = calls.clone();
        get(async move || ([(CACHE_CONTROL, directives)], format!("call {}", calls.fetch_add(1, Ordering::SeqCst) + 1)))
    };
    let origin = Router::new().route("/kept", page("max-age=60").post(async || "written")).route("/private", page("private"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, origin).await });

    let proxy = Server::start_with("proxy", &["--listen", "127.0.0.1:0", "--origin", &address, "--name", "front"]).await;
    for (method, path, body, cache) in [
        (Method::GET, "/kept", "call 1", "front; fwd=uri-miss; fwd-status=200; stored"),
        (Method::GET, "/kept", "call 1", "front; hit"),
        (Method::GET, "/private", "call 2", "front; fwd=uri-miss; fwd-status=200"),
        (Method::GET, "/private", "call 3", "front; fwd=uri-miss; fwd-status=200"),
        // A write outdates what was read there (RFC 9111, section 4.4).
        (Method::POST, "/kept", "written", "front; fwd=method"),
        (Method::GET, "/kept", "call 4", "front; fwd=uri-miss; fwd-status=200; stored"),
    ] {
        let answer = http().request(method.clone(), format!("{}{path}", proxy.url)).send().await.unwrap();
        assert_eq!(answer.headers()["via"], "1.1 front");
        assert_eq!(timeless(answer.headers()["cache-status"].to_str().unwrap()), cache, "{method} {path}");
        assert_eq!(answer.text().await.unwrap(), body);
    }
}

/// An origin that says the same to each request, and hangs up.
async fn says(what: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(what.as_bytes()).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn a_length_that_the_transfer_coding_overrides_cuts_nothing_off() {
    let origin = says(
        "HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n",
    )
    .await;
    let proxy = Server::start_with("proxy", &["--listen", "127.0.0.1:0", "--origin", &origin]).await;
    for cache in ["fwd=uri-miss; fwd-status=200; stored", "hit"] {
        let answer = http().get(&proxy.url).send().await.unwrap();
        assert_eq!(timeless(answer.headers()["cache-status"].to_str().unwrap()), format!("tower-response-cache; {cache}"));
        assert_eq!(answer.text().await.unwrap(), "abcdef");
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let origin = says("HTTP/1.1 101 Switching Protocols\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n").await;
    let proxy = Server::start_with("proxy", &["--listen", "127.0.0.1:0", "--origin", &origin]).await;
    assert_eq!(http().get(&proxy.url).send().await.unwrap().status(), 502);
}

#[tokio::test]
async fn what_the_proxy_cannot_run_with_is_said_in_a_line_and_an_exit_code() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, expected) in [
        (&["--origin", "/path"][..], 1, "proxy: --origin is a URL without a host"),
        (&["--origin", "ftp://h"], 1, "proxy: --origin is neither an http nor an https URL"),
        (&["--origin", "http://h/base"], 1, "proxy: --origin is a URL with a path"),
        (&["--origin", "http://me:hush@h"], 1, "proxy: --origin is a URL with credentials"),
        (&["--origin", "http://:80"], 1, "proxy: --origin is a URL without a host, or whose port is none"),
        (&["--origin", "http://h:65536"], 1, "proxy: --origin is a URL without a host, or whose port is none"),
        (&["--origin", "http://h", "--origin-timeout", "0"], 2, "--origin-timeout"),
        (&["--origin", "http://h", "--body-idle", "0"], 2, "--body-idle"),
        (&["--origin", "http://h", "--name", "two words"], 2, "not a token"),
        (&["--origin", "http://h", "--name", ""], 2, "--name"),
        (&["--origin", "http://h", "--memory", "17592186044416"], 2, "--memory"),
        (&["--origin", "http://h", "--redis", "postgres://me:hush@h"], 1, "proxy: not a URL of redis"),
        (&["--origin", "http://h", "--listen", &taken], 1, "proxy: cannot listen on"),
        (&["--origin", "http://h", "--admin-listen", "0.0.0.0:0"], 1, "proxy: the admin listener would be open to others"),
        (
            &["--origin", "http://h", "--admin-listen", "0.0.0.0:0", "--admin-token", ""],
            1,
            "set a token (--admin-token or PROXY_ADMIN_TOKEN)",
        ),
    ] {
        let output = example("proxy").args(args).output().await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(expected) && !error.contains("hush"), "{args:?}: {error}");
    }
}
