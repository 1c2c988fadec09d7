//! `Cache-Control` in responses and requests (RFC 9111 section 5.2), and targeted fields (RFC 9213).

use tower_response_cache::HttpPolicy;

use crate::script::run;

/// Is a response with these fields reused at once?
fn reused(cases: &[(&'static str, bool)]) -> Vec<(String, String)> {
    cases
        .iter()
        .map(|(fields, fresh)| {
            let (again, mark) = if *fresh { ("", "#fresh") } else { ("< 200\n", "#origin") };
            ((*fields).to_owned(), format!("> \n< 200 | {fields}\n> \n{again}= {mark}\n"))
        })
        .collect()
}

async fn all(policy: HttpPolicy, cases: Vec<(String, String)>) {
    run(policy, &cases.iter().map(|(name, case)| (name.as_str(), case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn max_age_is_read_strictly() {
    let cases = reused(&[
        ("Cache-Control: max-age=60", true),
        ("Cache-Control: MAX-AGE=60", true),
        ("Cache-Control: max-age=\"60\"", true),
        ("Cache-Control: max-age=0060", true),
        ("Cache-Control: max-age=2147483648", true),
        ("Cache-Control: max-age=99999999999", true),
        ("Cache-Control: max-age=9999999999999999999999999999999", true),
        ("Cache-Control: foo, max-age=60", true),
        ("Cache-Control: foo | Cache-Control: max-age=60", true),
        ("Cache-Control: ,max-age=60,,", true),
        ("Cache-Control: foo=\"bar, baz\", max-age=60", true),
        ("Cache-Control: max-age=60, max-age=0", true),
        ("Cache-Control: max-age=60 | Cache-Control: max-age=0", true),
        ("Cache-Control: max-age=0, max-age=60", false),
        ("Cache-Control: max-age=0", false),
        ("Cache-Control: max-age=-60", false),
        ("Cache-Control: max-age=60.0", false),
        ("Cache-Control: max-age=60s", false),
        ("Cache-Control: max-age='60'", false),
        ("Cache-Control: max-age=", false),
        ("Cache-Control: max-age", false),
        ("Cache-Control: max-age= 60", false),
        ("Cache-Control: max-age =60", false),
        ("Cache-Control: max-age=60; foo", false),
        ("Cache-Control: maxage=60", false),
        ("Cache-Control: max-age:60", false),
        ("Cache-Control: a-max-age=60", false),
        ("Cache-Control: max-age-foo=60", false),
        ("Cache-Control: foo=\"max-age=60\"", false),
        ("Cache-Control: foo=\"x, max-age=60\"", false),
        ("Cache-Control: s-maxage=60", true),
        ("Cache-Control: s-maxage=60, max-age=0", true),
        ("Cache-Control: max-age=60, s-maxage=0", false),
        ("Cache-Control: S-MaxAge=60", true),
        ("Cache-Control: s-maxage=60, private", false),
        ("Cache-Control: max-age=60, no-cache", false),
        ("Cache-Control: max-age=60 | Cache-Control: no-cache", false),
        ("Cache-Control: max-age=60, No-Cache", false),
        ("Cache-Control: max-age=60, no-cache=\"x\"", true),
        ("Cache-Control: max-age=60, must-revalidate", true),
        ("Cache-Control: max-age=60, immutable", true),
        ("X-Cache-Control: max-age=60", false),
    ]);
    all(HttpPolicy::shared(), cases).await;
}

#[tokio::test]
async fn targeted_fields_win_if_they_can_be_read() {
    let cases = reused(&[
        ("CDN-Cache-Control: max-age=60", true),
        ("CDN-Cache-Control: max-age=60 | Cache-Control: no-store", true),
        ("CDN-Cache-Control: max-age=60 | Expires: 0", true),
        ("CDN-Cache-Control: max-age=60;foo=bar | Cache-Control: max-age=0", true),
        ("CDN-Cache-Control: foo=1 | CDN-Cache-Control: max-age=60 | Cache-Control: no-cache", true),
        ("CDN-Cache-Control: max-age=99999999999 | Cache-Control: max-age=0", true),
        ("CDN-Cache-Control: max-age=0 | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: no-store | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: no-cache | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: private | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: none | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: foo | Expires: {date+60}", false),
        ("CDN-Cache-Control: max-age=60.0 | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: max-age=\"60\" | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: max-age=-1 | Cache-Control: max-age=60", false),
        ("CDN-Cache-Control: no-store=?0, max-age=60", true),
        // Unreadable as a whole, or empty.
        ("CDN-Cache-Control: max-age=0, & | Cache-Control: max-age=60", true),
        ("CDN-Cache-Control: | Cache-Control: max-age=60", true),
        ("CDN-Cache-Control: Max-Age=0 | Cache-Control: max-age=60", true),
        ("CDN-Cache-Control: no-store, | Cache-Control: max-age=60", true),
        ("Other-Cache-Control: no-store | Cache-Control: max-age=60", true),
        ("Surrogate-Control: max-age=60 | Cache-Control: no-store", false),
    ]);
    all(HttpPolicy::shared(), cases).await;
    run(
        HttpPolicy::shared(),
        &[("forwarded", "> \n< 200 | CDN-Cache-Control: max-age=60, x=1\n= CDN-Cache-Control: max-age=60, x=1\n> \n= #fresh | CDN-Cache-Control: max-age=60, x=1")],
    )
    .await;
}

#[tokio::test]
async fn requests_say_what_they_take() {
    let stored = "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | @1\n+ 10\n";
    let stale = "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | @1\n+ 70\n";
    let validated = "< 304 | ETag: \"a\"\n~ If-None-Match: \"a\"\n= #origin | @1 | Age: 0";
    let cases: Vec<(&str, String)> = [
        ("max-age met", "> | Cache-Control: max-age=11\n= #fresh", stored),
        ("min-fresh met", "> | Cache-Control: min-fresh=40\n= #fresh", stored),
        ("no-store", "> | Cache-Control: no-store\n= #fresh", stored),
        ("unknown", "> | Cache-Control: foo\n= #fresh", stored),
        ("only-if-cached", "> | Cache-Control: only-if-cached\n= #fresh | 200", stored),
        ("max-stale", "> | Cache-Control: max-stale\n= #fresh | @1 | Age: 70", stale),
        ("max-stale within", "> | Cache-Control: max-stale=12\n= #fresh | @1 | Age: 70", stale),
        ("only-if-cached, stale", "> | Cache-Control: only-if-cached\n= 504", stale),
        ("only-if-cached, stale is fine", "> | Cache-Control: only-if-cached, max-stale\n= 200 | @1", stale),
        ("pragma beside cache-control", "> | Pragma: no-cache | Cache-Control: max-age=60\n= #fresh", stored),
    ]
    .into_iter()
    .map(|(name, then, first)| (name, format!("{first}{then}\n")))
    .chain(
        [
            ("no-cache", "Cache-Control: no-cache", stored),
            ("no-cache in capitals", "Cache-Control: No-Cache", stored),
            ("max-age not met", "Cache-Control: max-age=9", stored),
            ("max-age=0", "Cache-Control: max-age=0", stored),
            ("max-age that is none", "Cache-Control: max-age=soon", stored),
            ("min-fresh not met", "Cache-Control: min-fresh=51", stored),
            ("pragma", "Pragma: no-cache", stored),
            ("max-stale not enough", "Cache-Control: max-stale=9", stale),
            ("max-stale that is none", "Cache-Control: max-stale=x", stale),
            ("max-stale but not that old", "Cache-Control: max-stale, max-age=60", stale),
        ]
        .into_iter()
        .map(|(name, field, first)| (name, format!("{first}> | {field}\n{validated}\n"))),
    )
    .chain([("only-if-cached on a miss", "> | Cache-Control: only-if-cached\n= 504 | Cache-Status: ~only-if-cached\n".to_owned())])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}
