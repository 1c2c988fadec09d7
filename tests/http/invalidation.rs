//! What unsafe requests make invalid (RFC 9111 section 4.4, RFC 9875).

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn an_answer_that_is_no_error_voids_what_an_unsafe_request_was_about() {
    let (a, b) = ("> GET /a\n< 200 | Cache-Control: max-age=60 | @1\n", "> GET /b\n< 200 | Cache-Control: max-age=60 | @1\n");
    let void = |path: &str| format!("> GET {path}\n< 200 | Cache-Control: max-age=60 | @2\n= #origin | @2\n");
    let kept = |path: &str| format!("> GET {path}\n= #fresh | @1\n");
    let mut cases = Vec::new();
    for method in ["POST", "PUT", "DELETE", "PATCH", "FOO", "M-SEARCH", "get"] {
        cases.push((method.to_owned(), format!("{a}> {method} /a | @x\n< 200\n= 200 | Cache-Status: ~fwd=method\n{}", void("/a"))));
        cases.push((format!("{method} fails"), format!("{a}> {method} /a | @x\n< 500\n= 500\n{}", kept("/a"))));
    }
    for method in ["OPTIONS", "TRACE", "PROPFIND"] {
        cases.push((method.to_owned(), format!("{a}> {method} /a\n< 200\n{}", kept("/a"))));
    }
    for status in [201, 204, 299, 301, 303, 399] {
        cases.push((status.to_string(), format!("{a}> POST /a | @x\n< {status}\n{}", void("/a"))));
    }
    for status in [400, 403, 404, 499, 503, 599] {
        cases.push((status.to_string(), format!("{a}> POST /a | @x\n< {status}\n{}", kept("/a"))));
    }
    for field in ["Location", "Content-Location"] {
        for (reference, voids) in [
            ("/b", true),
            ("b", true),
            ("./b", true),
            ("http://www.example/b", true),
            ("http://WWW.example:80/b", true),
            ("//www.example/b", true),
            ("/b#x", true),
            ("/b?x", false),
            ("http://other.example/b", false),
            ("https://www.example/b", false),
            ("http://www.example:8080/b", false),
        ] {
            let then = if voids { void("/b") } else { kept("/b") };
            cases.push((format!("{field}: {reference}"), format!("{a}{b}> POST /a | @x\n< 201 | {field}: {reference}\n{then}")));
        }
        cases.push((format!("{field} of an error"), format!("{b}> POST /a | @x\n< 500 | {field}: /b\n{}", kept("/b"))));
        cases.push((format!("{field} in answer to a safe method"), format!("{b}> GET /c\n< 200 | {field}: /b\n{}", kept("/b"))));
    }
    cases.push(("another target stays".into(), format!("{a}{b}> POST /a | @x\n< 200\n{}{}", kept("/b"), void("/a"))));
    cases.push(("another query stays".into(), format!("{a}> POST /a?x | @x\n< 200\n{}", kept("/a"))));
    cases
        .push(("long content goes through".into(), format!("{a}> POST /a | @{}\n< 200 | @ok\n= @ok\n{}", "x".repeat(200_000), void("/a"))));
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (name.as_str(), case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_group_is_voided_as_a_whole() {
    let member = |path: &str, groups: &str| format!("> GET {path}\n< 200 | Cache-Control: max-age=60 | Cache-Groups: {groups} | @1\n");
    let two = format!("{}{}", member("/a", "\"x\", \"y\""), member("/b", "\"y\""));
    run(
        HttpPolicy::shared(),
        &[
            ("one", &format!("{two}> POST /c | @x\n< 200 | Cache-Group-Invalidation: \"x\"\n> GET /a\n< 200\n= #origin\n> GET /b\n= #fresh")),
            ("both", &format!("{two}> POST /c | @x\n< 200 | Cache-Group-Invalidation: \"z\", \"y\"\n> GET /a\n< 200\n= #origin\n> GET /b\n< 200\n= #origin")),
            ("an error", &format!("{two}> POST /c | @x\n< 500 | Cache-Group-Invalidation: \"y\"\n> GET /b\n= #fresh")),
            ("a safe method", &format!("{two}> GET /c\n< 200 | Cache-Group-Invalidation: \"y\"\n> GET /b\n= #fresh")),
            ("no list", &format!("{two}> POST /c | @x\n< 200 | Cache-Group-Invalidation: \"y\n> GET /b\n= #fresh")),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_answer_to_a_post_that_says_it_is_the_target_answers_a_get() {
    let post = "> POST /a | @x\n";
    run(
        HttpPolicy::shared(),
        &[
            ("same", &format!("{post}< 200 | Cache-Control: max-age=60 | Content-Location: /a | @made\n= 200 | @made | #kept | Cache-Status: ~fwd=method\n> GET /a\n= #fresh | @made\n> HEAD /a\n= #fresh")),
            ("same, absolute", &format!("{post}< 200 | Cache-Control: max-age=60 | Content-Location: http://www.example/a | @made\n= #kept\n> GET /a\n= #fresh | @made")),
            ("replaces", &format!("> GET /a\n< 200 | Cache-Control: max-age=60 | @old\n{post}< 200 | Expires: {{date+60}} | Content-Location: /a | @made\n= #kept\n> GET /a\n= #fresh | @made")),
            ("varies", "> POST /a | Foo: 1 | @x\n< 200 | Cache-Control: max-age=60 | Vary: Foo | Content-Location: /a | @made\n= #kept\n> GET /a | Foo: 1\n= #fresh | @made\n> GET /a | Foo: 2\n< 200\n= #origin"),
            ("another", &format!("{post}< 200 | Cache-Control: max-age=60 | Content-Location: /b | @made\n= @made\n> GET /a\n< 200\n= #origin\n> GET /b\n< 200\n= #origin")),
            ("not explicit", &format!("{post}< 200 | Last-Modified: {{date-100000}} | Content-Location: /a | @made\n> GET /a\n< 200\n= #origin")),
            ("no-store", &format!("{post}< 200 | Cache-Control: max-age=60, no-store | Content-Location: /a | @made\n= @made | #kept\n> GET /a\n< 200\n= #origin")),
            ("no-store asked", "> POST /a | Cache-Control: no-store | @x\n< 200 | Cache-Control: max-age=60 | Content-Location: /a | @made\n> GET /a\n< 200\n= #origin"),
            ("nothing said", &format!("{post}< 200 | Cache-Control: max-age=60 | @made\n> GET /a\n< 200\n= #origin")),
            ("not a post", "> PUT /a | @x\n< 200 | Cache-Control: max-age=60 | Content-Location: /a | @made\n> GET /a\n< 200\n= #origin"),
        ],
    )
    .await;
}
