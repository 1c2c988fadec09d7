//! Where entries are kept.
//!
//! A [`Store`] is small: look up, put under a condition, remove. Whatever else a store can do stands behind methods with defaults.
//! Implementers write plain `async fn`s; [`BoxStore`] serves a choice at run time; [`contract`] proves any implementation.

#[cfg(feature = "memory")]
mod bounded;
mod boxed;
#[cfg(feature = "test-util")]
pub mod contract;
mod live;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(all(feature = "redis", feature = "memory"))]
pub mod tiered;

use std::{
    future::{Future, ready},
    sync::Weak,
    time::Duration,
};

pub use boxed::BoxStore;
use futures_util::{Stream, stream::once};
pub use live::{Audience, LiveEnd, LiveHead, LivePart};
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::{LinkState, LinkStatus, Redis, RedisBuilder};
#[cfg(all(feature = "redis", feature = "memory"))]
pub use tiered::Tiered;

use crate::{
    entry::{Metadata, Record},
    error::Error,
    key::Key,
};

/// Where entries are kept.
///
/// # Contract
///
/// - A record put under a key is found only under that key, whole, until it expires, is removed, or is evicted.
/// - [`put`](Self::put) stores nothing if anything was removed under that key, or stored under it, since the look-up that the
///   [`Generation`] came from. So neither an invalidation nor a newer answer is ever overwritten by a late writer.
/// - Every operation ends within a bound of the store's own. Dropping a future at any await loses no other operation's answer.
/// - Memory is bounded.
pub trait Store: Send + Sync + 'static {
    /// Looks a record up, and notes the generation of the key at that moment.
    ///
    /// # Errors
    ///
    /// If the store cannot answer in time; a damaged value is removed and reported as [corrupt](Error::is_corrupt), once: the cache then looks again, for
    /// the generation under which it stores another.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Lookup, Error>> + Send;

    /// Stores a record until [`Record::expires`], unless the key changed since `generation` was noted. Says whether it did.
    ///
    /// # Errors
    ///
    /// If the store does not confirm in time; then it is unknown whether the record is stored.
    fn put(&self, key: &Key, record: Record, generation: Generation) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Removes the record under a key and starts a new generation of it, whether there was a record or not. Says whether there was; one
    /// that expired a moment ago may count.
    ///
    /// # Errors
    ///
    /// If the store does not confirm in time.
    fn remove(&self, key: &Key) -> impl Future<Output = Result<bool, Error>> + Send;

    /// As [`put`](Self::put), by one who took the [lease](Self::claim): if another holds it by now, nothing is stored. The default knows no leases.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    fn put_leased(
        &self,
        key: &Key,
        record: Record,
        generation: Generation,
        token: Token,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = token;
        self.put(key, record, generation)
    }

    /// Asks for the lease of a key: of all processes, one makes the answer. If another has it, waits for what becomes of that, but no longer
    /// than `patience`. Leases save calls; nothing relies on them. The default knows none, and lets each process make its own.
    ///
    /// # Errors
    ///
    /// If the store cannot answer in time.
    fn claim(&self, key: &Key, generation: Generation, patience: Duration) -> impl Future<Output = Result<Claim, Error>> + Send {
        let _ = (key, generation, patience);
        ready(Ok(Claim::Alone))
    }

    /// Keeps a lease for longer. Returns how long to wait before that is due again; `None` if the lease is lost, or there are none.
    ///
    /// # Errors
    ///
    /// If the store cannot answer in time.
    fn renew(&self, key: &Key, token: Token) -> impl Future<Output = Result<Option<Duration>, Error>> + Send {
        let _ = (key, token);
        ready(Ok(None))
    }

    /// Gives a lease back, if it is still held. With `declined`, those who ask in the next seconds are told to make their own answers at
    /// once, for there will be none to share.
    ///
    /// # Errors
    ///
    /// If the store cannot answer in time; then the lease ends by itself.
    fn release(&self, key: &Key, token: Token, declined: bool) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (key, token, declined);
        ready(Ok(()))
    }

    /// Waits until someone in another process wants to follow, part by part, what is made under a lease that was granted, and says what there is room for.
    /// `None` if nobody ever will: the default.
    ///
    /// To be asked again and again, for as long as the lease is held: it waits for the next then. Whoever comes later has to hear of whoever publishes before it
    /// follows, so that nobody follows a dead one; and a store may take the lease from one who does not ask, since to wait here is to say that one lives.
    fn audience(&self, key: &Key, token: Token) -> impl Future<Output = Option<Audience>> + Send {
        let _ = (key, token);
        ready(None)
    }

    /// Publishes parts of what is made under a lease for those who follow, `from` on in the count of all its parts. Says whether anyone still wants it.
    /// Published twice, a part is there once.
    ///
    /// # Errors
    ///
    /// If the store does not confirm in time, or what was published before is gone: then nothing can be added. The default: [unsupported](Error::is_unsupported).
    fn publish(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = (key, token, from, parts);
        ready(Err(Error::unsupported("this store carries no live streams")))
    }

    /// What another process makes, from its first part on, as it makes it: what has come since is one item. To be asked after [`Claim::Live`]. Where it is gone, the last part is that it
    /// [is withdrawn](LivePart::Withdrawn): that is no fault of the store's.
    ///
    /// # Errors
    ///
    /// If there will be no more: whoever publishes is dead, or cannot be heard any more, or what is there is not what was published. Then the stream ends. The default:
    /// [unsupported](Error::is_unsupported).
    fn follow(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        let _ = (key, token);
        once(ready(Err(Error::unsupported("this store carries no live streams"))))
    }

    /// The metadata of an entry. The default loads the entry.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    fn metadata(&self, key: &Key) -> impl Future<Output = Result<Option<Listing>, Error>> + Send {
        async { Ok(self.get(key).await?.record.and_then(|record| Listing::of(*key, &record))) }
    }

    /// Removes all records that the selection names, starts a new generation of whatever it could name, and counts what was removed.
    ///
    /// # Errors
    ///
    /// The default: [unsupported](Error::is_unsupported).
    fn remove_where(&self, selection: &Selection) -> impl Future<Output = Result<u64, Error>> + Send {
        let _ = selection;
        ready(Err(Error::unsupported("this store cannot remove by tag or pattern")))
    }

    /// A page of what is stored, without the bodies: at most about `limit` entries from where the last page ended, or from the start. A page may hold
    /// fewer, or none, and not be the last: [`Page::next`] tells. The pages together name every entry that lives from the first to the last of
    /// them, perhaps more than once; what comes or goes meanwhile may be named or not. Memory is bounded by the page; `limit` counts as 1000 if
    /// it is more.
    ///
    /// # Errors
    ///
    /// The default: [unsupported](Error::is_unsupported). If the store cannot answer in time; [config](Error::is_config), if the cursor is not
    /// one of this store's.
    fn list(&self, cursor: Option<&Cursor>, limit: usize) -> impl Future<Output = Result<Page, Error>> + Send {
        let _ = (cursor, limit);
        ready(Err(Error::unsupported("this store cannot list what it holds")))
    }

    /// Drops what expiry does not reach, and counts it. The default has nothing to drop.
    ///
    /// # Errors
    ///
    /// If the store does not confirm in time.
    fn cleanup(&self) -> impl Future<Output = Result<u64, Error>> + Send {
        ready(Ok(0))
    }

    /// What the store holds, without a scan.
    ///
    /// # Errors
    ///
    /// If the store cannot answer in time.
    fn usage(&self) -> impl Future<Output = Result<StoreUsage, Error>> + Send {
        ready(Ok(StoreUsage::default()))
    }

    /// How the store does, without asking it. The default has nothing to tell.
    fn health(&self) -> Option<Health> {
        None
    }

    /// Tells a listener of changes of the way to the store, for as long as there is someone who holds it. Several may listen. The default has nothing to tell.
    fn watch(&self, listener: Weak<dyn LinkListener>) {
        let _ = listener;
    }

    /// Ends connections and tasks of the store. Later operations may fail.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// A change of the way to a store outside of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkChange {
    /// `open`: operations fail at once from now on; `probing`: and a probe is on its way; `closed`: they get through again.
    pub state: &'static str,
    /// What went wrong last, in one word; `None` if nothing did.
    pub last_error: Option<&'static str>,
}

impl LinkChange {
    /// The way to a store is like this from now on.
    pub fn new(state: &'static str, last_error: Option<&'static str>) -> Self {
        Self { state, last_error }
    }
}

/// Hears of changes of the way to a store. Called in the order of the changes; not to take long.
pub trait LinkListener: Send + Sync + 'static {
    /// The way to the store changed.
    fn changed(&self, change: LinkChange);
}

/// The answer to a look-up.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// What is stored, if anything is.
    pub record: Option<Record>,
    /// The generation of the key when that was true.
    pub generation: Generation,
}

/// A mark of what a key's history was at a look-up; what it means is the store's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(pub [u64; 2]);

/// Names one holder of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub [u8; 16]);

/// What became of a wish for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// It is granted, and has to be [renewed](Store::renew) after this time.
    Granted(Token, Duration),
    /// What is under the key is not what was seen there: look again.
    Changed,
    /// There is nothing to wait for, or it took too long: make the answer without a lease.
    Alone,
    /// Another still has it, and there is no patience.
    Taken,
    /// Another has it, by this token, and lets others [follow](Store::follow) what it makes; it was heard of since this was asked.
    Live(Token),
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// Everything of this cache, and nothing else that the store may hold.
    All,
    /// Entries that carry this tag.
    Tag(String),
    /// Entries of which the key digest, the model, the provider or a label's value matches this glob (`*` and `?`; all else is literal);
    /// `name=pattern` asks one label alone, as in `model=gpt-4*`.
    Pattern(String),
}

impl Selection {
    /// Does it name the entry?
    pub fn matches(&self, listing: &Listing) -> bool {
        self.names(&listing.key, &listing.metadata)
    }

    pub(crate) fn names(&self, key: &Key, meta: &Metadata) -> bool {
        match self {
            Self::All => true,
            Self::Tag(tag) => meta.tags.contains(tag),
            Self::Pattern(pattern) => {
                let named = [("model", &meta.model), ("provider", &meta.provider)];
                let mut values = named
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.as_deref()?)))
                    .chain(meta.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                match pattern.split_once('=') {
                    Some((name, pattern)) => values.any(|(n, value)| n == name && glob(pattern, value)),
                    None => glob(pattern, &key.to_string()) || values.any(|(_, value)| glob(pattern, value)),
                }
            }
        }
    }
}

/// Matches `*` (any run) and `?` (any one character). Linear in space, and at worst the product of both lengths in time.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_p, star_t)) = star else { return false };
                star = Some((star_p, star_t + 1));
                p = star_p + 1;
                t = star_t + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// An entry without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Its key.
    pub key: Key,
    /// Its status.
    pub status: http::StatusCode,
    /// How long it lives.
    pub lifetime: crate::entry::Lifetime,
    /// The length of its body in bytes.
    pub body_len: u64,
    /// What is known about it.
    pub metadata: Metadata,
}

impl Listing {
    /// Of a record, if it is a response.
    pub fn of(key: Key, record: &Record) -> Option<Self> {
        match record {
            Record::Response(entry) => Some(Self {
                key,
                status: entry.status,
                lifetime: entry.lifetime,
                body_len: entry.body.len() as u64,
                metadata: entry.metadata.clone(),
            }),
            Record::Variants(_) => None,
        }
    }
}

/// A part of what a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries, in no order that means anything.
    pub entries: Vec<Listing>,
    /// Where to go on; `None` if this was the last page.
    pub next: Option<Cursor>,
}

/// Where the next page begins. What it means is the store's business; it consists of letters, digits and dots, and shows nothing of what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// From the text of one that a store gave.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a store says of one that it did not give.
    #[cfg(any(feature = "memory", feature = "redis"))]
    fn foreign() -> Error {
        Error::config("the cursor is not one that this store gave")
    }
}

/// The most that is listed in one page.
#[cfg(any(feature = "memory", feature = "redis"))]
const LONGEST_PAGE: usize = 1000;

/// How a store outside of this process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Do operations get through? `closed`: they do; `open`: they fail at once; `probing`: they fail at once, while a probe is on its way.
    pub link: &'static str,
    /// What went wrong last, in one word; `None` if nothing did.
    pub last_error: Option<&'static str>,
    /// How often operations began to fail at once.
    pub outages: u64,
    /// Attempts at a connection.
    pub dials: u64,
    /// Operations that failed at once because too much was on its way.
    pub rejected: u64,
    /// Records that the store refused to take.
    pub refused: u64,
    /// The memory in front of it, if there is any.
    pub tier: Option<TierStatus>,
}

/// How the memory in front of a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierStatus {
    /// Does word of changes come? If not, records are kept for a second only.
    pub tracked: bool,
    /// Look-ups that were answered from memory.
    pub hits: u64,
    /// How often all of it was dropped.
    pub flushes: u64,
    /// How many records it holds.
    pub entries: u64,
    /// Bytes that they take, overhead included.
    pub bytes: u64,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Records of this cache; `None` if the store cannot say without a scan.
    pub entries: Option<u64>,
    /// Bytes that they take, or that the whole store takes.
    pub bytes: Option<u64>,
    /// Keys in the whole store, those of others included.
    pub total_keys: Option<u64>,
}

impl StoreUsage {
    /// What the records take, in the unit that fits: `512 B`, `1.5 MiB`.
    pub fn memory_human(&self) -> Option<String> {
        self.bytes.map(human)
    }
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What would be shown as 1024.0 is one of the next.
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{size:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::{glob, human};

    #[test]
    fn globs_match_runs_and_single_characters_and_nothing_else() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("gpt-4*", "gpt-4o-mini", true),
            ("gpt-4*", "xgpt-4", false),
            ("*mini", "gpt-4o-mini", true),
            ("g?t", "gpt", true),
            ("g?t", "gt", false),
            ("a*b*c", "aXbXbXc", true),
            ("[a]", "a", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 10, "1.5 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), expected);
        }
    }
}
