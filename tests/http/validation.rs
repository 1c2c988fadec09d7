//! Validation (RFC 9111 section 4.3): our own conditional requests, and what the answers to them change.

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn a_stale_response_is_validated_by_all_that_it_has() {
    run(
        HttpPolicy::shared(),
        &[
            ("tag", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< 304 | ETag: \"a\"\n~ If-None-Match: \"a\" | !If-Modified-Since\n= 200 | #origin | @1 | Cache-Status: ~fwd=stale\n> \n= #fresh | @1"),
            ("weak tag", "> \n< 200 | Cache-Control: max-age=5 | ETag: W/\"a\" | @1\n+ 9\n> \n< 304 | ETag: W/\"a\"\n~ If-None-Match: W/\"a\"\n= 200 | @1"),
            ("odd tag", "> \n< 200 | Cache-Control: max-age=5 | ETag: abc\u{e4} | @1\n+ 9\n> \n< 304 | ETag: abc\u{e4}\n~ If-None-Match: abc\u{e4}\n= 200 | @1"),
            ("date", "> \n< 200 | Cache-Control: max-age=5 | Last-Modified: {date-100} | @1\n+ 9\n> \n< 304\n~ If-Modified-Since: {date-109} | !If-None-Match\n= 200 | @1"),
            ("both", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | Last-Modified: {date-100} | @1\n+ 9\n> \n< 304\n~ If-None-Match: \"a\" | If-Modified-Since: {date-109}\n= 200 | @1"),
            ("neither", "> \n< 200 | Cache-Control: max-age=5 | @1\n+ 9\n> \n< 200 | @2\n~ !If-None-Match | !If-Modified-Since\n= 200 | @2"),
            ("another response", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< 200 | Cache-Control: max-age=5 | ETag: \"b\" | @2\n= 200 | @2 | ETag: \"b\"\n> \n= #fresh | @2"),
            ("no-cache is validated each time", "> \n< 200 | Cache-Control: no-cache | ETag: \"a\" | @1\n> \n< 304 | ETag: \"a\"\n~ If-None-Match: \"a\"\n= @1\n> \n< 304 | ETag: \"a\"\n= @1"),
            ("no freshness but a tag", "> \n< 200 | ETag: \"a\" | @1\n> \n< 304 | ETag: \"a\"\n~ If-None-Match: \"a\"\n= 200 | @1"),
            ("a stored 404", "> \n< 404 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< 304 | ETag: \"a\"\n= 404 | @1"),
            ("the caller's fields go along", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | X: 1 | Authorization: y\n< 304 | ETag: \"a\"\n~ X: 1 | Authorization: y | If-None-Match: \"a\"\n= @1"),
            ("no-store to those who do not understand", "> \n< 200 | Cache-Control: max-age=5, no-store, must-understand | ETag: \"a\" | @1\n+ 9\n> \n< 304 | ETag: \"a\" | Cache-Control: max-age=50, no-store, must-understand\n= @1\n> \n= #fresh | @1"),
            ("a 404 in its place", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< 404 | Cache-Control: max-age=5 | @gone\n= 404 | @gone\n> \n= 404 | #fresh | @gone"),
            ("no-store in its place", "> \n< 200 | Cache-Control: max-age=50 | ETag: \"a\" | @1\n> | Cache-Control: no-cache\n< 200 | Cache-Control: no-store | @2\n= @2\n> \n< 200 | @3\n= #origin | @3"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_304_updates_the_stored_fields() {
    let first = "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | Last-Modified: {date-100} | X: 1 | X: 2 | Y: 1 | Content-Type: text/plain | Content-Foo: 1 | @body\n+ 9\n";
    let case = |newer: &str, expected: &str| {
        format!("{first}> \n< 304 | ETag: \"a\" | {newer}\n= 200 | @body | {expected}\n> \n= 200 | #fresh | @body | {expected}\n")
    };
    let cases: Vec<(&str, String)> = [
        ("others stay", "Z: 1", "X: 1, 2 | Y: 1 | Z: 1"),
        ("lines are replaced", "X: 3", "X: 3 | Y: 1"),
        ("lines are replaced by lines", "X: 3 | X: 4", "X: 3, 4"),
        ("date", "Date: {date-1}", "Date: *"),
        ("type", "Content-Type: text/html", "Content-Type: text/html"),
        (
            "other content fields",
            "Content-Foo: 2 | Content-Language: de | Content-Location: /x | Content-MD5: x",
            "Content-Foo: 2 | Content-Language: de | Content-Location: /x | Content-MD5: x",
        ),
        ("date of modification", "Last-Modified: {date-3}", "Last-Modified: *"),
        ("not the length", "Content-Length: 9", "Content-Length: 4"),
        ("not the coding", "Content-Encoding: gzip", "!Content-Encoding"),
        ("not the range", "Content-Range: bytes 0-1/4", "!Content-Range"),
        ("not of the connection", "Connection: x-hop | X-Hop: 1 | Keep-Alive: x", "!X-Hop | !Keep-Alive"),
        ("directives", "Cache-Control: max-age=50", "Cache-Control: max-age=50"),
        (
            "policies",
            "Content-Security-Policy: x | X-Frame-Options: y | Strict-Transport-Security: z",
            "Content-Security-Policy: x | X-Frame-Options: y",
        ),
    ]
    .into_iter()
    .map(|(name, newer, expected)| (name, case(newer, expected)))
    .chain([
        ("a longer life", format!("{first}> \n< 304 | ETag: \"a\" | Cache-Control: max-age=50\n= @body\n+ 40\n> \n= #fresh | Age: 40\n")),
        (
            "a shorter life",
            format!("{first}> \n< 304 | ETag: \"a\" | Cache-Control: max-age=0\n= @body\n> \n< 304 | ETag: \"a\"\n= #origin | @body\n"),
        ),
        (
            "a life by date",
            format!(
                "{first}> \n< 304 | ETag: \"a\" | Cache-Control: public | Expires: {{date+50}}\n= @body\n+ 40\n> \n= #fresh | Age: 40\n"
            ),
        ),
        ("a 304 of another", format!("{first}> \n< 304 | ETag: \"b\" | X: 9\n< 200 | ETag: \"b\" | @new\n= 200 | @new\n")),
        ("a set-cookie", format!("{first}> \n< 304 | ETag: \"a\" | Set-Cookie: a=1\n> \n= #fresh | !Set-Cookie\n")),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_head_is_answered_from_a_get_and_says_what_has_become_of_it() {
    let stored = "> \n< 200 | Cache-Control: max-age=50 | ETag: \"a\" | X: 1 | @body\n";
    let head = "> HEAD / | Cache-Control: no-cache\n";
    let cases: Vec<(&str, String)> = [
        ("from a get", "> HEAD /\n= 200 | #fresh | ETag: \"a\" | Content-Length: 4 | @\n"),
        ("validated", "+ 60\n> HEAD /\n< 304 | ETag: \"a\"\n~ HEAD | If-None-Match: \"a\"\n= 200 | @\n> \n= #fresh | @body\n"),
        ("updates", "> HEAD / | Cache-Control: no-cache\n< 200 | ETag: \"a\" | X: 2 | Cache-Control: max-age=100 | Content-Length: 4\n~ HEAD\n= 200 | X: 2\n+ 60\n> \n= #fresh | X: 2 | @body | Age: 60\n"),
        ("without validators updates", "> HEAD / | Cache-Control: no-cache\n< 200 | X: 2 | Cache-Control: max-age=100 | Content-Length: 4\n> \n= #fresh | X: 2 | @body\n"),
        ("another tag", "HEAD< 200 | ETag: \"b\" | Content-Length: 4\n> \n< 200 | @new\n= @new\n"),
        ("another length", "HEAD< 200 | ETag: \"a\" | Content-Length: 5\n> \n< 200 | @new\n= @new\n"),
        ("gone", "HEAD< 410 | Cache-Control: max-age=50\n= 410\n> \n< 410\n= 410\n"),
        ("an error says nothing", "HEAD< 503\n= 503\n> \n= #fresh | @body\n"),
        ("is not kept for a get", "> HEAD /other\n< 200 | Cache-Control: max-age=50 | Content-Length: 4\n> GET /other\n< 200 | @body\n= #origin | @body\n"),
    ]
    .into_iter()
    .map(|(name, case)| (name, format!("{stored}{}", case.replace("HEAD<", &format!("{head}<")))))
    .chain([
        ("of no length", "> \n< 200 | #chunked | Cache-Control: max-age=50 | @body\n> HEAD /\n= 200 | #fresh | !Content-Length | @\n".to_owned()),
        ("of a 204", "> \n< 204 | Cache-Control: max-age=50\n> HEAD /\n= 204 | #fresh | !Content-Length | @\n".to_owned()),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_one_caller_is_told_while_it_validates_reaches_no_other() {
    let first = "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | X-Page: 1 | @body\n+ 9\n";
    let private = "> | Authorization: bob\n< 304 | ETag: \"a\" | Cache-Control: max-age=50 | X-User: bob\n= 200 | @body\n";
    let head = "> HEAD / | Authorization: bob\n< 200 | ETag: \"a\" | Cache-Control: max-age=50 | X-User: bob | Content-Length: 4\n= 200 | X-User: bob\n";
    let kept = "200 | #fresh | X-Page: 1 | !X-User | @body";
    run(
        HttpPolicy::shared(),
        &[
            ("a 304 to one who authenticates", &format!("{first}{private}+ 40\n> \n= {kept}")),
            ("a HEAD of one who authenticates", &format!("{first}{head}+ 40\n> \n= {kept}")),
            (
                "what is for all is taken over",
                &format!("{first}> | Authorization: bob\n< 304 | ETag: \"a\" | Cache-Control: max-age=50, public | X-Page: 2\n= X-Page: 2\n> \n= #fresh | X-Page: 2"),
            ),
            (
                "fields that the stored directives exclude",
                "> \n< 200 | Cache-Control: max-age=5, private=\"x-user\", no-cache=\"x-seen\" | ETag: \"a\" | X-User: eve | @body\n+ 9\n> \n< 304 | ETag: \"a\" | X-User: bob | X-Seen: 1\n= 200\n> \n= #fresh | !X-User | !X-Seen | @body",
            ),
        ],
    )
    .await;
}
