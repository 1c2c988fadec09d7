//! The cache in a `reqwest-middleware` client, for programs that are written with one.

use std::time::Duration;

use reqwest_middleware::ClientBuilder;
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, CacheOptions, Sharing, store::Memory};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Plain HTTP needs no TLS, but reqwest wants to know whose it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = server().await?;
    let cache = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential));
    let client = ClientBuilder::new(reqwest::Client::builder().no_proxy().build()?).with(cache).build();

    for _ in 0..2 {
        let options = CacheOptions::new().ttl(Duration::from_secs(60)).label("route", "questions");
        let response = client.post(&server).body("a question").with_extension(options).send().await?;
        println!("{}", response.headers()["cache-status"].to_str()?);
        println!("{} from {}", response.status(), if response.url().as_str() == server { "the server" } else { "elsewhere" });
        println!("{}", response.text().await?);
    }
    Ok(())
}

/// Something to talk to.
async fn server() -> std::io::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let app = axum::Router::new().fallback(|body: String| async move { format!("the answer to {body:?}") });
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}
