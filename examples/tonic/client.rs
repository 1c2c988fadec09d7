//! A cache around a tonic channel: what was asked before does not leave this process.
//!
//! ```text
//! cargo run --example tonic-client http://127.0.0.1:50051
//! ```

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
#[rustfmt::skip]
#[path = "library.rs"]
mod library;

use library::{Book, BookRequest, ShelfRequest, library_client::LibraryClient};
use tonic::{body::Body, metadata::MetadataMap, transport::Channel};
use tower::ServiceBuilder;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_response_cache::{BoxError, CacheLayer, GrpcPolicy, Sharing, store::Memory};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".to_owned());
    let policy = GrpcPolicy::new(Sharing::PerCredential).method("library.Library/GetBook").method("library.Library/ListBooks");
    let channel = Channel::from_shared(server)?.connect().await?;
    let channel = ServiceBuilder::new()
        .layer(CacheLayer::new(Memory::default(), policy).name("client"))
        .layer(MapRequestBodyLayer::new(Body::new))
        .service(channel);
    let mut client = LibraryClient::new(channel);

    for title in ["Emma", "Emma", "lost", "lost"] {
        match client.get_book(BookRequest { title: title.to_owned() }).await {
            Ok(answer) => println!("{} (call {}): {}", answer.get_ref().title, answer.get_ref().call, cache_of(answer.metadata())),
            Err(status) => println!("{title}: {:?}, {}", status.code(), status.message()),
        }
    }
    for _ in 0..2 {
        let answer = client.list_books(ShelfRequest { shelf: "north".to_owned(), books: 3 }).await?;
        let cache = cache_of(answer.metadata());
        let mut books = answer.into_inner();
        while let Some(Book { title, call }) = books.message().await? {
            println!("{title} (call {call})");
        }
        println!("{cache}; trailers: {}", fields(books.trailers().await?));
    }
    let notes = ["one", "two"].map(|text| library::Note { text: text.to_owned() });
    let answer = client.talk(tokio_stream::iter(notes)).await?;
    println!("{}", cache_of(answer.metadata()));
    Ok(())
}

/// Metadata as text.
fn fields(metadata: Option<MetadataMap>) -> String {
    let fields = metadata.unwrap_or_default().into_headers();
    let mut fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name} {}", String::from_utf8_lossy(value.as_bytes()))).collect();
    fields.sort_unstable();
    fields.join(", ")
}

/// What this process's cache says, which comes after what caches nearer to the origin say.
fn cache_of(metadata: &MetadataMap) -> String {
    let last = metadata.get_all("cache-status").iter().next_back();
    last.and_then(|status| status.to_str().ok()).unwrap_or_default().to_owned()
}
