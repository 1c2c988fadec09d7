//! Variants (RFC 9111 section 4.1).

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn a_variant_answers_the_requests_that_select_it() {
    let v = "Cache-Control: max-age=60 | Vary: Foo";
    run(
        HttpPolicy::shared(),
        &[
            ("same", &format!("> | Foo: 1\n< 200 | {v}\n> | Foo: 1\n= #fresh")),
            ("other", &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2\n< 200 | {v} | @2\n= #origin | Cache-Status: ~vary-miss\n> | Foo: 1\n= #fresh | @1\n> | Foo: 2\n= #fresh | @2")),
            ("three", &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2\n< 200 | {v} | @2\n> | Foo: 3\n< 200 | {v} | @3\n> | Foo: 1\n= #fresh | @1\n> | Foo: 2\n= #fresh | @2\n> | Foo: 3\n= #fresh | @3")),
            ("absent the first time", &format!("> \n< 200 | {v}\n> | Foo: 1\n< 200\n= #origin")),
            ("absent the second time", &format!("> | Foo: 1\n< 200 | {v}\n> \n< 200\n= #origin")),
            ("absent both times", &format!("> \n< 200 | {v}\n> \n= #fresh")),
            ("another field", &format!("> | Foo: 1 | Bar: 1\n< 200 | {v}\n> | Foo: 1 | Bar: 2\n= #fresh")),
            ("two lines are one list", &format!("> | Foo: 1, 2\n< 200 | {v}\n> | Foo: 1 | Foo: 2\n= #fresh")),
            ("white space in lists", &format!("> | Foo: 1,2\n< 200 | {v}\n> | Foo: 1 ,  2\n= #fresh")),
            ("order", &format!("> | Foo: 1, 2\n< 200 | {v}\n> | Foo: 2, 1\n< 200\n= #origin")),
            ("two fields", "> | Foo: 1 | Bar: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo, bar\n> | Foo: 1 | Bar: 1\n= #fresh\n> | Foo: 1 | Bar: 2\n< 200\n= #origin"),
            ("two lines of vary", "> | Foo: 1 | Bar: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo | Vary: Bar\n> | Foo: 1 | Bar: 1\n= #fresh\n> | Foo: 1 | Bar: 2\n< 200\n= #origin"),
            ("an empty member", "> | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: , Foo,\n> | Foo: 1\n= #fresh\n> | Foo: 2\n< 200\n= #origin"),
            ("anything", "> \n< 200 | Cache-Control: max-age=60 | Vary: *\n> \n< 200\n= #origin"),
            ("anything, among others", "> | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo, *\n> | Foo: 1\n< 200\n= #origin"),
            ("anything, in another line", "> | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo | Vary: *\n> | Foo: 1\n< 200\n= #origin"),
            ("language in any case", "> | Accept-Language: en, de\n< 200 | Cache-Control: max-age=60 | Vary: Accept-Language\n> | Accept-Language: EN,DE\n= #fresh"),
            ("white space where none may be", "> | Accept-Language: d e\n< 200 | Cache-Control: max-age=60 | Vary: Accept-Language\n> | Accept-Language: de\n< 200\n= #origin"),
            ("stored under other fields before", &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2 | Bar: 1\n< 200 | Cache-Control: max-age=60 | Vary: Bar | @2\n> | Foo: 1\n= #fresh | @1\n> | Foo: 9 | Bar: 1\n= #fresh | @2")),
            (
                "the most recent of those that match",
                &format!("> | Foo: 1 | Bar: 1\n< 200 | {v} | @1\n+ 5\n> | Foo: 1 | Bar: 1 | Cache-Control: no-cache\n< 200 | Cache-Control: max-age=60 | Vary: Bar | @2\n> | Foo: 1 | Bar: 1\n= #fresh | @2"),
            ),
            ("no variants any more", &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2\n< 200 | Cache-Control: max-age=60 | @2\n> | Foo: 3\n= #fresh | @2")),
            ("variants from now on", "> | Foo: 1\n< 200 | Cache-Control: max-age=1 | @1\n+ 2\n> | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo | @2\n> | Foo: 2\n< 200\n= #origin"),
            ("each is validated by its own", &format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | @1\n> | Foo: 2\n< 200 | {v} | ETag: \"2\" | @2\n+ 70\n> | Foo: 1\n< 304 | ETag: \"1\"\n~ If-None-Match: \"1\"\n= @1\n> | Foo: 2\n< 304 | ETag: \"2\"\n~ If-None-Match: \"2\"\n= @2\n> | Foo: 1\n= #fresh | @1")),
            ("unsafe methods void all", &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2\n< 200 | {v} | @2\n> POST / | @x\n< 200\n> | Foo: 1\n< 200 | {v} | @3\n= #origin\n> | Foo: 2\n< 200 | {v} | @4\n= #origin | @4")),
        ],
    )
    .await;
    run(
        HttpPolicy::shared().rfc(),
        &[
            ("rfc order of languages", "> | Accept-Language: en, de;q=0.5\n< 200 | Cache-Control: max-age=60 | Vary: Accept-Language\n> | Accept-Language: de;q=0.5,en\n= #fresh"),
            ("rfc other languages", "> | Accept-Language: en\n< 200 | Cache-Control: max-age=60 | Vary: Accept-Language\n> | Accept-Language: de\n< 200\n= #origin"),
            ("rfc order of others", "> | Foo: 1, 2\n< 200 | Cache-Control: max-age=60 | Vary: Foo\n> | Foo: 2, 1\n< 200\n= #origin"),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_origin_may_elect_a_stored_variant_for_a_request_that_selects_none() {
    let v = "Cache-Control: max-age=60 | Vary: Foo";
    let two =
        format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | @1\n> | Foo: 2\n< 200 | {v} | ETag: \"2\" | @2\n~ If-None-Match: \"1\"\n= @2\n");
    let cases: Vec<(&str, String)> = [
        ("the older", "> | Foo: 3\n< 304 | ETag: \"1\" | X: new\n~ If-None-Match: \"2\", \"1\"\n= 200 | @1 | X: new | Age: 0\n> | Foo: 3\n= #fresh | @1\n> | Foo: 1\n= #fresh | @1\n> | Foo: 2\n= #fresh | @2\n"),
        ("the newer", "> | Foo: 3\n< 304 | ETag: \"2\"\n= 200 | @2\n> | Foo: 3\n= #fresh | @2\n"),
        ("none", "> | Foo: 3\n< 200 | Cache-Control: max-age=60 | Vary: Foo | ETag: \"3\" | @3\n= 200 | @3 | Cache-Status: ~vary-miss\n> | Foo: 3\n= #fresh | @3\n"),
        ("one that is not known", "> | Foo: 3\n< 304 | ETag: \"9\"\n< 200 | @3\n~ !If-None-Match\n= 200 | @3\n"),
        ("one that is not named", "> | Foo: 3\n< 304\n< 200 | @3\n~ !If-None-Match\n= 200 | @3\n"),
        ("one by a weak tag", "> | Foo: 3\n< 304 | ETag: W/\"1\"\n< 200 | @3\n~ !If-None-Match\n= 200 | @3\n"),
        ("for one who has a condition", "> | Foo: 3 | If-None-Match: \"x\"\n< 304 | ETag: \"x\"\n~ If-None-Match: \"x\"\n= 304\n"),
        ("for a part", "> | Foo: 3 | Range: bytes=0-0\n< 206 | Content-Range: bytes 0-0/1 | @3\n~ Range: bytes=0-0 | !If-None-Match\n= 206 | @3\n"),
        ("for a head", "> HEAD / | Foo: 3\n< 200 | Content-Length: 1\n~ !If-None-Match\n= 200\n"),
        ("once they are void", "> POST / | @x\n< 200\n> | Foo: 3\n< 200 | @3\n~ !If-None-Match\n= 200 | @3\n"),
        ("that it no longer permits to store", "> | Foo: 3\n< 304 | ETag: \"1\" | Cache-Control: no-store\n< 200 | Cache-Control: no-store | @3\n= 200 | @3\n> | Foo: 3\n< 200 | @4\n= #origin\n"),
    ]
    .into_iter()
    .map(|(name, then)| (name, format!("{two}{then}")))
    .chain([
        // Whoever asked for another encoding may be unable to read it.
        ("encoded", format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | Content-Encoding: gzip | @1\n> | Foo: 2\n< 200 | @2\n~ !If-None-Match\n= @2")),
        ("by encodings", "> | Accept-Encoding: identity\n< 200 | Cache-Control: max-age=60 | Vary: Accept-Encoding | ETag: \"1\" | @1\n> | Accept-Encoding: gzip\n< 200 | @2\n~ !If-None-Match\n= @2".to_owned()),
        ("weak", format!("> | Foo: 1\n< 200 | {v} | ETag: W/\"1\" | @1\n> | Foo: 2\n< 200 | @2\n~ !If-None-Match\n= @2")),
        ("unquoted", format!("> | Foo: 1\n< 200 | {v} | ETag: 1 | @1\n> | Foo: 2\n< 200 | @2\n~ !If-None-Match\n= @2")),
        ("a part", format!("> | Foo: 1 | Range: bytes=0-0\n< 206 | {v} | ETag: \"1\" | Content-Range: bytes 0-0/2 | @1\n> | Foo: 2\n< 200 | @22\n~ !If-None-Match\n= @22")),
        ("by other fields", format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | @1\n> | Foo: 2\n< 200 | Cache-Control: max-age=60 | Vary: Bar | ETag: \"2\" | @2\n> | Foo: 3 | Bar: 1\n< 200 | @3\n~ !If-None-Match\n= @3")),
    ])
    .collect();
    run(HttpPolicy::shared().elect_variants(true), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
    run(
        HttpPolicy::shared(),
        &[("not by default", &format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | @1\n> | Foo: 2\n< 200 | @2\n~ !If-None-Match\n= @2"))],
    )
    .await;
}
