//! Which records carry a tag: one sorted set per tag, so that a removal by tag need not look at every key.
//!
//! A member names one value, not one key: the key, the number of the value, and the epoch that its fill saw. It is scored by when the value
//! expires. It is added before the value is written, so that no record escapes. A member is dropped only when the epoch of its bucket is
//! another by now and the value is not there: then it never will be, whoever is still on the way with it.
//!
//! A set expires after the last value that it names. A server that runs out of memory may evict it before; once the server has evicted
//! anything, a removal by tag looks at every key as well.

use std::time::Duration;

use futures_util::future::try_join_all;
use redis::Value;
use tokio::time::Instant;

use super::{
    Redis,
    fault::Fault,
    frame::{self, Frame},
    link::Lane,
    millis,
    scripts::{ADD_TAG, UNTAG},
    servers::{Primary, To},
    sweep::{PART, STEP, step},
};
use crate::{clock::unix_millis, error::Error, key::Key};

/// A value that carries a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) key: Key,
    /// The number of the value.
    pub(super) id: u64,
    /// What the fill saw before it began.
    pub(super) epoch: u64,
}

impl Member {
    const LEN: usize = 48;

    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(self.key.as_bytes());
        bytes[32..40].copy_from_slice(&self.id.to_be_bytes());
        bytes[40..].copy_from_slice(&self.epoch.to_be_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let epoch = rest.try_into().ok()?;
        Some(Self { key: Key::from_bytes(*key), id: u64::from_be_bytes(*id), epoch: u64::from_be_bytes(epoch) })
    }
}

/// How many members that have expired are dropped when one is added: more than one, so that they do not pile up.
const DROPPED_PER_ADD: usize = 16;

impl Redis {
    /// Says of a value that is about to be written which tags it carries.
    pub(super) async fn tag(&self, tags: &[String], member: Member, left: Duration, until: Instant) -> Result<(), Fault> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let (dead, expires) = (unix_millis(now).saturating_sub(millis(inner.fill_bound)), unix_millis(now).saturating_add(millis(left)));
        let additions = tags.iter().map(|tag| {
            let set = inner.names.tag(tag);
            let mut command = ADD_TAG.call(&[&set]);
            // The set outlives what it names: clocks differ.
            command.arg(&member.bytes()[..]).arg(expires).arg(millis(left + inner.fill_bound)).arg(dead).arg(DROPPED_PER_ADD);
            (set, command)
        });
        let replies = inner.servers.spread(Lane::Bulk, until, Some(&ADD_TAG), additions.collect()).await?;
        replies.iter().find_map(Fault::of_value).map_or(Ok(()), Err)
    }

    /// Takes a value that is gone, or was never written, out of the sets of its tags. Should this fail, it expires there.
    pub(super) async fn untag(&self, tags: &[String], member: Member, until: Instant) {
        let removals = tags.iter().map(|tag| {
            let set = self.inner.names.tag(tag);
            let mut command = redis::cmd("ZREM");
            command.arg(&set).arg(&member.bytes()[..]);
            (set, command)
        });
        let _ = self.inner.servers.spread(Lane::Bulk, until, None, removals.collect()).await;
    }
}

/// Removes what carries a tag, and counts it. The epochs are new already.
pub(super) async fn remove(store: &Redis, tag: &str, until: Instant) -> Result<Passed, Error> {
    go_through(store, &store.inner.names.tag(tag), true, until).await
}

/// Drops the members of all sets that name nothing any more, and counts them.
pub(super) async fn cleanup(store: &Redis, until: Instant) -> Result<u64, Error> {
    let primaries = store.inner.servers.primaries(step(until)).await?;
    let dropped = try_join_all(primaries.iter().map(|primary| clean(store, primary, until))).await?;
    Ok(dropped.iter().sum())
}

/// The sets of one server.
async fn clean(store: &Redis, primary: &Primary, until: Instant) -> Result<u64, Error> {
    let inner = &store.inner;
    let dead = unix_millis(inner.clock.now()).saturating_sub(millis(inner.fill_bound));
    let (mut cursor, mut dropped) = (Vec::from(b"0"), 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor.as_slice()).arg("MATCH").arg(inner.names.tags_pattern()).arg("COUNT").arg(STEP);
        let (next, names) = scanned(inner.one(To::Primary(primary), Lane::Bulk, step(until), 0, &scan).await?)?;
        for name in names.iter().filter(|name| inner.names.is_tag(name)).filter_map(|name| std::str::from_utf8(name).ok()) {
            dropped += drop_expired(store, name, dead, until).await?;
            dropped += go_through(store, name, false, until).await?.dropped;
        }
        if next == b"0" {
            return Ok(dropped);
        }
        cursor = next;
    }
}

/// In small steps, each of which delays others by little.
async fn drop_expired(store: &Redis, set: &str, dead: u64, until: Instant) -> Result<u64, Error> {
    let mut dropped = 0;
    loop {
        let mut range = redis::cmd("ZRANGE");
        range.arg(set).arg("-inf").arg(format!("({dead}")).arg("BYSCORE").arg("LIMIT").arg(0).arg(PART);
        let Value::Array(members) = store.inner.one(To::Key(set), Lane::Bulk, step(until), 0, &range).await? else {
            return Err(Fault::Garbled.into());
        };
        if members.is_empty() {
            return Ok(dropped);
        }
        let members: Vec<_> = members.into_iter().filter_map(bytes_of).collect();
        dropped += drop_members(store, set, &members, until).await?;
    }
}

/// So many members are looked after together. There is a script for each of the 256 buckets: with few members in each, what they cost would be all in the calls.
const TOGETHER: usize = 16 << 10;

/// What became of what a set names.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) removed: u64,
    dropped: u64,
    /// Some of it was not looked at, for it is on its way from one server to another.
    pub(super) is_partial: bool,
}

/// Goes through a set, drops what names nothing any more, and, if told to, removes what is named.
async fn go_through(store: &Redis, set: &str, remove: bool, until: Instant) -> Result<Passed, Error> {
    let inner = &store.inner;
    let (mut cursor, mut members, mut passed) = (Vec::from(b"0"), Vec::new(), Passed::default());
    loop {
        let mut scan = redis::cmd("ZSCAN");
        scan.arg(set).arg(cursor.as_slice()).arg("COUNT").arg(PART);
        // Whatever is in the set all the time is seen, and perhaps twice.
        let (next, found) = scanned(inner.one(To::Key(set), Lane::Bulk, step(until), 0, &scan).await?)?;
        members.extend(found.iter().step_by(2).filter_map(|member| Member::parse(member)));
        let is_end = next == b"0";
        if is_end || members.len() >= TOGETHER {
            members.sort_unstable();
            members.dedup();
            for members in members.chunks(TOGETHER) {
                let dead = settle(store, members, remove, until, &mut passed).await?;
                passed.dropped += drop_members(store, set, &dead, until).await?;
            }
            members.clear();
        }
        if is_end {
            return Ok(passed);
        }
        cursor = next;
    }
}

/// So many scripts are sent together: what is on its way is bounded, and others have their turn in between, at both ends.
const SENT: usize = 32;

/// Removes the values that members name, if told to, and says which members name nothing any more.
async fn settle(store: &Redis, members: &[Member], remove: bool, until: Instant, passed: &mut Passed) -> Result<Vec<Vec<u8>>, Error> {
    let same_bucket = |one: &Member, other: &Member| one.key.as_bytes()[0] == other.key.as_bytes()[0];
    // Whoever chooses what is asked can choose a bucket: no script has more to do than a part.
    let buckets: Vec<&[Member]> = members.chunk_by(same_bucket).flat_map(|bucket| bucket.chunks(PART)).collect();
    let mut dead = Vec::new();
    for buckets in buckets.chunks(SENT) {
        settle_some(store, buckets, remove, until, passed, &mut dead).await?;
    }
    Ok(dead)
}

async fn settle_some(
    store: &Redis,
    buckets: &[&[Member]],
    remove: bool,
    until: Instant,
    passed: &mut Passed,
    dead: &mut Vec<Vec<u8>>,
) -> Result<(), Error> {
    let inner = &store.inner;
    let calls = buckets.iter().map(|bucket| {
        let names: Vec<String> =
            [inner.names.epoch_of(&bucket[0].key)].into_iter().chain(bucket.iter().map(|member| inner.names.record(&member.key))).collect();
        let mut command = UNTAG.call(&names.iter().map(String::as_str).collect::<Vec<_>>());
        command.arg(u8::from(remove));
        for member in *bucket {
            let mut identity = [0; Frame::IDENTITY];
            identity[..4].copy_from_slice(frame::RECORD);
            identity[4..].copy_from_slice(&member.id.to_be_bytes());
            command.arg(&identity[..]).arg(&member.epoch.to_be_bytes()[..]);
        }
        (inner.names.epoch_of(&bucket[0].key), command)
    });
    let replies = inner.servers.spread(Lane::Bulk, step(until), Some(&UNTAG), calls.collect()).await?;
    for (bucket, reply) in buckets.iter().zip(&replies) {
        match Fault::of_value(reply) {
            // The epoch is on one server, and what it is of on another.
            Some(Fault::Refused("TRYAGAIN")) => {
                passed.is_partial = true;
                continue;
            }
            Some(fault) => return Err(fault.into()),
            None => {}
        }
        let Value::Array(reply) = reply else { return Err(Fault::Garbled.into()) };
        let Some((Value::Int(count), gone)) = reply.split_first() else { return Err(Fault::Garbled.into()) };
        passed.removed += u64::try_from(*count).unwrap_or_default();
        for place in gone {
            let Value::Int(place) = place else { return Err(Fault::Garbled.into()) };
            // Lua counts from 1.
            let member = usize::try_from(place - 1).ok().and_then(|place| bucket.get(place)).ok_or(Fault::Garbled)?;
            dead.push(member.bytes().to_vec());
        }
    }
    Ok(())
}

async fn drop_members(store: &Redis, set: &str, members: &[Vec<u8>], until: Instant) -> Result<u64, Error> {
    let mut dropped = 0;
    for members in members.chunks(PART) {
        let mut command = redis::cmd("ZREM");
        command.arg(set).arg(members);
        match store.inner.one(To::Key(set), Lane::Bulk, step(until), 0, &command).await? {
            Value::Int(count) => dropped += u64::try_from(count).unwrap_or_default(),
            _ => return Err(Fault::Garbled.into()),
        }
    }
    Ok(dropped)
}

/// The cursor and what came with it.
fn scanned(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), Fault> {
    let Value::Array(reply) = reply else { return Err(Fault::Garbled) };
    let Ok([Value::BulkString(next), Value::Array(found)]) = <[Value; 2]>::try_from(reply) else { return Err(Fault::Garbled) };
    // In the newer protocol, members and scores come one after the other all the same.
    Ok((next, found.into_iter().filter_map(bytes_of).collect()))
}

fn bytes_of(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::Double(score) => Some(score.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Member;
    use crate::key::Key;

    #[test]
    fn a_member_survives_the_way_there_and_back_and_nothing_else_is_one() {
        let member = Member { key: Key::from_bytes([7; 32]), id: 1 << 40, epoch: u64::MAX };
        assert_eq!(Member::parse(&member.bytes()), Some(member));
        for len in 0..Member::LEN {
            assert_eq!(Member::parse(&member.bytes()[..len]), None);
        }
        assert_eq!(Member::parse(&[0; 49]), None);
    }
}
