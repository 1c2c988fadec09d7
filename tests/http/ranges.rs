//! Parts of stored responses, and stored parts (RFC 9110 section 14, RFC 9111 sections 3.3 and 3.4).

use tower_response_cache::HttpPolicy;

use crate::script::run;

#[tokio::test]
async fn a_part_of_what_is_stored_needs_no_origin() {
    let stored =
        "> \n< 200 | Cache-Control: max-age=60 | ETag: \"a\" | Last-Modified: {date-100} | Content-Type: text/plain | @0123456789\n";
    let part = |range: &str, body: &str| {
        format!("= 206 | #fresh | Content-Range: bytes {range}/10 | Content-Length: {} | ETag: \"a\" | Age: * | @{body}", body.len())
    };
    let whole = "= 200 | #fresh | !Content-Range | @0123456789".to_owned();
    let cases: Vec<(&str, String)> = [
        ("from to", "Range: bytes=2-5", part("2-5", "2345")),
        ("from", "Range: bytes=5-", part("5-9", "56789")),
        ("last", "Range: bytes=-3", part("7-9", "789")),
        ("beyond the end", "Range: bytes=8-99", part("8-9", "89")),
        ("nothing there", "Range: bytes=10-", "= 416 | #fresh | Content-Range: bytes */10 | @".to_owned()),
        ("several", "Range: bytes=0-1,8-9", "= 206 | #fresh | Content-Type: ~multipart/byteranges; boundary= | !Content-Range".to_owned()),
        ("another unit", "Range: lines=1-2", whole.clone()),
        ("no range", "Range: bytes=5-2", whole.clone()),
        ("if-range", "Range: bytes=0-1 | If-Range: \"a\"", part("0-1", "01")),
        ("if-range, another", "Range: bytes=0-1 | If-Range: \"b\"", whole.clone()),
        ("if-range, weak", "Range: bytes=0-1 | If-Range: W/\"a\"", whole.clone()),
        ("if-range, date", "Range: bytes=0-1 | If-Range: {date-100}", part("0-1", "01")),
        ("if-range, another date", "Range: bytes=0-1 | If-Range: {date-99}", whole),
        ("a condition goes first", "Range: bytes=0-1 | If-None-Match: \"a\"", "= 304 | #fresh | !Content-Range".to_owned()),
    ]
    .into_iter()
    .map(|(name, fields, expected)| (name, format!("{stored}> | {fields}\n{expected}\n")))
    .chain([
        ("head", format!("{stored}> HEAD / | Range: bytes=0-1\n= 200 | #fresh | Content-Length: 10\n")),
        ("validated first", format!("{stored}+ 70\n> | Range: bytes=2-3\n< 304 | ETag: \"a\"\n~ !Range | If-None-Match: \"a\"\n= 206 | Content-Range: bytes 2-3/10 | @23\n")),
        ("a new whole", format!("{stored}+ 70\n> | Range: bytes=2-3\n< 200 | Cache-Control: max-age=60 | @new\n= 200 | @new\n> \n= #fresh | @new\n")),
        ("the whole is still there", format!("{stored}> | Range: bytes=2-3\n= 206\n> \n= 200 | #fresh | @0123456789\n")),
    ])
    .collect();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn a_stored_part_answers_what_it_covers_and_grows() {
    let part =
        |range: &str, body: &str| format!("206 | Cache-Control: max-age=60 | ETag: \"a\" | Content-Range: bytes {range}/10 | @{body}");
    let first = format!("> | Range: bytes=0-4\n< {}\n~ Range: bytes=0-4\n= 206 | @01234\n", part("0-4", "01234"));
    let cases: Vec<(&str, String)> = [
        ("the same", format!("{first}> | Range: bytes=0-4\n= 206 | #fresh | Content-Range: bytes 0-4/10 | @01234")),
        ("less", format!("{first}> | Range: bytes=1-2\n= 206 | #fresh | Content-Range: bytes 1-2/10 | Content-Length: 2 | @12")),
        ("more", format!("{first}> | Range: bytes=4-5\n< {}\n~ Range: bytes=4-5\n= 206 | @45 | Cache-Status: ~fwd=partial", part("4-5", "45"))),
        ("never the whole", format!("{first}> \n< 206 | ETag: \"a\" | Content-Range: bytes 5-9/10 | @56789\n~ Range: bytes=5- | If-Range: \"a\"\n= 200 | !Content-Range | Content-Length: 10 | @0123456789\n> \n= 200 | #fresh | @0123456789")),
        ("has changed", format!("{first}> \n< 200 | Cache-Control: max-age=60 | ETag: \"b\" | @new\n~ If-Range: \"a\"\n= 200 | @new\n> \n= 200 | #fresh | @new")),
        ("the origin ignores our condition", format!("{first}> \n< 206 | ETag: \"b\" | Content-Range: bytes 5-9/10 | @xxxxx\n< 200 | ETag: \"b\" | @new\n= 200 | @new")),
        ("grows", format!("{first}> | Range: bytes=5-6\n< {}\n= 206 | @56\n> | Range: bytes=3-6\n= 206 | #fresh | Content-Range: bytes 3-6/10 | @3456", part("5-6", "56"))),
        ("grows whole", format!("{first}> | Range: bytes=5-9\n< {}\n= 206 | @56789\n> \n= 200 | #fresh | @0123456789 | Content-Length: 10 | !Content-Range", part("5-9", "56789"))),
        ("last", format!("> | Range: bytes=-5\n< {}\n> | Range: bytes=-2\n= 206 | #fresh | Content-Range: bytes 8-9/10 | @89\n> | Range: bytes=6-\n= 206 | #fresh | @6789", part("5-9", "56789"))),
        ("not with another tag", format!("{first}> | Range: bytes=5-6\n< 206 | Cache-Control: max-age=60 | ETag: \"b\" | Content-Range: bytes 5-6/10 | @xx\n> | Range: bytes=3-6\n< 206 | ETag: \"b\" | Content-Range: bytes 3-6/10 | @yyyy\n= #origin | @yyyy")),
        ("head", format!("{first}> HEAD /\n< 200 | Content-Length: 10 | ETag: \"a\"\n= 200 | #origin\n> | Range: bytes=1-2\n= 206 | #fresh | @12")),
        ("head of another", format!("{first}> HEAD /\n< 200 | Content-Length: 11\n= 200 | #origin\n> | Range: bytes=1-2\n< 206 | Content-Range: bytes 1-2/11 | @xx\n= #origin")),
        ("no-store", "> | Range: bytes=0-4\n< 206 | Cache-Control: no-store | Content-Range: bytes 0-4/10 | @01234\n> | Range: bytes=0-4\n< 206 | Content-Range: bytes 0-4/10 | @01234\n= #origin".to_owned()),
        ("the whole in answer to a range", "> | Range: bytes=0-4\n< 200 | Cache-Control: max-age=60 | @0123456789\n= 200\n> | Range: bytes=0-4\n= 206 | #fresh | @01234".to_owned()),
        ("several parts are passed on", "> | Range: bytes=0-1,8-9\n< 206 | Cache-Control: max-age=60 | Content-Type: multipart/byteranges; boundary=x | @--x--\n= 206 | @--x--\n> | Range: bytes=0-1\n< 206 | Content-Range: bytes 0-1/10 | @01\n= #origin".to_owned()),
        ("416 is not stored", "> | Range: bytes=90-\n< 416 | Cache-Control: max-age=60 | Content-Range: bytes */10\n= 416\n> \n< 200 | @1\n= 200".to_owned()),
        ("without a tag it answers but does not grow", "> | Range: bytes=0-4\n< 206 | Cache-Control: max-age=60 | Content-Range: bytes 0-4/10 | @01234\n> | Range: bytes=1-2\n= 206 | #fresh | @12\n> \n< 200 | @0123456789\n~ !Range\n= 200 | @0123456789".to_owned()),
    ]
    .into();
    run(HttpPolicy::shared(), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_an_answer_to_if_range_leaves_out_is_not_lost() {
    let fresh = "Cache-Control: max-age=60 | ETag: \"a\"";
    let first = format!(
        "> | Range: bytes=0-4\n< 206 | {fresh} | Content-Range: bytes 0-4/10 | Content-Type: text/x | Content-Language: de | X: 1 | @01234\n"
    );
    let rest = |fields: &str| {
        format!("> | Range: bytes=5-9 | If-Range: \"a\"\n< 206 | {fresh} | Content-Range: bytes 5-9/10{fields} | @56789\n= 206 | @56789\n")
    };
    let (bare, typed) = (rest(""), rest(" | Content-Type: text/x | X: 2"));
    run(
        HttpPolicy::shared(),
        &[
            ("in what two parts make", &format!("{first}{typed}> \n= 200 | #fresh | Content-Type: text/x | Content-Language: de | X: 2 | Content-Length: 10 | @0123456789")),
            (
                "for one who did not say that it has them",
                &format!("{bare}> | Range: bytes=5-9\n< 206 | {fresh} | Content-Range: bytes 5-9/10 | Content-Type: text/x | @56789\n= #origin | Content-Type: text/x"),
            ),
            (
                "and what says all is stored",
                &format!("{typed}> | Range: bytes=5-9\n= 206 | #fresh | Content-Type: text/x | @56789"),
            ),
        ],
    )
    .await;
}
