use crate::program::run;

#[tokio::test]
async fn a_paid_api_is_paid_once() {
    assert_eq!(
        run("reqwest", &[]).await,
        [
            "tower-response-cache; fwd=miss; fwd-status=200; stored",
            r#""\"good morning\" in French" for 3 cents so far"#,
            "tower-response-cache; hit",
            r#""\"good morning\" in French" for 3 cents so far"#,
        ]
    );
}

#[tokio::test]
async fn a_client_with_middleware_answers_from_the_cache() {
    assert_eq!(
        run("reqwest_middleware", &[]).await,
        [
            "tower-response-cache; fwd=miss; fwd-status=200; stored",
            "200 OK from the server",
            r#"the answer to "a question""#,
            "tower-response-cache; hit",
            "200 OK from the server",
            r#"the answer to "a question""#,
        ]
    );
}

#[tokio::test]
async fn hypers_client_answers_from_the_cache() {
    assert_eq!(
        run("hyper_client", &[]).await,
        [
            "tower-response-cache; fwd=miss; fwd-status=200; stored",
            r#"the answer to "a question""#,
            "tower-response-cache; hit",
            r#"the answer to "a question""#,
        ]
    );
}
