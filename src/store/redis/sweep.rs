use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    Redis,
    fault::Fault,
    frame::{self, Frame},
    link::{Ask, Lane},
    listing::{listing, scan},
    names::BUCKETS,
    number_in,
    scripts::DISCARD,
    tags,
};
use crate::{entry::record::Codec, error::Error, key::Key, store::Selection};

/// How many keys the server looks at per step, about: some hundred microseconds of its time.
pub(super) const STEP: usize = 1000;

/// Removes what a selection names, and voids all fills that are on their way.
pub(super) async fn remove_where(store: &Redis, selection: &Selection) -> Result<u64, Error> {
    let inner = &store.inner;
    let start = Instant::now();
    let until = start + inner.deadlines.sweep;

    // First the epochs, so that what is on its way is not stored; what was stored until now is found.
    let mut pipeline = Pipeline::with_capacity(BUCKETS + 1);
    for bucket in 0..BUCKETS {
        pipeline.cmd("SET").arg(inner.names.epoch(bucket)).arg(&frame::random().to_be_bytes()[..]);
    }
    pipeline.add_command(DISCARD.load());
    let replies = inner.link.call(Lane::Bulk, step(until), 0, Ask::All(&pipeline)).await?;
    if let Some(fault) = replies.iter().find_map(Fault::of_value) {
        return Err(fault.into());
    }

    let mut removed = 0;
    if let Selection::Tag(tag) = selection {
        removed += tags::remove(store, tag, until).await?;
        if !may_have_evicted(store, until).await? {
            return Ok(removed);
        }
    }
    let mut at = 0;
    loop {
        let (next, keys) = scan(store, at, STEP, until).await?;
        // What is read of each is small, but the server may return more than asked for.
        for keys in keys.chunks(STEP) {
            let doomed = doomed(store, selection, keys, until).await?;
            removed += discard(store, doomed, until).await?;
        }
        if next == 0 {
            return Ok(removed);
        }
        at = next;
    }
}

/// May sets of tags be gone before what they name? The default of a server without bounds is that they may not.
async fn may_have_evicted(store: &Redis, until: Instant) -> Result<bool, Error> {
    let mut command = redis::cmd("INFO");
    command.arg("stats");
    let evicted = match store.inner.one(Lane::Bulk, step(until), 0, &command).await {
        Ok(Value::BulkString(info)) => number_in(&info, "evicted_keys"),
        Ok(Value::VerbatimString { text, .. }) => number_in(text.as_bytes(), "evicted_keys"),
        // Without permission it is not known.
        Ok(_) | Err(Fault::Refused(_)) => None,
        Err(fault) => return Err(fault.into()),
    };
    Ok(evicted != Some(0))
}

/// Those that the selection names, each with how its value begins.
async fn doomed(store: &Redis, selection: &Selection, keys: &[Key], until: Instant) -> Result<Vec<(Key, Vec<u8>)>, Error> {
    let inner = &store.inner;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let len = if matches!(selection, Selection::All) { Frame::IDENTITY } else { Frame::LEN + Codec::PREFIX };
    let mut pipeline = Pipeline::with_capacity(keys.len());
    for key in keys {
        pipeline.cmd("GETRANGE").arg(inner.names.record(key)).arg(0).arg(len - 1);
    }
    let values = inner.link.call(Lane::Bulk, step(until), 0, Ask::All(&pipeline)).await?;
    let mut doomed = Vec::new();
    for (key, value) in keys.iter().zip(values) {
        let Value::BulkString(mut value) = value else { continue };
        // Marks of removals stay: some may have been set after the epochs.
        if !value.starts_with(frame::RECORD) || value.len() < Frame::IDENTITY {
            continue;
        }
        let is_named = matches!(selection, Selection::All) || is_named(store, selection, key, &value, until).await?;
        if is_named {
            value.truncate(Frame::IDENTITY);
            doomed.push((*key, value));
        }
    }
    Ok(doomed)
}

async fn is_named(store: &Redis, selection: &Selection, key: &Key, beginning: &[u8], until: Instant) -> Result<bool, Error> {
    match listing(store, key, beginning, until).await {
        Ok(listing) => Ok(listing.is_some_and(|listing| selection.matches(&listing))),
        // It names nothing. Whoever looks it up drops it.
        Err(error) if error.is_corrupt() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Drops values that have not changed since, and counts those. One script call per bucket, for a script touches one slot.
async fn discard(store: &Redis, mut doomed: Vec<(Key, Vec<u8>)>, until: Instant) -> Result<u64, Error> {
    if doomed.is_empty() {
        return Ok(0);
    }
    let inner = &store.inner;
    doomed.sort_unstable();
    let mut pipeline = Pipeline::new();
    for bucket in doomed.chunk_by(|(one, _), (other, _)| one.as_bytes()[0] == other.as_bytes()[0]) {
        let names: Vec<String> = bucket.iter().map(|(key, _)| inner.names.record(key)).collect();
        let mut command = DISCARD.call(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for (_, beginning) in bucket {
            command.arg(beginning.as_slice());
        }
        pipeline.add_command(command);
    }
    let replies = inner.link.call(Lane::Bulk, step(until), 0, Ask::All(&pipeline)).await?;
    let mut removed = 0;
    for reply in &replies {
        match reply {
            Value::Int(count) => removed += u64::try_from(*count).unwrap_or_default(),
            other => return Err(Fault::of_value(other).unwrap_or(Fault::Garbled).into()),
        }
    }
    Ok(removed)
}

/// No step takes so long from a server that is well.
pub(super) fn step(until: Instant) -> Instant {
    until.min(Instant::now() + Duration::from_secs(5))
}
