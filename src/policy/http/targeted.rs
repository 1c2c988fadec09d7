//! Targeted cache control (RFC 9213): fields such as `CDN-Cache-Control` that speak to one class of caches.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::directives::{Directives, FOREVER, Fields, Seconds};

/// The directives that apply to a cache of these targets, and whether they come from a targeted field: then `Expires` does not count.
pub(super) fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> (Directives, bool) {
    // "Selects the first field whose value is not empty and not invalid" (section 2.2).
    match targets.iter().find_map(|target| parse(headers, target)) {
        Some(directives) => (directives, true),
        None => (Directives::of(headers), false),
    }
}

/// A dictionary structured field; `None` if it is absent, empty, or invalid as a whole. Members of the wrong type are as unknown ones (section 2.1).
fn parse(headers: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    if !headers.contains_key(name) {
        return None;
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let dictionary: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if dictionary.is_empty() {
        return None;
    }
    let mut directives = Directives::default();
    for (name, member) in &dictionary {
        let ListEntry::Item(item) = member else { continue };
        let value = &item.bare_item;
        let flag = matches!(value, BareItem::Boolean(true));
        let seconds = || match value {
            BareItem::Integer(number) => Some(
                u32::try_from(i64::from(*number))
                    .map_or_else(|_| out_of_range(i64::from(*number)), |number| Seconds::Of(number.min(FOREVER))),
            ),
            _ => None,
        };
        let fields = || match value {
            BareItem::Boolean(true) => Fields::All,
            BareItem::String(list) => Fields::parse(list.as_str().as_bytes()),
            _ => Fields::None,
        };
        match name.as_str() {
            "no-store" => directives.no_store = flag,
            "no-cache" => directives.no_cache = fields(),
            "private" => directives.private = fields(),
            "public" => directives.public = flag,
            "must-revalidate" => directives.must_revalidate = flag,
            "proxy-revalidate" => directives.proxy_revalidate = flag,
            "must-understand" => directives.must_understand = flag,
            "immutable" => directives.immutable = flag,
            "max-age" => directives.max_age = seconds(),
            "s-maxage" => directives.s_maxage = seconds(),
            "stale-while-revalidate" => directives.stale_while_revalidate = seconds(),
            "stale-if-error" => directives.stale_if_error = seconds(),
            _ => {}
        }
    }
    Some(directives)
}

fn out_of_range(number: i64) -> Seconds {
    if number < 0 { Seconds::Invalid } else { Seconds::Of(FOREVER) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

    fn max_age(lines: &[&str]) -> (Option<Seconds>, bool) {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("max-age=7"));
        for line in lines {
            headers.append(CDN, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        let (directives, targeted) = directives(&headers, &[CDN]);
        (directives.max_age, targeted)
    }

    #[test]
    fn a_valid_field_wins_and_an_invalid_or_empty_one_is_not_there() {
        let (plain, none) = ((Some(Seconds::Of(7)), false), (None, true));
        for (lines, expected) in [
            (&[][..], plain),
            (&["max-age=60"], (Some(Seconds::Of(60)), true)),
            (&["max-age=60; foo=bar"], (Some(Seconds::Of(60)), true)),
            (&["foo, max-age=60"], (Some(Seconds::Of(60)), true)),
            (&["foo", "max-age=60"], (Some(Seconds::Of(60)), true)),
            (&["max-age=1, max-age=60"], (Some(Seconds::Of(60)), true)),
            (&["max-age=99999999999"], (Some(Seconds::Of(FOREVER)), true)),
            (&["max-age=-1"], (Some(Seconds::Invalid), true)),
            // A known directive of the wrong type is as an unknown one, and an unknown one alone is no reason to look elsewhere.
            (&["max-age=60.0"], none),
            (&["max-age=\"60\""], none),
            (&["max-age"], none),
            (&["max-age=(60)"], none),
            (&["none"], none),
            // Invalid as a whole, or empty.
            (&["max-age=60, &"], plain),
            (&["MAX-AGE=60"], plain),
            (&["max-age=60,"], plain),
            (&["max-age = 60"], plain),
            (&["max-age=0060x"], plain),
            (&[""], plain),
            (&["  "], plain),
            (&["max-age=60", "\u{fc}"], plain),
        ] {
            assert_eq!(max_age(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_first_target_that_can_be_read_counts() {
        let mut headers = HeaderMap::new();
        headers.insert("a-cache-control", HeaderValue::from_static("&"));
        headers.insert("b-cache-control", HeaderValue::from_static("no-store"));
        headers.insert("c-cache-control", HeaderValue::from_static("max-age=1"));
        let targets = ["a-cache-control", "b-cache-control", "c-cache-control"].map(HeaderName::from_static);
        assert!(directives(&headers, &targets).0.no_store);
    }
}
