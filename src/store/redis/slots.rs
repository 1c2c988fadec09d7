//! What servers of a Cluster say of who has which keys, as in the
//! [specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).

use std::ops::RangeInclusive;

use redis::Value;

/// Into so many slots all keys fall.
pub(super) const SLOTS: u16 = 16_384;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Who has which slots.
pub(super) type Owners = Vec<(RangeInclusive<u16>, Address)>;

/// What a primary says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The slots it has, ascending.
    pub(super) slots: Vec<RangeInclusive<u16>>,
    /// Of these, those whose keys are on their way to another.
    pub(super) leaving: Vec<u16>,
    /// Are keys on their way from it or to it?
    pub(super) is_moving: bool,
}

/// Whoever is asked for a key and does not have it, says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is another's by now.
    Moved(u16, Address),
    /// The slot is about to be another's: ask there, this once.
    Ask(Address),
    /// Half of the keys are here, and half are there.
    Again,
}

/// The slot of a key: of what is in its first braces, if there is anything.
pub(super) fn slot_of(name: &[u8]) -> u16 {
    let in_braces = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        Some(&rest[..close]).filter(|tag| !tag.is_empty())
    });
    crc16(in_braces.unwrap_or(name)) % SLOTS
}

/// XMODEM's.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    })
}

/// The answer of a server at `asked` to `CLUSTER SLOTS`. `None` if it says of no slot who has it.
pub(super) fn owners(reply: &Value, asked: &str) -> Option<Owners> {
    let Value::Array(ranges) = reply else { return None };
    let owners: Option<Owners> = ranges.iter().map(|range| range_of(range, asked)).collect();
    owners.filter(|owners| !owners.is_empty())
}

fn range_of(range: &Value, asked: &str) -> Option<(RangeInclusive<u16>, Address)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = parts.as_slice() else { return None };
    let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        // Wherever we asked, on another port.
        Value::Nil => "",
        _ => return None,
    };
    let range = slots(u16::try_from(*first).ok()?, u16::try_from(*last).ok()?)?;
    Some((range, address(host, u16::try_from(*port).ok()?, asked)))
}

/// What the answer to `CLUSTER NODES` says of the one who was asked. `None` if that is no primary.
pub(super) fn claim(nodes: &str) -> Option<Claim> {
    let mut fields = nodes.lines().map(str::split_ascii_whitespace).find_map(|mut fields| {
        let flags = fields.nth(2)?;
        flags.split(',').any(|flag| flag == "myself").then(|| flags.split(',').any(|flag| flag == "master").then_some(fields))
    })??;
    // Its primary, two times, its epoch, and its link.
    fields.nth(4)?;
    let mut claim = Claim { slots: Vec::new(), leaving: Vec::new(), is_moving: false };
    for field in fields {
        if let Some(moving) = field.strip_prefix('[') {
            claim.is_moving = true;
            // `[93->-` and whose they will be, or `[93-<-` and whose they were.
            if let Some((slot, _)) = moving.split_once("->-") {
                claim.leaving.push(slot.parse().ok()?);
            }
            continue;
        }
        let (first, last) = field.split_once('-').unwrap_or((field, field));
        claim.slots.push(slots(first.parse().ok()?, last.parse().ok()?)?);
    }
    Some(claim)
}

/// What a reply of a server at `asked` says, if it says that it is not the one to ask.
pub(super) fn redirect(reply: &Value, asked: &str) -> Option<Redirect> {
    let Value::ServerError(error) = reply else { return None };
    let place = || {
        let (slot, place) = error.details()?.split_once(' ')?;
        let (host, port) = place.split_ascii_whitespace().next()?.rsplit_once(':')?;
        let slot: u16 = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
        Some((slot, address(host, port.parse().ok()?, asked)))
    };
    match error.code() {
        "MOVED" => place().map(|(slot, address)| Redirect::Moved(slot, address)),
        "ASK" => place().map(|(_, address)| Redirect::Ask(address)),
        "TRYAGAIN" => Some(Redirect::Again),
        _ => None,
    }
}

fn slots(first: u16, last: u16) -> Option<RangeInclusive<u16>> {
    (first <= last && last < SLOTS).then_some(first..=last)
}

/// A server that does not know its own name leaves it out.
fn address(host: &str, port: u16, asked: &str) -> Address {
    Address { host: if host.is_empty() || host == "?" { asked } else { host }.to_owned(), port }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::{Address, Claim, Redirect, claim, crc16, owners, redirect, slot_of};

    fn reply(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn slots_are_those_that_the_specification_gives() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As a server says them: `CLUSTER KEYSLOT`.
        for (name, slot) in [("t:{00}x", 13254), ("t:{01}x", 9191), ("{ab}", 13567), ("t:{ff}x{00}", 11756)] {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
        assert_eq!(slot_of(b"a{}b"), crc16(b"a{}b") % 16_384);
        assert_eq!(slot_of(b"a{b"), crc16(b"a{b") % 16_384);
    }

    #[test]
    fn what_a_server_says_of_slots_is_read_and_nothing_else_is() {
        let told = "*2\r\n*3\r\n:0\r\n:9\r\n*3\r\n$3\r\none\r\n:7\r\n$2\r\nid\r\n*4\r\n:10\r\n:16383\r\n*2\r\n$-1\r\n:8\r\n*2\r\n$1\r\nr\r\n:9\r\n";
        assert_eq!(owners(&reply(told), "asked"), Some(vec![(0..=9, at("one", 7)), (10..=16_383, at("asked", 8))]));
        for other in [
            "*0\r\n",
            "+OK\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:9\r\n:8\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:8\r\n*2\r\n$1\r\na\r\n:65536\r\n",
            "*1\r\n*2\r\n:0\r\n:8\r\n",
        ] {
            assert_eq!(owners(&reply(other), "asked"), None, "{other:?}");
        }
    }

    #[test]
    fn a_primary_says_which_slots_it_has_and_whether_keys_move() {
        let others = "aa 127.0.0.1:1@2,host slave,fail cc 0 0 1 connected\nbb 127.0.0.1:2@3 master - 0 0 2 connected 9-16383\n";
        let mine = |rest: &str| claim(&format!("{others}cc 127.0.0.1:3@4 myself,master - 0 0 3 connected{rest}\n"));
        assert_eq!(mine(" 0-7 8"), Some(Claim { slots: vec![0..=7, 8..=8], leaving: vec![], is_moving: false }));
        assert_eq!(mine(" 0-7 [7->-bb] [9-<-bb]"), Some(Claim { slots: vec![0..=7], leaving: vec![7], is_moving: true }));
        assert_eq!(mine(" 0-7 [9-<-bb]"), Some(Claim { slots: vec![0..=7], leaving: vec![], is_moving: true }));
        assert_eq!(mine(""), Some(Claim { slots: vec![], leaving: vec![], is_moving: false }));
        assert_eq!(mine(" 0-16384"), None);
        assert_eq!(claim(others), None);
        assert_eq!(claim("cc 127.0.0.1:3@4 myself,slave aa 0 0 3 connected\n"), None);
        assert_eq!(claim("cc 127.0.0.1:3@4 myself,master"), None);
    }

    #[test]
    fn a_redirect_says_where_to_and_other_errors_are_none() {
        let told = |line: &str| redirect(&reply(&format!("-{line}\r\n")), "asked");
        assert_eq!(told("MOVED 3999 127.0.0.1:6381"), Some(Redirect::Moved(3999, at("127.0.0.1", 6381))));
        assert_eq!(told("MOVED 3999 :6381"), Some(Redirect::Moved(3999, at("asked", 6381))));
        assert_eq!(told("ASK 1 ::1:6381"), Some(Redirect::Ask(at("::1", 6381))));
        assert_eq!(told("TRYAGAIN Multiple keys request during rehashing of slot"), Some(Redirect::Again));
        for other in ["MOVED", "MOVED 1", "MOVED x a:1", "MOVED 16384 a:1", "MOVED 1 a:b", "ASK 1 a", "ERR MOVED 1 a:1", "CLUSTERDOWN x"] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
