//! Freshness by dates, and age (RFC 9111 sections 4.2, 5.1 and 5.3).

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn expires_counts_if_it_is_a_date_in_the_future_of_the_response() {
    let fresh = [
        "{date+60}",
        "Wed, 01 Jan 2098 00:00:00 GMT",
        "wed, 01 jan 2098 00:00:00 gmt",
        "Wednesday, 01-Jan-70 00:00:00 GMT",
        "Wed Jan  1 00:00:00 2098",
    ];
    let stale = [
        "{date+0}",
        "{date-60}",
        "0",
        "-1",
        "never",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Wed, 01 Jan 2098 00:00:00 EST",
        "Wed, 01 Jan 2098 00:00:00 UTC",
        "Wed, 01 Jan 2098 00:00:00 +0000",
        "Wed, 01 Jan 2098 00:00:00",
        "Wed, 1 Jan 2098 00:00:00 GMT",
        "Wed, 01 Jan 98 00:00:00 GMT",
        "Wed,  01 Jan 2098 00:00:00 GMT",
        "Wed, 01-Jan-2098 00:00:00 GMT",
        "Wed, 01 Jan 2098 0:00:00 GMT",
        "Wed, 01 Jan 2098 24:00:00 GMT",
        "Wed, 01 Jan 2098 00:00 GMT",
        "Wed, 32 Jan 2098 00:00:00 GMT",
        "01 Jan 2098 00:00:00 GMT",
        "2098-01-01T00:00:00Z",
    ];
    let case = |value: &str, fresh: bool| {
        let (again, mark) = if fresh { ("", "#fresh") } else { ("< 200\n", "#origin") };
        format!("> \n< 200 | Expires: {value}\n> \n{again}= {mark}\n")
    };
    let cases: Vec<(&str, String)> =
        fresh.iter().map(|value| (*value, case(value, true))).chain(stale.iter().map(|value| (*value, case(value, false)))).collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
    run(
        HttpPolicy::shared(),
        &[
            ("minus the date", "> \n< 200 | Date: {date-1000} | Expires: {date-500}\n> \n< 200\n= #origin"),
            ("plus the date", "> \n< 200 | Date: {date+1000} | Expires: {date+1500}\n+ 400\n> \n= #fresh"),
            ("no date", "> \n< 200 | #nodate | Expires: {date+60}\n+ 30\n> \n= #fresh | Age: 30\n+ 40\n> \n< 200\n= #origin"),
            ("max-age first", "> \n< 200 | Expires: {date-60} | Cache-Control: max-age=60\n> \n= #fresh"),
            ("max-age first, stale", "> \n< 200 | Expires: {date+60} | Cache-Control: max-age=0\n> \n< 200\n= #origin"),
            ("unknown directives beside", "> \n< 200 | Expires: {date+60} | Cache-Control: foo\n> \n= #fresh"),
            ("expiry", "> \n< 200 | Expires: {date+60}\n+ 59\n> \n= #fresh | Age: 59\n+ 2\n> \n< 200\n= #origin"),
            ("no heuristics beside", "> \n< 200 | Expires: 0 | Last-Modified: {date-100000}\n> \n< 200\n= #origin"),
        ],
    )
    .await;
}

#[tokio::test]
async fn age_is_counted_from_upstream_on() {
    run(
        HttpPolicy::shared(),
        &[
            ("none", "> \n< 200 | Cache-Control: max-age=60\n= !Age\n+ 5\n> \n= #fresh | Age: 5"),
            ("some", "> \n< 200 | Cache-Control: max-age=60 | Age: 30\n= Age: 30\n+ 5\n> \n= #fresh | Age: 35"),
            ("too old", "> \n< 200 | Cache-Control: max-age=60 | Age: 60\n> \n< 200\n= #origin"),
            ("grows too old", "> \n< 200 | Cache-Control: max-age=60 | Age: 30\n+ 31\n> \n< 200\n= #origin"),
            ("a list", "> \n< 200 | Cache-Control: max-age=60 | Age: 0, 70\n> \n= #fresh"),
            ("a list, first too old", "> \n< 200 | Cache-Control: max-age=60 | Age: 70, 0\n> \n< 200\n= #origin"),
            ("two lines", "> \n< 200 | Cache-Control: max-age=60 | Age: 70 | Age: 0\n> \n< 200\n= #origin"),
            ("negative", "> \n< 200 | Cache-Control: max-age=60 | Age: -70\n> \n= #fresh"),
            ("a fraction", "> \n< 200 | Cache-Control: max-age=60 | Age: 70.0\n> \n= #fresh"),
            ("a parameter", "> \n< 200 | Cache-Control: max-age=60 | Age: 70;a=b\n> \n= #fresh"),
            ("junk", "> \n< 200 | Cache-Control: max-age=60 | Age: old\n> \n= #fresh"),
            ("leading zeros", "> \n< 200 | Cache-Control: max-age=60 | Age: 0070\n> \n< 200\n= #origin"),
            ("overflow", "> \n< 200 | Cache-Control: max-age=60 | Age: 99999999999999999999\n> \n< 200\n= #origin"),
            ("the greatest", "> \n< 200 | Cache-Control: max-age=2147483648 | Age: 2147483648\n> \n< 200\n= #origin"),
            ("an old date", "> \n< 200 | Cache-Control: max-age=60 | Date: {date-30}\n+ 5\n> \n= #fresh | Age: 35"),
            ("too old a date", "> \n< 200 | Cache-Control: max-age=60 | Date: {date-70}\n> \n< 200\n= #origin"),
            ("a date to come", "> \n< 200 | Cache-Control: max-age=60 | Date: {date+300}\n+ 30\n> \n= #fresh | Age: 30"),
            ("no date that is one", "> \n< 200 | Cache-Control: max-age=60 | Date: today\n+ 30\n> \n= #fresh | Age: 30"),
            ("of the reply to a validation", "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | Age: 59\n+ 5\n> \n< 304 | ETag: \"a\"\n= #origin | Age: 0\n+ 5\n> \n= #fresh | Age: 5"),
            ("of the reply to a validation by another cache", "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\"\n+ 65\n> \n< 304 | ETag: \"a\" | Age: 20\n+ 5\n> \n= #fresh | Age: 25"),
        ],
    )
    .await;
}

#[tokio::test]
async fn heuristics_are_a_tenth_of_the_time_without_a_change() {
    run(
        HttpPolicy::shared(),
        &[
            ("a tenth", "> \n< 200 | Last-Modified: {date-1000}\n+ 95\n> \n= #fresh | Age: 95\n+ 10\n> \n< 304\n= #origin"),
            ("of the date", "> \n< 200 | Last-Modified: {date-1000} | Date: {date-500}\n> \n< 304\n= #origin"),
            ("in the future", "> \n< 200 | Last-Modified: {date+1000}\n> \n< 304\n= #origin"),
            ("no date", "> \n< 200 | Last-Modified: lately\n> \n< 304\n= #origin"),
            ("now", "> \n< 200 | Last-Modified: {date+0}\n> \n< 304\n= #origin"),
        ],
    )
    .await;
}
