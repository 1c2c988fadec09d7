//! Keeps entries in Redis 7.0 or later, or in Valkey.
//!
//! A record is one string under `{prefix}:{digest}`, with an expiry; keys are digests and show nothing of what was asked. Looking up takes
//! one round trip, and a second one for records of more than 64 KiB. What happens when Redis does not do what it should is in `link`.
//!
//! # Generations
//!
//! Each value has a random number, and each of 256 buckets of keys has a random epoch. A look-up notes both, the epoch first. [`put`](Store::put)
//! is a script: it stores only if the epoch is still the same, and what is under the key is what was seen there, or nothing.
//!
//! - [`remove`](Store::remove) puts a mark with a number of its own in the place of the record, for as long as a fill may take: what
//!   was on its way meets a number that it has not seen.
//! - [`remove_where`](Store::remove_where) gives all buckets new epochs, and only then looks for what to remove.
//! - What carries a tag is in a set of that tag before it is stored: see `tags`.
//! - Who makes an answer for all processes has the lease of its key: see `lease`. What it says meanwhile can be followed: see `live`.
//! - After `FLUSHALL` there are no epochs. New ones are random, not counted from 1, so that no fill from before matches.
//!
//! # Permissions
//!
//! A user for this store needs no more than
//! `ACL SETUSER cache on >password ~trc:* +get +set +getrange +unlink +type +scan +zadd +zrem +zrange +zscan
//! +xadd +xlen +xrange +exists +pexpire +pttl +evalsha +script|load +dbsize +info`; to hear of changes, as memory in front of it (`Tiered`) and those who wait for
//! another process do, `+client|tracking +ping` too. Without those two, memory is kept for a second and who waits asks from time to time.
//! Behind Sentinel, `+role` as well. In a Cluster, `+cluster|slots +cluster|nodes +asking` as well. For [`Analytics`](crate::observe::analytics), `+hincrby +hset +hget +hgetall +xtrim +xrevrange`.
//!
//! # Sentinel
//!
//! `redis-sentinel://[user:password@]host[:port],host[:port]/service[/database]` follows the primary of a service: whenever a connection is
//! made, the sentinels are asked where it is, and what answers there has to say that it is a primary. User and password are for the servers.
//! Sentinels that ask for some are shown those of `?sentinel-user=…&sentinel-password=…`; a user there needs no more than
//! `ACL SETUSER watch on >password +sentinel|get-master-addr-by-name`. Redis copies to replicas after it has answered, so a failover may undo
//! what was written a moment before it: records, which are then made anew, and removals.
//!
//! # Cluster
//!
//! `redis-cluster://[user:password@]host[:port],host[:port]` names some of the servers; the others are asked for. Each primary has connections
//! and a breaker of its own, so that one that is away takes no more with it than what it has. All that belongs to a key, and so every script, is
//! in one slot. A removal by pattern or of all looks through every primary, and fails if one of them is away; where slots are on the move, it
//! looks twice. A set of a tag may be on another server than what it names: since failovers lose what was written last, a removal by tag looks
//! at every key as well when a primary has been a replica. A record is not stored while half of its slot's keys are on their way.

mod breaker;
mod cluster;
mod endpoint;
mod fault;
mod frame;
mod lease;
mod link;
mod listing;
mod live;
mod names;
mod refusals;
mod scripts;
mod servers;
mod settings;
mod slots;
#[cfg(feature = "analytics")]
mod sums;
mod sweep;
mod tags;
mod tracking;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, future::try_join_all};
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

#[cfg(feature = "analytics")]
pub(crate) use self::sums::{Addition, Cap, Sums, Wanted};
#[cfg(feature = "memory")]
pub(in crate::store) use self::tracking::{Change, Listener};
pub use self::{breaker::LinkState, link::LinkStatus, settings::RedisBuilder};
use self::{
    fault::Fault,
    frame::{Frame, Framed, Kind},
    link::{Ask, Lane, Listeners},
    names::Names,
    scripts::{DISCARD, PUT, REMOVE, Script},
    servers::{Servers, To},
    settings::Deadlines,
    tags::Member,
};
use super::{
    Audience, Claim, Cursor, Generation, Health, LinkListener, Listing, LivePart, Lookup, Page, Selection, Store, StoreUsage, Token,
};
use crate::{
    clock::Clock,
    entry::{Record, record::Codec},
    error::Error,
    key::Key,
};

/// Keeps entries in Redis. Clones share connections.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::store::Redis;
///
/// # fn main() -> Result<(), tower_response_cache::Error> {
/// // Connects when it is first asked: a Redis that is down stops nobody.
/// let store = Redis::builder("redis://localhost:6379/0").prefix("shop").read_deadline(Duration::from_millis(50)).build()?;
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
///
/// While Redis is of no use every operation fails within its deadline at first, and then at once, until a probe is answered. See
/// [`status`](Self::status).
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Servers,
    listeners: Listeners,
    names: Names,
    codec: Codec,
    max_record: usize,
    deadlines: Deadlines,
    fill_bound: Duration,
    clock: Clock,
    writes: Writes,
    /// How long a lease lasts, if there are any.
    lease: Option<Duration>,
    /// Bytes of a body that are published while it is made, if any are.
    live: Option<usize>,
    waiters: Arc<lease::Waiters>,
    /// Whether those who wait hear of changes.
    hears: AtomicBool,
}

/// What became of writes.
#[derive(Default)]
struct Writes {
    /// Until when none is tried, for we may not write.
    barred: Mutex<Option<Instant>>,
    count: AtomicU64,
}

/// What is read of a value at first. Most records are shorter; and of a value that is none, no more is ever read.
const FIRST: usize = 64 << 10;

/// How much of a damaged value is compared before it is dropped.
const BEGINNING: usize = 64;

/// How long no write is tried after we were told that we may not.
const BARRED: Duration = Duration::from_secs(30);

impl Redis {
    /// A store at this URL, with default settings. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if the URL makes no sense. It is not shown, for it may hold a password.
    pub fn connect(url: &str) -> Result<Self, Error> {
        Self::builder(url).build()
    }

    /// Settings of a store at this URL.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::new(url)
    }

    /// As the environment has it: see [`RedisBuilder::from_env`].
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if a variable is set and makes no sense.
    pub fn from_env() -> Result<Self, Error> {
        RedisBuilder::from_env()?.build()
    }

    /// How the connection to Redis is.
    pub fn status(&self) -> LinkStatus {
        self.inner.servers.status()
    }

    /// How many records Redis refused to store: out of memory, no permission.
    pub fn refused_writes(&self) -> u64 {
        self.inner.writes.count.load(Ordering::Relaxed)
    }

    /// Now, by the store's clock.
    #[cfg(feature = "memory")]
    pub(in crate::store) fn now(&self) -> std::time::SystemTime {
        self.inner.clock.now()
    }

    async fn store(&self, key: &Key, record: Record, generation: Generation, token: Option<Token>) -> Result<bool, Error> {
        let until = Instant::now() + self.inner.deadlines.write;
        let [epoch, seen] = generation.0;
        let Ok(left) = record.expires().duration_since(self.inner.clock.now()) else { return Ok(false) };
        // Without an epoch it cannot be told what happened since.
        if left.is_zero() || epoch == 0 {
            return Ok(false);
        }
        if self.inner.writes.are_barred() {
            return Err(Fault::Refused("NOPERM").into());
        }
        let Some(encoded) = self.inner.codec.encode(key, &record) else { return Ok(false) };
        let Ok(len) = u32::try_from(encoded.len()) else { return Ok(false) };
        let name = self.inner.names.record(key);
        let frame = Frame::new(Kind::Record, len);
        let tags = match &record {
            Record::Response(entry) => &*entry.metadata.tags,
            Record::Variants(_) => &[],
        };
        let member = Member { key: *key, id: frame.id, epoch };
        if !tags.is_empty() {
            self.tag(tags, member, left, until).await.map_err(|fault| self.inner.writes.refused(fault))?;
        }
        let (epoch_name, lease) = (self.inner.names.epoch_of(key), token.map(|token| (self.inner.names.lease(key), token)));
        let mut command = match &lease {
            Some((lease, _)) => PUT.call(&[&name, &epoch_name, lease]),
            None => PUT.call(&[&name, &epoch_name]),
        };
        command.arg(&epoch.to_be_bytes()[..]).arg(&seen.to_be_bytes()[..]).arg(millis(left)).arg(Framed(frame, &encoded));
        if let Some((_, Token(token))) = &lease {
            command.arg(&token[..]);
        }
        // It is copied into the command.
        drop(encoded);
        match self.inner.run(&PUT, &name, until, Frame::LEN + len as usize, &command).await {
            Ok(stored) => {
                // One of the two is gone for good.
                let gone = if stored == 1 { Member { id: seen, ..member } } else { member };
                if !tags.is_empty() && gone.id != 0 {
                    self.untag(tags, gone, until).await;
                }
                Ok(stored == 1)
            }
            Err(fault) => Err(self.inner.writes.refused(fault)),
        }
    }

    fn of(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

impl Store for Redis {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        let start = Instant::now();
        let until = start + self.inner.deadlines.read;
        let name = self.inner.names.record(key);
        let (epoch, value) = self.inner.read(key, &name, until).await?;
        let found = |id| Generation([epoch, id]);
        let beginning = match value {
            Value::BulkString(bytes) => bytes,
            Value::Nil => Vec::new(),
            other => return Err(self.inner.unusable(&name, Fault::of_value(&other), &[], until).await),
        };
        if beginning.is_empty() {
            return Ok(Lookup { record: None, generation: found(0) });
        }
        let Some(frame) = Frame::parse(&beginning).filter(|frame| self.inner.is_possible(frame, beginning.len())) else {
            return Err(self.inner.unusable(&name, None, &beginning, until).await);
        };
        if frame.kind == Kind::Removed {
            return Ok(Lookup { record: None, generation: found(frame.id) });
        }
        let whole = Frame::LEN + frame.len as usize;
        let value = if whole > beginning.len() {
            let rest = self.inner.whole(&name, whole, start + self.inner.deadlines.write.max(self.inner.deadlines.read)).await?;
            match Frame::parse(&rest) {
                Some(again) if again == frame && rest.len() == whole => rest,
                Some(again) if again == frame => return Err(self.inner.unusable(&name, None, &beginning, until).await),
                // It was replaced or removed in between.
                again => return Ok(Lookup { record: None, generation: found(again.map_or(0, |frame| frame.id)) }),
            }
        } else {
            beginning
        };
        let value = Bytes::from(value);
        match self.inner.codec.decode(key, value.slice(Frame::LEN..)) {
            Ok(record) => {
                let live = self.inner.clock.now() < record.expires();
                Ok(Lookup { record: live.then_some(record), generation: found(frame.id) })
            }
            Err(_) => Err(self.inner.unusable(&name, None, &value, until).await),
        }
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        self.store(key, record, generation, None).await
    }

    async fn put_leased(&self, key: &Key, record: Record, generation: Generation, token: Token) -> Result<bool, Error> {
        self.store(key, record, generation, Some(token)).await
    }

    async fn claim(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        self.claim_lease(key, generation, patience).await
    }

    async fn renew(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        self.renew_lease(key, token).await
    }

    async fn release(&self, key: &Key, token: Token, declined: bool) -> Result<(), Error> {
        self.release_lease(key, token, declined).await
    }

    async fn audience(&self, key: &Key, token: Token) -> Option<Audience> {
        self.await_audience(key, token).await
    }

    async fn publish(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> Result<bool, Error> {
        self.publish_parts(key, token, from, parts).await
    }

    fn follow(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        self.follow_parts(key, token)
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        let until = Instant::now() + self.inner.deadlines.write;
        let mark = Frame::new(Kind::Removed, 0).bytes();
        let name = self.inner.names.record(key);
        let mut command = REMOVE.call(&[&name, &self.inner.names.lease(key)]);
        command.arg(&mark[..Frame::IDENTITY]).arg(millis(self.inner.fill_bound)).arg(&frame::RECORD[..]);
        Ok(self.inner.run(&REMOVE, &name, until, 0, &command).await? == 1)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Listing>, Error> {
        let until = Instant::now() + self.inner.deadlines.read;
        let name = self.inner.names.record(key);
        let mut command = redis::cmd("GETRANGE");
        command.arg(&name).arg(0).arg(Frame::LEN + Codec::PREFIX - 1);
        let beginning = match self.inner.one(To::Key(&name), Lane::Read, until, 0, &command).await? {
            Value::BulkString(bytes) => bytes,
            _ => return Ok(None),
        };
        let listing = listing::listing(self, key, &beginning, until).await?;
        Ok(listing.filter(|listing| self.inner.clock.now() < listing.lifetime.expires()))
    }

    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        listing::list(self, cursor, limit).await
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        sweep::remove_where(self, selection).await
    }

    async fn cleanup(&self) -> Result<u64, Error> {
        tags::cleanup(self, Instant::now() + self.inner.deadlines.sweep).await
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        let until = Instant::now() + self.inner.deadlines.read;
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("DBSIZE").cmd("INFO").arg("memory");
        let primaries = self.inner.servers.primaries(until).await?;
        let asking =
            primaries.iter().map(|primary| self.inner.servers.call(To::Primary(primary), Lane::Read, until, 0, Ask::All(&pipeline)));
        let mut usage = StoreUsage::default();
        // Without permission, that much remains unknown.
        let more = |sum: &mut Option<u64>, number: Option<u64>| *sum = number.map(|number| sum.unwrap_or_default() + number).or(*sum);
        for reply in try_join_all(asking).await?.iter().flatten() {
            match reply {
                Value::Int(keys) => more(&mut usage.total_keys, u64::try_from(*keys).ok()),
                Value::BulkString(text) => more(&mut usage.bytes, number_in(text, "used_memory")),
                Value::VerbatimString { text, .. } => more(&mut usage.bytes, number_in(text.as_bytes(), "used_memory")),
                _ => {}
            }
        }
        Ok(usage)
    }

    fn health(&self) -> Option<Health> {
        let LinkStatus { state, last_error, opened, dials, rejected, .. } = self.status();
        Some(Health { link: state.label(), last_error, outages: opened, dials, rejected, refused: self.refused_writes(), tier: None })
    }

    fn watch(&self, listener: Weak<dyn LinkListener>) {
        self.inner.listeners.add(listener);
    }

    async fn shutdown(&self) {
        self.inner.servers.shutdown().await;
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("names", &self.inner.names).field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Inner {
    /// The epoch of a key's bucket, and then how the value under the key begins. The epoch is made if there is none; it is 0 if that is not possible.
    async fn read(&self, key: &Key, name: &str, until: Instant) -> Result<(u64, Value), Fault> {
        let epoch_name = self.names.epoch_of(key);
        let mut pipeline = Pipeline::with_capacity(2);
        let look = |pipeline: &mut Pipeline| {
            pipeline.cmd("GET").arg(&epoch_name).cmd("GETRANGE").arg(name).arg(0).arg(FIRST - 1);
        };
        look(&mut pipeline);
        let mut replies = self.servers.call(To::Key(name), Lane::Read, until, 0, Ask::All(&pipeline)).await?;
        let mut epoch = replies.first().and_then(epoch_of);
        if epoch.is_none() {
            let is_vacant = matches!(replies.first(), Some(Value::Nil));
            let mut pipeline = Pipeline::with_capacity(3);
            pipeline.cmd("SET").arg(&epoch_name).arg(&frame::random().to_be_bytes()[..]);
            if is_vacant {
                pipeline.arg("NX");
            }
            look(&mut pipeline);
            replies = self.servers.call(To::Key(name), Lane::Read, until, 0, Ask::All(&pipeline)).await?;
            epoch = replies.get(1).and_then(epoch_of);
        }
        let value = replies.pop().unwrap_or(Value::Nil);
        Ok((epoch.unwrap_or_default(), value))
    }

    /// May a value of which so many bytes were read have this frame?
    fn is_possible(&self, frame: &Frame, read: usize) -> bool {
        let whole = Frame::LEN + frame.len as usize;
        match frame.kind {
            Kind::Removed => read == Frame::LEN && frame.len <= 1,
            Kind::Record => frame.len as usize <= self.max_record && if read < FIRST { whole == read } else { whole >= read },
        }
    }

    /// The first `len` bytes of a large value.
    async fn whole(&self, name: &str, len: usize, until: Instant) -> Result<Vec<u8>, Fault> {
        let mut command = redis::cmd("GETRANGE");
        command.arg(name).arg(0).arg(len - 1);
        match self.one(To::Key(name), Lane::Bulk, until, len, &command).await? {
            Value::BulkString(bytes) => Ok(bytes),
            _ => Ok(Vec::new()),
        }
    }

    /// Drops a value that is no record, unless it has changed since it was read, and makes the error that says so.
    async fn unusable(&self, name: &str, fault: Option<Fault>, value: &[u8], until: Instant) -> Error {
        if let Some(fault) = fault.filter(|fault| *fault != Fault::WrongType) {
            return fault.into();
        }
        let beginning = &value[..value.len().min(BEGINNING)];
        // Should this fail, the next to read it tries again.
        let mut command = DISCARD.call(&[name]);
        command.arg(beginning);
        let _ = self.run(&DISCARD, name, until, 0, &command).await;
        Error::corrupt("a value in redis was not what was stored there, and was dropped")
    }

    /// Runs a script that answers with a number, where the key of this name is.
    async fn run(&self, script: &Script, name: &str, until: Instant, bytes: usize, call: &Cmd) -> Result<i64, Fault> {
        self.run_on(Lane::Bulk, script, name, until, bytes, call).await
    }

    async fn run_on(&self, lane: Lane, script: &Script, name: &str, until: Instant, bytes: usize, call: &Cmd) -> Result<i64, Fault> {
        match self.ask(To::Key(name), lane, until, bytes, Ask::Script(script, call)).await? {
            Value::Int(number) => Ok(number),
            _ => Err(Fault::Garbled),
        }
    }

    /// One command. What it says of the operation alone is an error, too.
    async fn one(&self, to: To<'_>, lane: Lane, until: Instant, bytes: usize, command: &Cmd) -> Result<Value, Fault> {
        self.ask(to, lane, until, bytes, Ask::One(command)).await
    }

    async fn ask(&self, to: To<'_>, lane: Lane, until: Instant, bytes: usize, ask: Ask<'_>) -> Result<Value, Fault> {
        let reply = self.servers.call(to, lane, until, bytes, ask).await?.pop().unwrap_or(Value::Nil);
        match Fault::of_value(&reply) {
            Some(fault) => Err(fault),
            None => Ok(reply),
        }
    }
}

impl Writes {
    fn are_barred(&self) -> bool {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Counts a record that was refused; bars further ones if we may not write at all.
    fn refused(&self, fault: Fault) -> Error {
        if let Fault::Refused(code) = fault {
            self.count.fetch_add(1, Ordering::Relaxed);
            if code == "NOPERM" {
                let now = Instant::now();
                let before = self.barred.lock().unwrap_or_else(PoisonError::into_inner).replace(now + BARRED);
                // Many may be told at once.
                if before.is_none_or(|until| until <= now) {
                    #[cfg(feature = "tracing")]
                    tracing::error!(target: "tower_response_cache::redis", "redis does not permit writes: nothing is stored");
                }
            }
        }
        fault.into()
    }
}

/// The epoch that a reply is, if it is one.
fn epoch_of(reply: &Value) -> Option<u64> {
    match reply {
        Value::BulkString(bytes) => bytes.as_slice().try_into().ok().map(u64::from_be_bytes).filter(|epoch| *epoch != 0),
        _ => None,
    }
}

/// A field of an answer to `INFO`.
fn field_of<'a>(info: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = info.split(|byte| *byte == b'\n');
    let field = lines.filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":")).next()?;
    std::str::from_utf8(field).ok().map(str::trim)
}

fn number_in(info: &[u8], name: &str) -> Option<u64> {
    field_of(info, name)?.parse().ok()
}

/// At least 1: what expires at once is an error to Redis.
fn millis(time: Duration) -> u64 {
    // Redis keeps expiries as signed milliseconds since the epoch; a thousand years are as good as for ever.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1000 * 365 * 86_400_000)
}
