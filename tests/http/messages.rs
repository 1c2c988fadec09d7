//! The proxy as a proxy (RFC 9110 section 7.6), and Cache-Status (RFC 9211).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower_response_cache::{CacheLayer, HttpPolicy, store::Memory};

use crate::{
    admin::Admin,
    listener::Listeners,
    origin::Origin,
    proxy::{self, Proxy},
    script::{Rig, memory, run},
    wire,
};

#[tokio::test]
async fn what_is_for_one_connection_does_not_go_on() {
    run(
        HttpPolicy::shared(),
        &[
            (
                "request",
                "> | Connection: x-hop | X-Hop: 1 | Keep-Alive: 1 | TE: trailers | Proxy-Authorization: x | Proxy-Connection: x | X-End: 1 | Via: 1.0 before | Expect: 100-continue\n< 200
                 ~ X-End: 1 | Via: 1.0 before, 1.1 proxy | Host: www.example | Forwarded: ~for=127.0.0.1;host=\"www.example\";proto=http | !X-Hop | !Keep-Alive | !TE | !Proxy-Authorization | !Proxy-Connection | !Expect",
            ),
            ("response", "> \n< 200 | Connection: x-hop | X-Hop: 1 | Keep-Alive: 1 | X-End: 1\n= X-End: 1 | Via: 1.1 proxy | !X-Hop | !Keep-Alive"),
            ("post", "> POST /x?y=1 | Content-Type: a/b | @content\n< 201 | Location: /z | @made\n~ POST | /x?y=1 | Content-Length: 7 | @content\n= 201 | Location: /z | @made"),
            ("odd bytes", "> GET /a%20b;c='d'?e[]=f | X-Odd: \u{e4}\u{ff}\n< 200 | X-Odd: \u{f6}\n~ X-Odd: \u{e4}\u{ff}\n= X-Odd: \u{f6}"),
            ("no answer", "> \n< #hangup\n= 502 | Content-Type: text/plain; charset=utf-8 | Cache-Control: no-store"),
            ("no http", "> \n< #junk\n= 502"),
            ("asterisk", "> OPTIONS *\n= 501"),
        ],
    )
    .await;
}

#[tokio::test]
async fn every_response_says_what_the_cache_did() {
    run(
        HttpPolicy::shared(),
        &[
            ("miss", "> \n< 200 | Cache-Control: max-age=60\n= Cache-Status: tower-response-cache; fwd=uri-miss; fwd-status=200; stored\n> \n= Cache-Status: ~tower-response-cache; hit; ttl="),
            ("for other cookies there may be something", "> | Cookie: a=1\n< 200 | Cache-Control: max-age=60\n= Cache-Status: tower-response-cache; fwd=miss; fwd-status=200; stored"),
            ("for another query there may be something", "> QUERY / | @a\n< 200 | Cache-Control: max-age=60\n= Cache-Status: tower-response-cache; fwd=miss; fwd-status=200; stored"),
            ("for other fields there is something", "> | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo\n> | Foo: 2\n< 200 | Cache-Control: max-age=60\n= Cache-Status: tower-response-cache; fwd=vary-miss; fwd-status=200; stored"),
            ("a part of it is there", "> | Range: bytes=0-1\n< 206 | Cache-Control: max-age=60 | Content-Range: bytes 0-1/9 | @01\n> | Range: bytes=2-3\n< 206 | Cache-Control: max-age=60 | Content-Range: bytes 2-3/9 | @23\n= Cache-Status: tower-response-cache; fwd=partial; fwd-status=206; stored"),
            ("not stored", "> \n< 200 | Cache-Control: no-store\n= Cache-Status: tower-response-cache; fwd=uri-miss; fwd-status=200"),
            ("after others", "> \n< 200 | Cache-Control: max-age=60 | Cache-Status: \"Nearer\"; hit\n= Cache-Status: \"Nearer\"; hit, tower-response-cache; fwd=uri-miss; fwd-status=200; stored\n> \n= Cache-Status: ~\"Nearer\"; hit, tower-response-cache; hit"),
            ("unsafe", "> POST / | @x\n< 200\n= Cache-Status: tower-response-cache; fwd=method"),
            ("validated", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\"\n+ 9\n> \n< 304 | ETag: \"a\"\n= Cache-Status: ~tower-response-cache; fwd=stale; fwd-status=304"),
            ("stale", "> \n< 200 | Cache-Control: max-age=5\n+ 9\n> | Cache-Control: max-stale\n= Cache-Status: tower-response-cache; hit; detail=max-stale; ttl=-4"),
            ("reload", "> \n< 200 | Cache-Control: max-age=5\n> | Cache-Control: no-cache\n< 200\n= Cache-Status: tower-response-cache; fwd=request; fwd-status=200"),
        ],
    )
    .await;
}

#[tokio::test]
async fn many_who_ask_for_one_stale_page_cause_one_validation() {
    const MANY: usize = 300;
    let rig = std::sync::Arc::new(Rig::new(HttpPolicy::shared()).await);
    rig.play("> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | @1\n+ 70\n").await.unwrap();
    rig.expect_reply(&["304", "ETag: \"a\""]);
    let all = (0..MANY).map(|_| {
        let rig = std::sync::Arc::clone(&rig);
        tokio::spawn(async move { rig.send("GET", "/", &[], b"").await.unwrap() })
    });
    for answer in all.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status(), answer.body.as_slice()), (200, &b"1"[..]));
    }
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn bodies_stream_both_ways_while_they_are_stored() {
    // An origin that says the second half once the client has the first.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::in_front_of(HttpPolicy::shared(), &memory(), listener.local_addr().unwrap()).await;
    let origin = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        wire::read(&mut stream, true, false).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: max-age=60\r\n\r\nfir").await.unwrap();
        stream
    });
    let mut client = TcpStream::connect(rig.proxy).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nfir") {
        read.push(tokio::time::timeout(Duration::from_secs(20), client.read_u8()).await.unwrap().unwrap());
    }
    let mut stream = origin.await.unwrap();
    stream.write_all(b"st!").await.unwrap();
    client.read_to_end(&mut read).await.unwrap();
    assert!(read.ends_with(b"first!"));
}

#[tokio::test]
async fn a_request_of_http_1_1_that_does_not_name_one_host_is_refused() {
    let rig = Rig::new(HttpPolicy::shared()).await;
    let cases = ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: me@a\r\n"].map(|hosts| (hosts, &["/", "http://a/"][..]));
    for (hosts, targets) in cases.into_iter().chain([("Host: a\r\n", &["http://me:secret@a/"][..])]) {
        for target in targets {
            let mut client = TcpStream::connect(rig.proxy).await.unwrap();
            client.write_all(format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut read = String::new();
            client.read_to_string(&mut read).await.unwrap();
            assert!(read.starts_with("HTTP/1.1 400 "), "{target} {hosts:?}: {read}");
        }
    }
}

#[tokio::test]
async fn a_request_body_that_does_not_go_on_is_a_408_and_not_the_fault_of_the_origin() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service =
        Origin::new(&format!("http://{}", origin.local_addr().unwrap()).parse().unwrap(), false, Duration::from_secs(30)).unwrap();
    let layer = CacheLayer::new(Memory::default(), HttpPolicy::shared());
    let proxy = Proxy::new(layer.layer(service), "proxy", false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    proxy::serve(&Listeners::new(Duration::from_millis(50), CancellationToken::new()), listener, move |peer| {
        let proxy = proxy.clone();
        hyper::service::service_fn(move |request| {
            let (proxy, peer) = (proxy.clone(), peer.clone());
            async move { proxy.answer(request, peer).await }
        })
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert!(read.starts_with("HTTP/1.1 408 ") && read.contains("did not go on"), "{read}");
}

/// Reads from a connection until it has said something.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = tokio::time::timeout(Duration::from_secs(20), stream.read_u8()).await;
        read.push(byte.unwrap_or_else(|_| panic!("no {end:?} after {:?}", String::from_utf8_lossy(&read))).unwrap());
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn what_an_origin_says_before_it_answers_reaches_the_client_before_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::in_front_of(HttpPolicy::shared(), &memory(), listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(rig.proxy).await.unwrap();
    // Two at once on one connection: what is said before the second comes after all of the first.
    client.write_all(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    for page in ["/1", "/2"] {
        let asked = wire::read(&mut origin, true, false).await.unwrap();
        assert!(asked.start.contains(page));
        // A length of what has no content would take the answer for it.
        for hint in ["HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nContent-Length: 17\r\n\r\n"] {
            origin.write_all(hint.as_bytes()).await.unwrap();
            // The client has it while there is no answer yet.
            let told = read_to(&mut client, "\r\n\r\n").await;
            assert!(told.starts_with(&hint[..12]), "{told}");
            assert_eq!(told.contains("link: </style.css>"), hint.contains("Link"), "{told}");
            assert!(!told.contains("length"), "{told}");
        }
        // One that comes with the answer comes before it all the same.
        let end = "HTTP/1.1 103 Early Hints\r\nX: last\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage";
        origin.write_all(end.as_bytes()).await.unwrap();
        let told = read_to(&mut client, "page").await;
        assert!(told.starts_with("HTTP/1.1 103 Early Hints\r\nx: last\r\nvia: 1.1 proxy\r\n\r\nHTTP/1.1 200 OK\r\n"), "{told}");
    }
}

#[tokio::test]
async fn what_is_no_wish_to_remove_removes_nothing() {
    let layer = CacheLayer::new(Memory::default(), HttpPolicy::shared());
    let page = http::Response::builder().header("cache-control", "max-age=60").body(bytes::Bytes::from_static(b"page")).unwrap();
    for path in ["/a", "/b"] {
        let request = http::Request::get(format!("http://h{path}")).body(bytes::Bytes::new()).unwrap();
        assert!(layer.handle().insert(&request, page.clone(), None).await.unwrap().is_ok());
    }
    let admin = Admin::new(layer.handle(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Listeners::new(Duration::from_secs(30), CancellationToken::new()).serve(listener, move |_| {
        let admin = admin.clone();
        hyper::service::service_fn(move |request| {
            let admin = admin.clone();
            async move { admin.answer(request).await }
        })
    });
    for (query, expected) in [
        ("?tag", "HTTP/1.1 400 "),
        ("?tag=", "HTTP/1.1 400 "),
        ("?url", "HTTP/1.1 400 "),
        ("?url=", "HTTP/1.1 400 "),
        ("?", "HTTP/1.1 400 "),
        ("?all", "HTTP/1.1 400 "),
        ("?tag=none", "0 removed"),
        ("?url=http://h/a", "1 removed"),
        ("", "1 removed"),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(format!("DELETE /entries{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert!(read.contains(expected), "{query}: {read}");
    }
}

#[tokio::test]
async fn a_client_that_knows_of_no_interim_responses_gets_none() {
    let rig = Rig::new(HttpPolicy::shared()).await;
    rig.expect_reply(&["200", "#interim", "@page"]);
    let mut client = TcpStream::connect(rig.proxy).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n").await.unwrap();
    let told = read_to(&mut client, "page").await;
    assert!(told.starts_with("HTTP/1.0 200 Said\r\n"), "{told}");
}
