//! A tonic server that answers equal calls from its cache. Ask it with the other example, or with any gRPC client:
//!
//! ```text
//! cargo run --example tonic-server
//! cargo run --example tonic-client http://127.0.0.1:50051
//! ```

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
#[rustfmt::skip]
#[path = "library.rs"]
mod library;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use library::{
    Book, BookRequest, Note, Receipt, ShelfRequest,
    library_server::{Library, LibraryServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Result, Status, Streaming, codec::CompressionEncoding, transport::Server};
use tower_response_cache::{BoxError, CacheLayer, GrpcPolicy, Sharing, store::Memory};

#[tokio::main]
async fn main() -> std::result::Result<(), BoxError> {
    let policy = GrpcPolicy::new(Sharing::PerCredential)
        .method("library.Library/GetBook")
        .method("library.Library/ListBooks")
        .ttl(Duration::from_secs(60));
    let cache = CacheLayer::new(Memory::default(), policy);
    let library =
        LibraryServer::new(Shelves::default()).accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip);

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:50051".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Server::builder().layer(cache).add_service(library).serve_with_incoming(TcpListenerStream::new(listener)).await?;
    Ok(())
}

/// Counts the calls that reach it, and says so in each answer.
#[derive(Clone, Default)]
struct Shelves {
    calls: Arc<AtomicU32>,
}

impl Shelves {
    fn call(&self) -> u32 {
        self.calls.fetch_add(1, Ordering::SeqCst) + 1
    }
}

#[tonic::async_trait]
impl Library for Shelves {
    type ListBooksStream = Pin<Box<dyn Stream<Item = Result<Book>> + Send>>;
    type TalkStream = Pin<Box<dyn Stream<Item = Result<Note>> + Send>>;

    async fn get_book(&self, request: Request<BookRequest>) -> Result<Response<Book>> {
        let (title, call) = (request.into_inner().title, self.call());
        if title == "lost" {
            return Err(Status::not_found(format!("call {call} found no such book")));
        }
        let mut response = Response::new(Book { title, call });
        response.metadata_mut().insert("x-shelf", "north".parse().map_err(|_| Status::internal("no metadata"))?);
        Ok(response)
    }

    async fn list_books(&self, request: Request<ShelfRequest>) -> Result<Response<Self::ListBooksStream>> {
        let (ShelfRequest { shelf, books }, call) = (request.into_inner(), self.call());
        let books = stream::iter((1..=books).map(move |n| Ok(Book { title: format!("{shelf} {n}"), call })));
        Ok(Response::new(Box::pin(books)))
    }

    async fn donate(&self, request: Request<Streaming<Book>>) -> Result<Response<Receipt>> {
        self.call();
        let books = request.into_inner().fold(0, |books, _| async move { books + 1 }).await;
        Ok(Response::new(Receipt { books }))
    }

    async fn talk(&self, request: Request<Streaming<Note>>) -> Result<Response<Self::TalkStream>> {
        self.call();
        Ok(Response::new(Box::pin(request.into_inner())))
    }
}
