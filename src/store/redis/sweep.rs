use std::time::Duration;

use futures_util::future::try_join_all;
use redis::Value;
use tokio::time::Instant;

use super::{
    Redis,
    fault::Fault,
    field_of,
    frame::{self, Frame},
    link::Lane,
    listing::{listing, scan},
    names::BUCKETS,
    number_in,
    scripts::DISCARD,
    servers::{Primaries, Primary, To},
    tags,
};
use crate::{entry::record::Codec, error::Error, key::Key, store::Selection};

/// How many keys the server looks at per step, about: some hundred microseconds of its time.
pub(super) const STEP: usize = 1000;

/// How much one command or script changes at most, or goes through in a set: half a millisecond of the server's time, for nobody else is answered meanwhile.
pub(super) const PART: usize = 250;

/// Removes what a selection names, and voids all fills that are on their way.
pub(super) async fn remove_where(store: &Redis, selection: &Selection) -> Result<u64, Error> {
    let inner = &store.inner;
    let start = Instant::now();
    let until = start + inner.deadlines.sweep;

    // First the epochs, so that what is on its way is not stored; what was stored until now is found.
    let epochs = (0..BUCKETS).map(|bucket| {
        let name = inner.names.epoch(bucket);
        let mut command = redis::cmd("SET");
        command.arg(&name).arg(&frame::random().to_be_bytes()[..]);
        (name, command)
    });
    let replies = inner.servers.spread(Lane::Bulk, step(until), None, epochs.collect()).await?;
    let mut gone = Vec::new();
    for (bucket, reply) in replies.iter().enumerate() {
        match Fault::of_value(reply) {
            None => {}
            // There is no room for another. That there is none says as much: whoever makes one later makes another.
            Some(Fault::Refused("OOM")) => {
                let (name, mut command) = (inner.names.epoch(bucket), redis::cmd("UNLINK"));
                command.arg(&name);
                gone.push((name, command));
            }
            Some(fault) => return Err(fault.into()),
        }
    }
    let replies = inner.servers.spread(Lane::Bulk, step(until), None, gone).await?;
    if let Some(fault) = replies.iter().find_map(Fault::of_value) {
        return Err(fault.into());
    }

    let mut removed = 0;
    let mut primaries = inner.servers.primaries(step(until)).await?;
    if let Selection::Tag(tag) = selection {
        let found = tags::remove(store, tag, until).await?;
        removed += found.removed;
        if !found.is_partial && !may_be_incomplete(store, &primaries, until).await? {
            return Ok(removed);
        }
    }
    // A key that moves from a server that is looked through later to one that was looked through before is found the second time.
    for _ in 0..2 {
        let swept = try_join_all(primaries.iter().map(|primary| sweep(store, selection, primary, until))).await?;
        removed += swept.iter().sum::<u64>();
        let now = inner.servers.primaries(step(until)).await?;
        if now.hold_still_since(&primaries) {
            break;
        }
        primaries = now;
    }
    Ok(removed)
}

/// Looks at all keys of one server, and removes what the selection names.
async fn sweep(store: &Redis, selection: &Selection, primary: &Primary, until: Instant) -> Result<u64, Error> {
    let (mut at, mut removed) = (0, 0);
    loop {
        let (next, keys) = scan(store, primary, at, STEP, until).await?;
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

/// May sets of tags lack what they should name? The default of a server without bounds is that they may not: it evicts nothing.
///
/// In a Cluster, a set and what it names may be on different servers. One that was a replica may lack the last that its primary was told.
async fn may_be_incomplete(store: &Redis, primaries: &Primaries, until: Instant) -> Result<bool, Error> {
    for primary in primaries.iter() {
        let command = redis::cmd("INFO");
        let told = store.inner.one(To::Primary(primary), Lane::Bulk, step(until), 0, &command).await;
        let info = match &told {
            Ok(Value::BulkString(info)) => info.as_slice(),
            Ok(Value::VerbatimString { text, .. }) => text.as_bytes(),
            // Without permission it is not known.
            Ok(_) | Err(Fault::Refused(_)) => &[],
            Err(fault) => return Err((*fault).into()),
        };
        let was_replica = primaries.are_several() && field_of(info, "second_repl_offset") != Some("-1");
        if was_replica || number_in(info, "evicted_keys") != Some(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Those that the selection names, each with how its value begins.
async fn doomed(store: &Redis, selection: &Selection, keys: &[Key], until: Instant) -> Result<Vec<(Key, Vec<u8>)>, Error> {
    let inner = &store.inner;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let len = if matches!(selection, Selection::All) { Frame::IDENTITY } else { Frame::LEN + Codec::PREFIX };
    let looks = keys.iter().map(|key| {
        let name = inner.names.record(key);
        let mut command = redis::cmd("GETRANGE");
        command.arg(&name).arg(0).arg(len - 1);
        (name, command)
    });
    let values = inner.servers.spread(Lane::Bulk, step(until), None, looks.collect()).await?;
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
    let buckets = doomed.chunk_by(|(one, _), (other, _)| one.as_bytes()[0] == other.as_bytes()[0]);
    let mut groups: Vec<&[(Key, Vec<u8>)]> = buckets.flat_map(|bucket| bucket.chunks(PART)).collect();
    let mut removed = 0;
    while !groups.is_empty() {
        let calls = groups.iter().map(|group| {
            let names: Vec<String> = group.iter().map(|(key, _)| inner.names.record(key)).collect();
            let mut command = DISCARD.call(&names.iter().map(String::as_str).collect::<Vec<_>>());
            for (_, beginning) in *group {
                command.arg(beginning.as_slice());
            }
            (inner.names.epoch_of(&group[0].0), command)
        });
        let replies = inner.servers.spread(Lane::Bulk, step(until), Some(&DISCARD), calls.collect()).await?;
        let mut split = Vec::new();
        for (group, reply) in groups.iter().zip(&replies) {
            match (reply, Fault::of_value(reply)) {
                (Value::Int(count), _) => removed += u64::try_from(*count).unwrap_or_default(),
                // Some of them have moved, and some have not: one at a time, then.
                (_, Some(Fault::Refused("TRYAGAIN"))) if group.len() > 1 => split.extend(group.chunks(1)),
                (_, fault) => return Err(fault.unwrap_or(Fault::Garbled).into()),
            }
        }
        groups = split;
    }
    Ok(removed)
}

/// No step takes so long from a server that is well.
pub(super) fn step(until: Instant) -> Instant {
    until.min(Instant::now() + Duration::from_secs(5))
}
