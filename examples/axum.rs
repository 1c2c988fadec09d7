//! A small JSON API whose database is slow: answers are cached, handlers say for how long and under which tags, and a write drops what it outdates.
//!
//! ```text
//! cargo run --example axum
//! curl -i http://127.0.0.1:3000/books/1
//! curl -i http://127.0.0.1:3000/books -H 'content-type: application/json' -d '{"title": "Emma"}'
//! ```

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::{Method, StatusCode},
    response::IntoResponse,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tower_response_cache::{
    ApiPolicy, CacheLayer, Handle, Sharing, StoreOptions, observe::TracingObserver, store::Memory, store::Selection,
};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // The books are the same for everyone.
    let policy = ApiPolicy::new(Sharing::Shared).methods([Method::GET]).ttl(Duration::from_secs(60));
    let cache = CacheLayer::new(Memory::default(), policy).observer(TracingObserver);
    let library = Library { database: Arc::default(), cache: cache.handle() };
    let app = Router::new()
        .route("/books", get(list).post(add))
        .route("/books/{id}", get(one))
        .route("/lucky-number", get(lucky_number))
        .route_layer(cache)
        .with_state(library);

    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}

#[derive(Clone)]
struct Library {
    database: Arc<Database>,
    cache: Handle<Memory, ApiPolicy>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Book {
    title: String,
}

/// What was read, and how many queries the database had answered by then.
#[derive(Serialize)]
struct Answer<T> {
    query: usize,
    found: T,
}

async fn list(State(library): State<Library>) -> impl IntoResponse {
    let answer = library.database.read(|books| books.to_vec()).await;
    (Extension(StoreOptions::new().tag("books")), Json(answer))
}

async fn one(State(library): State<Library>, Path(id): Path<usize>) -> impl IntoResponse {
    let answer = library.database.read(|books| books.get(id.checked_sub(1)?).cloned()).await;
    let status = if answer.found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    // A book does not change.
    let options = StoreOptions::new().ttl(Duration::from_secs(86_400)).tag(format!("book:{id}"));
    (status, Extension(options), Json(answer))
}

async fn lucky_number() -> impl IntoResponse {
    (Extension(StoreOptions::new().no_store()), "4\n")
}

async fn add(State(library): State<Library>, Json(book): Json<Book>) -> impl IntoResponse {
    library.database.write(book).await;
    // What was read before the write is gone, and so is what is being read just now.
    match library.cache.invalidate(&Selection::Tag("books".to_owned())).await {
        Ok(outdated) => (StatusCode::CREATED, format!("{outdated} outdated\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the book is there, but the list may lack it for a while: {error}\n")),
    }
}

/// Takes its time.
#[derive(Default)]
struct Database {
    books: Mutex<Vec<Book>>,
    queries: AtomicUsize,
}

impl Database {
    async fn read<T>(&self, query: impl FnOnce(&[Book]) -> T) -> Answer<T> {
        sleep(Duration::from_millis(500)).await;
        let query_number = self.queries.fetch_add(1, Ordering::SeqCst) + 1;
        Answer { query: query_number, found: query(&self.books.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    async fn write(&self, book: Book) {
        sleep(Duration::from_millis(500)).await;
        self.books.lock().unwrap_or_else(PoisonError::into_inner).push(book);
    }
}
