//! Stale responses (RFC 9111 section 4.2.4, RFC 5861), and an origin that is gone.

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn a_stale_response_stands_in_for_an_origin_that_gives_none() {
    let case = |directives: &str, then: &str, expected: &str| {
        format!("> \n< 200 | Cache-Control: {directives} | ETag: \"a\" | @1\n= @1\n+ 9\n> \n< {then}\n= {expected}\n")
    };
    let stale = "200 | @1 | Age: 9";
    let cases: Vec<(&str, String)> = [
        ("closed", "max-age=5", "#hangup", stale),
        ("no http", "max-age=5", "#junk", stale),
        ("closed, must-revalidate", "max-age=5, must-revalidate", "#hangup", "504"),
        ("closed, proxy-revalidate", "max-age=5, proxy-revalidate", "#hangup", "504"),
        ("closed, s-maxage", "s-maxage=5", "#hangup", "504"),
        ("closed, no-cache", "no-cache", "#hangup", "504"),
        ("503", "max-age=5", "503 | @down", "503 | @down"),
        ("503, stale-if-error", "max-age=5, stale-if-error=60", "503 | @down", stale),
        ("500, stale-if-error", "max-age=5, stale-if-error=60", "500 | @down", stale),
        ("502, stale-if-error", "max-age=5, stale-if-error=60", "502 | @down", stale),
        ("504, stale-if-error", "max-age=5, stale-if-error=60", "504 | @down", stale),
        ("501, stale-if-error", "max-age=5, stale-if-error=60", "501 | @never", "501 | @never"),
        ("404, stale-if-error", "max-age=5, stale-if-error=60", "404 | @gone", "404 | @gone"),
        ("closed, stale-if-error", "max-age=5, stale-if-error=60", "#hangup", stale),
        ("503, stale-if-error over", "max-age=5, stale-if-error=3", "503 | @down", "503 | @down"),
        ("503, stale-if-error, must-revalidate", "max-age=5, stale-if-error=60, must-revalidate", "503 | @down", "503 | @down"),
        ("503, stale-if-error of no number", "max-age=5, stale-if-error=long", "503 | @down", "503 | @down"),
    ]
    .into_iter()
    .map(|(name, directives, then, expected)| (name, case(directives, then, expected)))
    .chain([
        (
            "a stale failure does not stand in for a new one",
            "> \n< 500 | Cache-Control: max-age=5, stale-if-error=60 | @1\n+ 9\n> \n< 503 | @2\n= 503 | @2\n".to_owned(),
        ),
        ("nothing stored", "> \n< #hangup\n= 502\n".to_owned()),
        ("the caller's stale-if-error", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> | Cache-Control: stale-if-error=60\n< 503\n= 200 | @1\n".to_owned()),
        ("who wants the newest gets nothing older", "> \n< 200 | Cache-Control: max-age=5 | @1\n> | Cache-Control: no-cache\n< #hangup\n= 502\n".to_owned()),
        ("an answer to a post is no stale one", "> \n< 200 | Cache-Control: max-age=5 | @1\n> POST / | @x\n< #hangup\n= 502\n> \n= #fresh | @1\n".to_owned()),
        ("and then it is back", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< #hangup\n= 200 | @1\n> \n< 200 | Cache-Control: max-age=5 | @2\n= 200 | @2\n> \n= #fresh | @2\n".to_owned()),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
    run(
        HttpPolicy::shared().rfc(),
        &[
            ("rfc 503", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< 503 | @down\n= 200 | @1"),
            (
                "rfc 503, must-revalidate",
                "> \n< 200 | Cache-Control: max-age=5, must-revalidate | ETag: \"a\" | @1\n+ 9\n> \n< 503 | @down\n= 503 | @down",
            ),
            ("rfc 503, stored 503", "> \n< 503 | Cache-Control: max-age=5 | @1\n+ 9\n> \n< 503 | @2\n= 503 | @2"),
        ],
    )
    .await;
    run(
        HttpPolicy::shared().stale_if_unreachable(false),
        &[("by option", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | @1\n+ 9\n> \n< #hangup\n= 502")],
    )
    .await;
}

#[tokio::test]
async fn a_stale_response_is_served_while_it_is_refreshed() {
    let stored = "> \n< 200 | Cache-Control: max-age=5, stale-while-revalidate=20 | ETag: \"a\" | @1\n+ 9\n";
    let cases: Vec<(&str, String)> = [
        ("validated", "> | X: 1\n& 304 | ETag: \"a\"\n~ X: 1 | If-None-Match: \"a\"\n= 200 | @1 | #fresh | Age: 9\n> \n= #fresh | @1 | Age: 0\n"),
        ("replaced", "> \n& 200 | Cache-Control: max-age=5 | ETag: \"b\" | @2\n= @1\n> \n= #fresh | @2\n"),
        ("asked for in parts", "> | Range: bytes=0-0\n& 200 | Cache-Control: max-age=5 | @2\n~ !Range | GET\n= 206 | @1\n> \n= #fresh | @2\n"),
        ("asked for the head", "> HEAD /\n& 200 | Cache-Control: max-age=5 | @2\n~ GET\n= 200\n> \n= #fresh | @2\n"),
        ("asked on a condition", "> | If-None-Match: \"a\"\n& 304 | ETag: \"a\"\n~ If-None-Match: \"a\"\n= 304\n> \n= #fresh | @1\n"),
        ("too stale", "+ 20\n> \n< 304 | ETag: \"a\"\n= #origin | @1\n"),
        ("the caller wants it fresh", "> | Cache-Control: max-age=100\n< 304 | ETag: \"a\"\n= #origin | @1 | Age: 0\n"),
    ]
    .into_iter()
    .map(|(name, then)| (name, format!("{stored}{then}")))
    .chain([
        ("must-revalidate", "> \n< 200 | Cache-Control: max-age=5, stale-while-revalidate=20, must-revalidate | ETag: \"a\" | @1\n+ 9\n> \n< 304 | ETag: \"a\"\n= #origin\n".to_owned()),
        ("s-maxage", "> \n< 200 | Cache-Control: s-maxage=5, stale-while-revalidate=20 | ETag: \"a\" | @1\n+ 9\n> \n< 304 | ETag: \"a\"\n= #origin\n".to_owned()),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}
