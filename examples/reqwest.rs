//! A script that asks a paid JSON API twice, and pays once: the cache is a tower layer around reqwest's client.

use serde_json::{Value, json};
use tower::{Service, ServiceBuilder};
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, Sharing, convert::ConvertLayer, store::Memory};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Plain HTTP needs no TLS, but reqwest wants to know whose it would use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = api().await?;
    let reqwest = reqwest::Client::builder().no_proxy().build()?;
    let mut client = ServiceBuilder::new()
        .layer(CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential)))
        .layer(ConvertLayer::new(reqwest::Body::wrap))
        .service(reqwest.clone());

    for _ in 0..2 {
        // Requests are built as ever, and responses read as ever.
        let request = reqwest.post(format!("{api}/translate")).bearer_auth("secret").json(&json!({ "text": "good morning" })).build()?;
        let response = client.call(request.try_into()?).await?;
        let response = reqwest::Response::from(response.map(reqwest::Body::wrap));
        println!("{}", response.headers()["cache-status"].to_str()?);
        let answer: Value = response.json().await?;
        println!("{} for {} cents so far", answer["text"], answer["charged"]);
    }
    Ok(())
}

/// Something that costs 3 cents a call.
async fn api() -> std::io::Result<String> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CHARGED: AtomicU32 = AtomicU32::new(0);
    let translate = async |axum::Json(question): axum::Json<Value>| {
        let charged = CHARGED.fetch_add(3, Ordering::SeqCst) + 3;
        axum::Json(json!({ "text": format!("{} in French", question["text"]), "charged": charged }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = axum::Router::new().route("/translate", axum::routing::post(translate));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}
