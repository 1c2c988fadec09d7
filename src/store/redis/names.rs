use sha2::{Digest as _, Sha256};

use super::slots::slot_of;
use crate::{error::Error, key::Key, store::Token};

/// How many parts the keys are divided into; each has an epoch of its own.
pub(super) const BUCKETS: usize = 256;

const LEASE: &str = ":lease";
const WANTED: &str = ":wanted";
const LIVE: &str = ":live:";

/// The names of this cache's keys in Redis.
///
/// A record is `{prefix}:{ab}cdef…`: the digest, with its first two digits in braces. The braces make them the hash tag, so that the
/// record and `{prefix}:{ab}`, the epoch of its bucket, are in one slot of a Cluster, and one script may touch both.
/// What carries a tag is in `{prefix}:tag:` and the digest of the tag.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// # Errors
    ///
    /// If Redis would take something in the prefix for the hash tag.
    pub(super) fn new(prefix: &str) -> Result<Self, Error> {
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(Error::config("the prefix of keys in Redis must not be empty nor contain braces"));
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    #[cfg(feature = "analytics")]
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn record(&self, key: &Key) -> String {
        let digest = key.to_string();
        format!("{}:{{{}}}{}", self.prefix, &digest[..2], &digest[2..])
    }

    pub(super) fn epoch(&self, bucket: usize) -> String {
        format!("{}:{{{bucket:02x}}}", self.prefix)
    }

    pub(super) fn epoch_of(&self, key: &Key) -> String {
        self.epoch(usize::from(key.as_bytes()[0]))
    }

    /// Who makes the record.
    pub(super) fn lease(&self, key: &Key) -> String {
        let mut name = self.record(key);
        name.push_str(LEASE);
        name
    }

    /// The key of a record, if it is the name of its lease.
    pub(super) fn parse_lease(&self, name: &[u8]) -> Option<Key> {
        self.parse(name.strip_suffix(LEASE.as_bytes())?)
    }

    /// Whose live stream of the record is wanted.
    pub(super) fn wanted(&self, key: &Key) -> String {
        let mut name = self.record(key);
        name.push_str(WANTED);
        name
    }

    /// The key of a record, if it is the name of the wish for its live stream.
    pub(super) fn parse_wanted(&self, name: &[u8]) -> Option<Key> {
        self.parse(name.strip_suffix(WANTED.as_bytes())?)
    }

    /// What the holder of a lease says while it makes the record. Each holder has a name of its own, so that none reads on in another's.
    pub(super) fn live(&self, key: &Key, token: Token) -> String {
        format!("{}{LIVE}{:032x}", self.record(key), u128::from_be_bytes(token.0))
    }

    /// The key of a record, if it is the name of a live stream of it.
    pub(super) fn parse_live(&self, name: &[u8]) -> Option<Key> {
        let at = name.len().checked_sub(LIVE.len() + 32)?;
        self.parse(name[at..].starts_with(LIVE.as_bytes()).then(|| &name[..at])?)
    }

    /// The bucket, if it is the name of an epoch.
    pub(super) fn parse_epoch(&self, name: &[u8]) -> Option<u8> {
        let rest = std::str::from_utf8(name).ok()?.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix('}')?;
        let bucket = u8::from_str_radix(rest, 16).ok()?;
        (format!("{bucket:02x}") == rest).then_some(bucket)
    }

    /// What the names of all records and epochs begin with.
    pub(super) fn tracked(&self) -> String {
        format!("{}:{{", self.prefix)
    }

    /// What carries a tag. Tags may say more than an operator of Redis should know: they are digested.
    pub(super) fn tag(&self, tag: &str) -> String {
        format!("{}:tag:{}", self.prefix, Key::from_bytes(Sha256::digest(tag).into()))
    }

    /// Is it the name of a tag's set?
    pub(super) fn is_tag(&self, name: &[u8]) -> bool {
        let digest = name.strip_prefix(self.prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b":tag:"));
        digest.is_some_and(|digest| digest.len() == 64 && digest.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
    }

    /// What a probe writes to, in the slot of a hash tag.
    pub(super) fn probe(&self, tag: &str) -> String {
        format!("{}:{{{tag}}}:probe", self.prefix)
    }

    /// What a probe writes to, in this slot of a Cluster.
    pub(super) fn probe_in(&self, slot: u16) -> String {
        // Each slot is that of some small number.
        let tag = (0u32..).map(|tag| tag.to_string()).find(|tag| slot_of(tag.as_bytes()) == slot);
        self.probe(&tag.unwrap_or_default())
    }

    /// The key of a record, if it is the name of one.
    pub(super) fn parse(&self, name: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(name).ok()?.strip_prefix(&self.prefix)?.strip_prefix(":{")?;
        let (bucket, rest) = rest.split_once('}')?;
        let digest = format!("{bucket}{rest}");
        let key: Key = digest.parse().ok()?;
        // Upper case would be the name of something else.
        (bucket.len() == 2 && key.to_string() == digest).then_some(key)
    }

    /// What `SCAN` matches: all records, and perhaps others that [`parse`](Self::parse) tells apart.
    pub(super) fn pattern(&self) -> String {
        self.matching(":{??}?*")
    }

    /// What `SCAN` matches: the sets of all tags.
    pub(super) fn tags_pattern(&self) -> String {
        self.matching(":tag:?*")
    }

    fn matching(&self, rest: &str) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 8);
        for character in self.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push_str(rest);
        pattern
    }
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::{
        key::Key,
        store::{
            Token,
            redis::slots::{SLOTS, slot_of},
        },
    };

    #[test]
    fn a_name_leads_back_to_its_key_and_other_names_lead_nowhere() {
        let names = Names::new("a*b").unwrap();
        let key = Key::from_bytes(std::array::from_fn(|i| 0xab ^ i as u8));
        let name = names.record(&key);
        assert!(name.starts_with("a*b:{ab}aaa9"), "{name}");
        assert_eq!(names.epoch_of(&key), "a*b:{ab}");
        assert_eq!(names.parse(name.as_bytes()), Some(key));
        assert_eq!(names.pattern(), "a\\*b:{??}?*");
        assert_eq!(names.parse_epoch(b"a*b:{ab}"), Some(0xab));
        for other in ["a*b:{AB}", "a*b:{+b}", "a*b:{abc}", "a*b:{ab}:probe", name.as_str()] {
            assert_eq!(names.parse_epoch(other.as_bytes()), None, "{other}");
        }
        assert_eq!(names.parse_lease(names.lease(&key).as_bytes()), Some(key));
        assert_eq!(names.parse_lease(name.as_bytes()), None);
        assert_eq!(names.parse_wanted(names.wanted(&key).as_bytes()), Some(key));
        let live = names.live(&key, Token([0; 16]));
        assert!(live.ends_with(":live:00000000000000000000000000000000"), "{live}");
        assert_eq!(names.parse_live(live.as_bytes()), Some(key));
        for other in [name.clone(), names.lease(&key), live.replace(":live:", ":like:"), String::new()] {
            assert_eq!((names.parse_wanted(other.as_bytes()), names.parse_live(other.as_bytes())), (None, None), "{other}");
        }
        let tag = names.tag("team: blue");
        assert!(names.is_tag(tag.as_bytes()) && !tag.contains("blue"), "{tag}");
        assert!(!names.is_tag(&tag.as_bytes()[1..]) && !names.is_tag(names.record(&key).as_bytes()));
        for other in [
            names.epoch_of(&key),
            names.probe("00"),
            names.probe("7"),
            names.tag("tag"),
            name.to_uppercase(),
            format!("{name}0"),
            format!("{name}:lease"),
            names.wanted(&key),
            live,
            format!("x{name}"),
            name.replace("{ab}", "{a}b"),
            name.replace("aaa9", "AAA9"),
        ] {
            assert_eq!(names.parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(names.parse(b"a*b:{\xff\xff}"), None);
        for bad in ["", "a{b", "}"] {
            assert!(Names::new(bad).unwrap_err().is_config());
        }
    }

    #[test]
    fn there_is_something_to_write_to_in_each_slot_that_is_no_record() {
        let names = Names::new("trc").unwrap();
        for slot in (0..SLOTS).step_by(101).chain([SLOTS - 1]) {
            let name = names.probe_in(slot);
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
            assert!(names.parse(name.as_bytes()).is_none() && names.parse_epoch(name.as_bytes()).is_none(), "{name}");
        }
    }
}
