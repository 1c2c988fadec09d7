//! A cache around hyper-util's client. The second of two equal requests does not reach the server.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Layer, ServiceExt};
use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, Sharing, store::Memory};

#[tokio::main]
async fn main() -> Result<(), tower_response_cache::BoxError> {
    let server = server().await?;
    let client: Client<_, RequestBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let client = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential)).layer(client);

    for _ in 0..2 {
        let request = Request::post(format!("{server}/")).body(Full::new(Bytes::from_static(b"a question")))?;
        let response = client.clone().oneshot(request).await?;
        println!("{}", response.headers()["cache-status"].to_str()?);
        let body = response.into_body().collect().await?.to_bytes();
        println!("{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

/// Something to talk to.
async fn server() -> std::io::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().fallback(|body: String| async move { format!("the answer to {body:?}") });
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}
