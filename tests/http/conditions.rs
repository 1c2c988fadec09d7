//! The caller's own conditions (RFC 9110 section 13, RFC 9111 section 4.3.2).

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn conditions_are_answered_from_what_is_stored() {
    let stored =
        "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | Last-Modified: {date-100} | Content-Type: text/plain | X: 1 | @body\n";
    let unmodified =
        "= 304 | #fresh | ETag: \"a\" | X: 1 | Cache-Control: max-age=60 | Date: * | Age: * | !Content-Length | !Content-Type | @";
    let whole = "= 200 | #fresh | @body";
    let cases: Vec<(&str, String)> = [
        ("tag", "If-None-Match: \"a\"", unmodified),
        ("weak tag", "If-None-Match: W/\"a\"", unmodified),
        ("one of several", "If-None-Match: \"x\", \"a\"", unmodified),
        ("one of several without white space", "If-None-Match: \"x\",\"a\"", unmodified),
        ("in another line", "If-None-Match: \"x\" | If-None-Match: \"a\"", unmodified),
        ("any", "If-None-Match: *", unmodified),
        ("another tag", "If-None-Match: \"b\"", whole),
        ("unquoted", "If-None-Match: a", whole),
        ("in another case", "If-None-Match: \"A\"", whole),
        ("date", "If-Modified-Since: {date-100}", unmodified),
        ("later date", "If-Modified-Since: {date-50}", unmodified),
        ("earlier date", "If-Modified-Since: {date-101}", whole),
        ("no date", "If-Modified-Since: yesterday", whole),
        ("a tag goes before a date", "If-None-Match: \"b\" | If-Modified-Since: {date-50}", whole),
        ("a tag goes before a date, matching", "If-None-Match: \"a\" | If-Modified-Since: {date-101}", unmodified),
        ("if-match", "If-Match: \"a\"", whole),
        ("if-match, any", "If-Match: *", whole),
        ("if-unmodified-since", "If-Unmodified-Since: {date-50}", whole),
    ]
    .into_iter()
    .map(|(name, fields, expected)| (name, format!("{stored}> | {fields}\n{expected}\n")))
    .chain([
        ("if-match, another", format!("{stored}> | If-Match: \"b\"\n< 412 | @no\n~ If-Match: \"b\"\n= 412 | @no\n> \n= #fresh | @body\n")),
        ("if-match, weak", format!("{stored}> | If-Match: W/\"a\"\n< 412\n~ If-Match: W/\"a\"\n= 412\n")),
        ("if-unmodified-since, earlier", format!("{stored}> | If-Unmodified-Since: {{date-200}}\n< 412\n~ If-Unmodified-Since: {{date-200}}\n= 412\n")),
        ("head", format!("{stored}> HEAD / | If-None-Match: \"a\"\n= 304 | #fresh\n")),
        ("a stored 404 is no match", "> \n< 404 | Cache-Control: max-age=60 | ETag: \"a\" | @1\n> | If-None-Match: \"a\"\n= 404 | #fresh | @1\n".to_owned()),
        ("no date of modification: that of the response", "> \n< 200 | Cache-Control: max-age=60 | @1\n> | If-Modified-Since: {date+0}\n= 304 | #fresh\n> | If-Modified-Since: {date-10}\n= 200 | #fresh\n".to_owned()),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn conditions_reach_the_origin_where_nothing_is_stored_and_ours_take_their_place_where_something_is() {
    run(
        HttpPolicy::shared(),
        &[
            ("forwarded", "> | If-None-Match: \"x\" | If-Modified-Since: {date-9}\n< 304 | ETag: \"x\"\n~ If-None-Match: \"x\" | If-Modified-Since: {date-9}\n= 304 | #origin\n> \n< 200 | @1\n= 200 | @1"),
            ("forwarded unquoted", "> | If-None-Match: x\n< 304\n~ If-None-Match: x\n= 304"),
            ("a 304 with a length", "> | If-None-Match: \"x\"\n< 304 | Content-Length: 55 | ETag: \"x\"\n= 304 | ETag: \"x\""),
            ("a whole answer is stored", "> | If-None-Match: \"x\"\n< 200 | Cache-Control: max-age=60 | ETag: \"y\" | @1\n= 200 | @1\n> \n= #fresh | @1"),
            ("a 304 is not stored", "> | If-None-Match: \"x\"\n< 304 | Cache-Control: max-age=60 | ETag: \"x\"\n= 304\n> | If-None-Match: \"x\"\n< 304 | ETag: \"x\"\n= 304 | #origin"),
            ("ours in their place", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | If-None-Match: \"x\"\n< 304 | ETag: \"a\"\n~ If-None-Match: \"a\"\n= 200 | @1"),
            ("ours in their place, and both match", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | If-None-Match: \"a\"\n< 304 | ETag: \"a\"\n= 304 | !Content-Length"),
            ("a date in the place of none", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | If-Modified-Since: {date+1}\n< 304 | ETag: \"a\"\n~ If-None-Match: \"a\" | !If-Modified-Since\n= 304"),
            ("theirs where we have none", "> \n< 200 | Cache-Control: max-age=5 | @1\n+ 9\n> | If-None-Match: \"x\"\n< 304 | ETag: \"x\"\n~ If-None-Match: \"x\"\n= 304"),
            ("a new answer to both", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | If-None-Match: \"a\"\n< 200 | Cache-Control: max-age=5 | ETag: \"b\" | @2\n= 200 | @2\n> \n= #fresh | @2"),
        ],
    )
    .await;
}
