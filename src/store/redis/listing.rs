use std::fmt;

use redis::Value;
use tokio::time::Instant;

use super::{
    FIRST, Redis,
    fault::Fault,
    frame::{Frame, Kind},
    link::Lane,
    servers::{Primary, To},
    sweep::{STEP, step},
};
use crate::{
    entry::record::Codec,
    error::Error,
    key::Key,
    store::{Cursor, LONGEST_PAGE, Listing, Page, Store as _},
};

/// Steps that a page takes at most. In a database of others' keys most of them find nothing; then the page is short, and the next goes on from there.
const STEPS: usize = 256;

/// A step asks for no fewer keys than that.
const SHORTEST: usize = 10;

/// A page of the entries: as many steps of the scan as it takes, of one primary after another, and how each of the values that they name begins.
///
/// While slots of a Cluster move, an entry may be left out, or listed twice.
pub(super) async fn list(store: &Redis, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
    let until = Instant::now() + store.inner.deadlines.sweep;
    let limit = limit.clamp(1, LONGEST_PAGE);
    let mut place = match cursor {
        Some(cursor) => Place::parse(cursor.as_str()).ok_or_else(Cursor::foreign)?,
        None => Place { primary: 0, at: 0 },
    };
    let primaries = store.inner.servers.primaries(step(until)).await?;
    let mut entries = Vec::new();
    for _ in 0..STEPS {
        // There may be fewer of them by now.
        let Some(primary) = primaries.iter().nth(place.primary) else { return Ok(Page { entries, next: None }) };
        let (next, keys) = scan(store, primary, place.at, (limit - entries.len()).max(SHORTEST), until).await?;
        for keys in keys.chunks(STEP) {
            entries.extend(listings(store, keys, until).await?);
        }
        place = if next == 0 { Place { primary: place.primary + 1, at: 0 } } else { Place { at: next, ..place } };
        if entries.len() >= limit {
            break;
        }
    }
    let is_end = place.at == 0 && primaries.iter().nth(place.primary).is_none();
    Ok(Page { entries, next: (!is_end).then(|| Cursor::new(place.to_string())) })
}

/// Where a listing goes on.
#[derive(Clone, Copy)]
struct Place {
    /// Of which of the servers.
    primary: usize,
    /// Where in its scan.
    at: u64,
}

impl Place {
    fn parse(cursor: &str) -> Option<Self> {
        let (primary, at) = cursor.split_once('.')?;
        let place = Self { primary: primary.parse().ok()?, at: at.parse().ok()? };
        // Where all begins is where nobody goes on.
        (place.primary > 0 || place.at > 0).then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.primary, self.at)
    }
}

/// One step of a scan of one server: where to go on, 0 at the end, and the keys of the records that it met. It meets every key that is there from the
/// first step to the last, perhaps more than once ([SCAN](https://redis.io/docs/latest/commands/scan/)).
pub(super) async fn scan(store: &Redis, primary: &Primary, at: u64, count: usize, until: Instant) -> Result<(u64, Vec<Key>), Fault> {
    let inner = &store.inner;
    let mut command = redis::cmd("SCAN");
    command.arg(at).arg("MATCH").arg(inner.names.pattern()).arg("COUNT").arg(count);
    let reply = inner.one(To::Primary(primary), Lane::Bulk, step(until), 0, &command).await?;
    let Value::Array(reply) = reply else { return Err(Fault::Garbled) };
    let [Value::BulkString(next), Value::Array(names)] = reply.as_slice() else { return Err(Fault::Garbled) };
    let next = std::str::from_utf8(next).ok().and_then(|next| next.parse().ok()).ok_or(Fault::Garbled)?;
    let key = |name: &Value| match name {
        Value::BulkString(name) => inner.names.parse(name),
        _ => None,
    };
    Ok((next, names.iter().filter_map(key).collect()))
}

/// What is there under these keys and has not expired.
async fn listings(store: &Redis, keys: &[Key], until: Instant) -> Result<Vec<Listing>, Error> {
    let inner = &store.inner;
    let mut listings = Vec::new();
    if keys.is_empty() {
        return Ok(listings);
    }
    let beginning = |key| {
        let name = inner.names.record(key);
        let mut command = redis::cmd("GETRANGE");
        command.arg(&name).arg(0).arg(Frame::LEN + Codec::PREFIX - 1);
        (name, command)
    };
    let values = inner.servers.spread(Lane::Bulk, step(until), None, keys.iter().map(beginning).collect()).await?;
    for (key, value) in keys.iter().zip(values) {
        let Value::BulkString(beginning) = value else { continue };
        match listing(store, key, &beginning, until).await {
            Ok(Some(listing)) if inner.clock.now() < listing.lifetime.expires() => listings.push(listing),
            Ok(_) => {}
            // It is none. Whoever looks it up drops it.
            Err(error) if error.is_corrupt() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listings)
}

/// What the beginning of a value tells of the response in it; more of it is read only where that says too little.
pub(super) async fn listing(store: &Redis, key: &Key, beginning: &[u8], until: Instant) -> Result<Option<Listing>, Error> {
    let inner = &store.inner;
    let Some(frame) = Frame::parse(beginning).filter(|frame| frame.kind == Kind::Record) else { return Ok(None) };
    let told = inner.codec.listing(key, &beginning[Frame::LEN..])?;
    let read = beginning.len() - Frame::LEN;
    if told.is_some() || read >= frame.len as usize {
        return Ok(told);
    }
    // Long lists of tags and labels.
    let mut command = redis::cmd("GETRANGE");
    let name = inner.names.record(key);
    command.arg(&name).arg(0).arg(FIRST - 1);
    let Value::BulkString(more) = inner.one(To::Key(&name), Lane::Bulk, step(until), FIRST, &command).await? else { return Ok(None) };
    if Frame::parse(&more) != Some(frame) {
        // It was replaced or removed in between: what is there now is another's.
        return Ok(None);
    }
    match inner.codec.listing(key, &more[Frame::LEN..])? {
        None if more.len() == FIRST => Ok(store.get(key).await?.record.and_then(|record| Listing::of(*key, &record))),
        told => Ok(told),
    }
}
