//! Upstreams behind TLS: verified, or not asked at all.

use std::{convert::Infallible, io::Write as _, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{harness::chat, program::Running};

/// A server with a certificate of its own making, for `localhost`; answers with the version that was spoken.
async fn server() -> (SocketAddr, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut trusted = tempfile::NamedTempFile::new().unwrap();
    trusted.write_all(made.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A caller that does not trust this hangs up.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request: Request<Incoming>| async move {
                    let spoken = format!("{:?} for {:?}", request.version(), request.uri().authority().map(|authority| authority.host()));
                    let json = serde_json::json!({"spoken": spoken}).to_string();
                    let response = Response::builder().header("content-type", "application/json").body(Full::new(Bytes::from(json)));
                    Ok::<_, Infallible>(response.unwrap())
                });
                Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    (address, trusted)
}

#[tokio::test]
async fn a_certificate_that_is_trusted_is_spoken_to_in_http_2() {
    let (address, trusted) = server().await;
    let url = format!("https://localhost:{}", address.port());
    let router = Running::start_with(&["--upstream", &url], &[("SSL_CERT_FILE", trusted.path().to_str().unwrap())]).await;
    let answer = router.ask(chat("hello")).await;
    assert_eq!((answer.status, answer.cache()), (200, "fwd=miss"), "{answer:?}");
    assert_eq!(answer.json()["spoken"], "HTTP/2.0 for Some(\"localhost\")");
}

#[tokio::test]
async fn one_that_is_not_trusted_or_for_another_name_is_not_asked() {
    let (address, trusted) = server().await;
    let (_, other) = server().await;
    for (host, trusted) in [("localhost", &other), ("127.0.0.1", &trusted)] {
        let url = format!("https://{host}:{}", address.port());
        let router = Running::start_with(&["--upstream", &url], &[("SSL_CERT_FILE", trusted.path().to_str().unwrap())]).await;
        let answer = router.ask(chat("hello")).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &serde_json::json!("upstream_unreachable")), "{host}");
        router.logged("invalid peer certificate").await;
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_finish_the_handshake_is_given_up() {
    let (_, trusted) = server().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
    let environment = [("SSL_CERT_FILE", trusted.path().to_str().unwrap())];
    let router = Running::start_with(&["--upstream", &url, "--connect-timeout-seconds", "1"], &environment).await;
    let answer = router.ask(chat("hello")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &serde_json::json!("upstream_timeout")));
}
