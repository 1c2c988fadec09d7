use http::StatusCode;

use crate::program::{Server, http, timeless};

/// The answer to a GET: its status, its body, and what the cache says.
async fn get(server: &Server, path: &str) -> (StatusCode, String, String) {
    let answer = http().get(format!("{}{path}", server.url)).send().await.unwrap();
    let cache = timeless(answer.headers()["cache-status"].to_str().unwrap());
    (answer.status(), answer.text().await.unwrap(), cache.trim_start_matches("tower-response-cache; ").to_owned())
}

async fn add(server: &Server, title: &str) -> (StatusCode, String) {
    let book = serde_json::json!({ "title": title });
    let answer = http().post(format!("{}/books", server.url)).json(&book).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn an_api_in_axum_answers_from_the_cache_until_a_write_outdates_it() {
    let server = Server::start("axum").await;
    assert_eq!(add(&server, "Emma").await, (StatusCode::CREATED, "0 outdated\n".to_owned()));
    let list = r#"{"query":1,"found":[{"title":"Emma"}]}"#;
    for cache in ["fwd=miss; fwd-status=200; stored", "hit"] {
        assert_eq!(get(&server, "/books").await, (StatusCode::OK, list.to_owned(), cache.to_owned()));
    }
    for cache in ["fwd=miss; fwd-status=200; stored", "hit"] {
        assert_eq!(
            get(&server, "/books/1").await,
            (StatusCode::OK, r#"{"query":2,"found":{"title":"Emma"}}"#.to_owned(), cache.to_owned())
        );
    }
    for query in 3..=4 {
        let (status, body, cache) = get(&server, "/books/7").await;
        assert_eq!((status, cache.as_str()), (StatusCode::NOT_FOUND, "fwd=miss; fwd-status=404"));
        assert_eq!(body, format!(r#"{{"query":{query},"found":null}}"#));
    }
    for _ in 0..2 {
        assert_eq!(get(&server, "/lucky-number").await.2, "fwd=miss; fwd-status=200");
    }

    assert_eq!(add(&server, "Persuasion").await, (StatusCode::CREATED, "1 outdated\n".to_owned()));
    let list = r#"{"query":5,"found":[{"title":"Emma"},{"title":"Persuasion"}]}"#;
    assert_eq!(get(&server, "/books").await.1, list);
    assert_eq!(get(&server, "/books/1").await.2, "hit", "what the write did not outdate stays");
}
