//! A cache in front of an axum route. Ask twice:
//!
//! ```text
//! cargo run --example axum
//! curl -i http://127.0.0.1:3000/slow -d 'a question'
//! ```

use std::time::Duration;

use axum::{Router, routing::post};
use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, observe::TracingObserver, store::Memory};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().init();
    let cache =
        CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential).ttl(Duration::from_secs(60))).observer(TracingObserver);
    let app = Router::new().route("/slow", post(slow)).layer(cache);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}

async fn slow(question: String) -> String {
    tokio::time::sleep(Duration::from_secs(2)).await;
    format!("the answer to {question:?}\n")
}
