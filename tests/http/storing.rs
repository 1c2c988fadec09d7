//! Storing (RFC 9111 section 3), field by field and status by status.

use tower_response_cache::HttpPolicy;

use crate::script::run;

/// A response that is asked for twice: is the second answer the first one again?
fn twice(reply: &str, stored: bool) -> String {
    twice_with("", reply, stored)
}

fn twice_with(fields: &str, reply: &str, stored: bool) -> String {
    let again = if stored { String::new() } else { format!("< {reply} | @body\n") };
    let mark = if stored { "#fresh | Age: *" } else { "#origin" };
    format!("> GET /{fields}\n< {reply} | @body\n= #origin\n> GET /{fields}\n{again}= {mark}\n")
}

async fn all(policy: HttpPolicy, cases: Vec<(String, String)>) {
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, case)| (name.as_str(), case.as_str())).collect();
    run(policy, &cases).await;
}

#[tokio::test]
async fn any_final_status_with_explicit_freshness_is_stored() {
    let mut cases = Vec::new();
    for status in [
        200, 201, 202, 203, 204, 207, 226, 299, 300, 301, 302, 303, 305, 307, 308, 399, 400, 401, 403, 404, 405, 406, 410, 411, 413, 414,
        415, 418, 422, 451, 499, 500, 501, 502, 503, 504, 505, 599,
    ] {
        cases.push((format!("{status} max-age"), twice(&format!("{status} | Cache-Control: max-age=60"), true)));
        cases.push((format!("{status} expires"), twice(&format!("{status} | Expires: {{date+60}}"), true)));
        cases.push((format!("{status} no-store"), twice(&format!("{status} | Cache-Control: no-store, max-age=60"), false)));
        cases.push((format!("{status} nothing"), twice(&format!("{status} | X: 1"), false)));
    }
    all(HttpPolicy::shared(), cases).await;
}

#[tokio::test]
async fn heuristics_are_for_the_statuses_that_allow_them() {
    let mut cases = Vec::new();
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        cases.push((format!("{status}"), twice(&format!("{status} | Last-Modified: {{date-100000}}"), true)));
    }
    for status in [201, 202, 302, 303, 307, 400, 403, 418, 500, 502, 503, 504, 599] {
        cases.push((format!("{status}"), twice(&format!("{status} | Last-Modified: {{date-100000}}"), false)));
        cases
            .push((format!("{status} public"), twice(&format!("{status} | Last-Modified: {{date-100000}} | Cache-Control: public"), true)));
    }
    cases.push(("no date of modification".into(), twice("200 | ETag: \"a\"", false)));
    cases.push(("public, no date of modification".into(), twice("200 | Cache-Control: public", false)));
    cases.push(("no body date".into(), twice("200 | #nodate | Last-Modified: {date-100000}", true)));
    all(HttpPolicy::shared(), cases).await;
}

#[tokio::test]
async fn directives_say_what_is_stored() {
    let cases = [
        ("private", "200 | Cache-Control: private, max-age=60", false),
        ("private with fields", "200 | Cache-Control: private=\"x\", max-age=60", true),
        ("no-store elsewhere", "200 | Cache-Control: max-age=60 | Cache-Control: no-store", false),
        ("no-store in capitals", "200 | Cache-Control: No-StOrE, max-age=60", false),
        ("no-store in quotes of another", "200 | Cache-Control: x=\"no-store\", max-age=60", true),
        ("must-understand, known", "200 | Cache-Control: no-store, must-understand, max-age=60", true),
        ("must-understand, unknown", "299 | Cache-Control: no-store, must-understand, max-age=60", false),
        ("must-understand alone, unknown", "299 | Cache-Control: must-understand, max-age=60", false),
        ("pragma means nothing in a response", "200 | Pragma: no-cache | Cache-Control: max-age=60", true),
        ("pragma alone", "200 | Pragma: no-cache | Last-Modified: {date-100000}", true),
        ("unknown extensions", "200 | Cache-Control: foo=bar, max-age=60, x, y=\"z, no-cache\"", true),
        ("set-cookie", "200 | Cache-Control: max-age=60 | Set-Cookie: a=1", false),
        ("content-disposition", "200 | Cache-Control: max-age=60 | Content-Disposition: attachment; filename=x", true),
        ("chunked", "200 | #chunked | Cache-Control: max-age=60", true),
        ("ends with its connection", "200 | #close | Cache-Control: max-age=60", false),
    ];
    all(HttpPolicy::shared(), cases.iter().map(|(name, reply, stored)| ((*name).to_owned(), twice(reply, *stored))).collect()).await;
    let cases = [
        ("set-cookie", "200 | Cache-Control: max-age=60 | Set-Cookie: a=1", true),
        ("ends with its connection", "200 | #close | Cache-Control: max-age=60", true),
        ("private", "200 | Cache-Control: private, max-age=60", false),
    ];
    all(HttpPolicy::shared().rfc(), cases.iter().map(|(name, reply, stored)| (format!("rfc {name}"), twice(reply, *stored))).collect())
        .await;
    let cases = [("private", "200 | Cache-Control: private, max-age=60", true), ("s-maxage", "200 | Cache-Control: s-maxage=60", false)];
    all(HttpPolicy::private(), cases.iter().map(|(name, reply, stored)| (format!("private {name}"), twice(reply, *stored))).collect())
        .await;
}

#[tokio::test]
async fn requests_with_credentials_or_cookies_are_answered_as_the_origin_permits() {
    let auth = " | Authorization: Basic eDp5";
    let cases = [
        ("max-age", auth, "200 | Cache-Control: max-age=60", false),
        ("public", auth, "200 | Cache-Control: max-age=60, public", true),
        ("must-revalidate", auth, "200 | Cache-Control: max-age=60, must-revalidate", true),
        ("s-maxage", auth, "200 | Cache-Control: s-maxage=60", true),
        ("heuristic", auth, "200 | Last-Modified: {date-100000}", false),
        ("cookie", " | Cookie: sid=1", "200 | Cache-Control: max-age=60", true),
        ("request no-store", " | Cache-Control: no-store", "200 | Cache-Control: max-age=60", false),
        ("content", " | @fat", "200 | Cache-Control: max-age=60", false),
    ];
    let cases = cases.iter().map(|(name, fields, reply, stored)| ((*name).to_owned(), twice_with(fields, reply, *stored))).collect();
    all(HttpPolicy::shared(), cases).await;
    run(
        HttpPolicy::shared(),
        &[
            ("other cookies", "> | Cookie: sid=1\n< 200 | Cache-Control: max-age=60\n> | Cookie: sid=2\n< 200 | Cache-Control: max-age=60\n> \n< 200\n= #origin"),
            ("what authorised callers got is for all", "> | Authorization: x\n< 200 | Cache-Control: s-maxage=60\n> \n= #fresh"),
            ("a request that is not to be stored takes what is", "> \n< 200 | Cache-Control: max-age=60\n> | Cache-Control: no-store\n= #fresh"),
        ],
    )
    .await;
    run(
        HttpPolicy::shared().rfc(),
        &[("rfc other cookies", "> | Cookie: sid=1\n< 200 | Cache-Control: max-age=60\n> | Cookie: sid=2\n= #fresh")],
    )
    .await;
}

#[tokio::test]
async fn fields_are_stored_and_replayed_byte_for_byte() {
    let kept = "X: 1 | X: 2, 3 | ETag: \"a\" | Content-Foo: b | Content-Language: de | Warning: 110 - x | Via: 1.0 y | X-Odd: \u{e4}\u{ff} | Trailer-Like: 1";
    let replayed =
        "X: 1, 2, 3 | ETag: \"a\" | Content-Foo: b | Content-Language: de | Warning: 110 - x | Via: 1.0 y, 1.1 proxy | X-Odd: \u{e4}\u{ff}";
    let case = format!("> \n< 200 | Cache-Control: max-age=60 | {kept} | @body\n= {replayed}\n> \n= #fresh | {replayed} | @body\n");
    run(
        HttpPolicy::shared(),
        &[
            ("kept", case.as_str()),
            (
                "of the connection",
                "> \n< 200 | Cache-Control: max-age=60 | Connection: X-Hop, x-two | X-Hop: 1 | X-Two: 1 | Keep-Alive: timeout=1 | Proxy-Authenticate: x | Proxy-Authentication-Info: x | Proxy-Connection: close | X-End: 1
                 = X-End: 1 | !X-Hop | !X-Two | !Keep-Alive | !Proxy-Authenticate | !Proxy-Authentication-Info | !Proxy-Connection
                 > \n= #fresh | X-End: 1 | !X-Hop | !X-Two | !Keep-Alive | !Proxy-Authenticate | !Proxy-Authentication-Info | !Proxy-Connection",
            ),
            (
                "listed in directives",
                "> \n< 200 | Cache-Control: max-age=60, no-cache=\"x-a, X-B\", private=x-c | X-A: 1 | X-B: 1 | X-C: 1 | X-D: 1
                 = X-A: 1 | X-B: 1 | X-C: 1 | X-D: 1
                 > \n= #fresh | !X-A | !X-B | !X-C | X-D: 1",
            ),
            ("the date is never rewritten", "> \n< 200 | Cache-Control: max-age=60 | Date: {date-5}\n= Date: {date-5}\n+ 10\n> \n= #fresh | Date: {date-15} | Age: 15"),
            ("a missing date is that of the arrival", "> \n< 200 | #nodate | Cache-Control: max-age=60\n+ 10\n> \n= #fresh | Date: {date-10} | Age: 10"),
            ("no body", "> \n< 204 | Cache-Control: max-age=60\n> \n= 204 | #fresh | !Content-Length | !Transfer-Encoding | @"),
            ("an empty body", "> \n< 200 | Cache-Control: max-age=60\n> \n= 200 | #fresh | Content-Length: 0 | @"),
            ("a chunked body has a length the second time", "> \n< 200 | #chunked | Cache-Control: max-age=60 | @body\n= @body | Transfer-Encoding: chunked\n> \n= #fresh | @body | Content-Length: 4 | !Transfer-Encoding"),
        ],
    )
    .await;
}

#[tokio::test]
async fn incomplete_messages_are_neither_stored_nor_passed_off_as_complete() {
    run(
        HttpPolicy::shared().rfc(),
        &[
            (
                "short of its length",
                "> \n< 200 | #short | Cache-Control: max-age=60 | @body\n= #broken\n> \n< 200 | @fine\n= #origin | @fine",
            ),
            (
                "without a last chunk",
                "> \n< 200 | #chunked | #short | Cache-Control: max-age=60 | @body\n= #broken\n> \n< 200 | @fine\n= #origin | @fine",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn targets_methods_and_queries_have_their_own_answers() {
    let fresh = "Cache-Control: max-age=60";
    let case =
        |one: &str, other: &str| format!("> {one}\n< 200 | {fresh} | @1\n> {other}\n< 200 | {fresh} | @2\n= @2\n> {one}\n= #fresh | @1\n");
    all(
        HttpPolicy::shared(),
        vec![
            ("path".into(), case("GET /a", "GET /b")),
            ("case of the path".into(), case("GET /a", "GET /A")),
            ("query".into(), case("GET /a?x=1", "GET /a?x=2")),
            ("order of the query".into(), case("GET /a?x=1&y=2", "GET /a?y=2&x=1")),
            ("no query".into(), case("GET /a", "GET /a?")),
            ("slashes".into(), case("GET /a/b", "GET /a%2Fb")),
            ("QUERY".into(), case("QUERY /a | Content-Type: a/b | @1", "QUERY /a | Content-Type: a/b | @2")),
            ("QUERY and GET".into(), case("QUERY /a | Content-Type: a/b | @1", "GET /a")),
            ("absolute form".into(), format!("> GET http://WWW.example:80/a\n< 200 | {fresh} | @1\n> GET /a\n= #fresh | @1")),
        ],
    )
    .await;
}
