//! A cache in a tonic server, and another around a tonic channel.
//!
//! The service is written by hand, so that the example needs no code generator: one unary method, `/shout.Shout/Shout`.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    transport::{Channel, Server},
};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder};
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, Sharing, store::Memory};

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    text: String,
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let policy = || ApiPolicy::new(Sharing::PerCredential).paths(|path| path == "/shout.Shout/Shout");

    // The server answers equal calls from its cache.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let cached = CacheLayer::new(Memory::default(), policy());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().layer(cached).add_service(Shout).serve_with_incoming(incoming));

    // The client does too: the second call does not leave this process.
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let channel = ServiceBuilder::new()
        .layer(CacheLayer::new(Memory::default(), policy()))
        .layer(MapRequestBodyLayer::new(Body::new))
        .service(channel);
    let mut client = tonic::client::Grpc::new(channel);
    for _ in 0..2 {
        client.ready().await?;
        let request = Request::new(Line { text: "hello".to_owned() });
        let path = http::uri::PathAndQuery::from_static("/shout.Shout/Shout");
        let response = client.unary::<Line, Line, _>(request, path, ProstCodec::default()).await?;
        // One member per cache, the server's first.
        let status = response.metadata().get_all("cache-status").iter().next_back().and_then(|status| status.to_str().ok());
        println!("{} ({})", response.get_ref().text, status.unwrap_or_default());
    }
    println!("calls that reached the service: {}", CALLS.load(Ordering::SeqCst));
    Ok(())
}

#[derive(Clone)]
struct Shout;

impl NamedService for Shout {
    const NAME: &'static str = "shout.Shout";
}

impl UnaryService<Line> for Shout {
    type Response = Line;
    type Future = std::future::Ready<Result<Response<Line>, Status>>;

    fn call(&mut self, request: Request<Line>) -> Self::Future {
        CALLS.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(Response::new(Line { text: request.into_inner().text.to_uppercase() })))
    }
}

impl<B> Service<http::Request<B>> for Shout
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async { Ok(Grpc::new(ProstCodec::default()).unary(Shout, request).await) })
    }
}
