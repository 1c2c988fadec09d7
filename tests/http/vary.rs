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
