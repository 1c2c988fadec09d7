//! Sums and records of requests, for [`Analytics`](crate::observe::analytics::Analytics) of several processes. All its keys are in one slot: `{prefix}:{sums}:…`.

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    Redis,
    fault::Fault,
    link::{Ask, Lane},
    millis,
    scripts::ADD,
    servers::To,
};
use crate::error::Error;

/// What is added in one step, or not at all.
pub(crate) struct Addition {
    /// Added twice under the same number, it counts once.
    pub(crate) id: u64,
    pub(crate) sums: Vec<Sums>,
    /// Records, each as names and values.
    pub(crate) records: Vec<Vec<(&'static str, String)>>,
}

/// A hash that is to be read, unless it still is as it was.
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// The addition that was the last when it was read before.
    pub(crate) version: Option<u64>,
}

/// A hash as it is now.
pub(crate) struct Found {
    /// The last addition; `None` if it is not there.
    pub(crate) version: Option<u64>,
    pub(crate) fields: Vec<(String, u64)>,
    pub(crate) histograms: Vec<(String, String)>,
}

/// What is added to a hash.
pub(crate) struct Sums {
    pub(crate) name: String,
    /// From now on.
    pub(crate) lifetime: Duration,
    pub(crate) fields: Vec<(String, u64)>,
    /// Each as `bucket:count bucket:count`. They are kept in [a hash of their own](HISTOGRAMS).
    pub(crate) histograms: Vec<(String, String)>,
}

/// How the stream of records is bounded.
pub(crate) struct Cap {
    pub(crate) records: usize,
    pub(crate) age: Duration,
    /// Milliseconds since the Unix epoch: what is older is forgotten.
    pub(crate) oldest: u64,
}

/// For how long an addition is remembered, to tell when it is tried again.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How many hashes are read at a time.
const READ_AT_ONCE: usize = 64;

/// Of how many hashes it is asked at a time whether they have changed.
const ASKED_AT_ONCE: usize = 512;

/// The field that holds the number of the last addition. Each is told from all others, those before the server lost its memory included.
const VERSION: &str = "v";

/// After the name of a hash, that of the one with its histograms. They are in one of their own, since processes of before take every value for a number.
const HISTOGRAMS: &str = ":l";

impl Redis {
    fn sums_name(&self, name: &str) -> String {
        format!("{}:{{sums}}:{name}", self.inner.names.prefix())
    }

    /// Of a hash, and of the one with its histograms.
    fn both_names(&self, name: &str) -> [String; 2] {
        let name = self.sums_name(name);
        let histograms = format!("{name}{HISTOGRAMS}");
        [name, histograms]
    }

    pub(crate) async fn add_sums(&self, addition: &Addition, cap: &Cap) -> Result<(), Error> {
        let until = Instant::now() + self.inner.deadlines.write;
        let fixed = [self.sums_name(&format!("added:{:016x}", addition.id)), self.sums_name("records")];
        let names: Vec<String> = fixed.into_iter().chain(addition.sums.iter().flat_map(|sums| self.both_names(&sums.name))).collect();
        let mut command = ADD.call(&names.iter().map(String::as_str).collect::<Vec<_>>());
        command.arg(millis(REMEMBERED)).arg(cap.records).arg(millis(cap.age)).arg(cap.oldest).arg(addition.records.len()).arg(addition.id);
        for record in &addition.records {
            command.arg(2 * record.len());
            for (name, value) in record {
                command.arg(*name).arg(value);
            }
        }
        for Sums { lifetime, fields, histograms, .. } in &addition.sums {
            command.arg(millis(*lifetime)).arg(fields.len());
            for (field, by) in fields {
                // Numbers in Redis are signed.
                command.arg(field).arg((*by).min(i64::MAX as u64));
            }
            command.arg(histograms.len());
            for (field, by) in histograms {
                command.arg(field).arg(by);
            }
        }
        let bytes = command.get_packed_command().len();
        self.inner.run(&ADD, &names[0], until, bytes, &command).await?;
        Ok(())
    }

    /// Reads hashes, each in one step; `None` for those that are as they were.
    pub(crate) async fn sums(&self, wanted: &[Wanted]) -> Result<Vec<Option<Found>>, Error> {
        let until = Instant::now() + self.inner.deadlines.write.max(self.inner.deadlines.read);
        let mut versions = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(ASKED_AT_ONCE) {
            let ask = |pipeline: &mut Pipeline, name: &str| _ = pipeline.cmd("HGET").arg(self.sums_name(name)).arg(VERSION);
            versions.extend(self.of_each(wanted.iter(), until, ask).await?);
        }
        let mut found: Vec<Option<Found>> = Vec::with_capacity(wanted.len());
        let mut changed = Vec::new();
        for (wanted, version) in wanted.iter().zip(versions) {
            let version = texts(Value::Array(vec![version])).pop().filter(|text| !text.is_empty());
            let version: Option<u64> = version.map(|text| text.parse().map_err(|_| Fault::Garbled)).transpose()?;
            if version.is_some() && version != wanted.version {
                changed.push((found.len(), wanted));
            }
            found.push((version != wanted.version).then(|| Found { version, fields: Vec::new(), histograms: Vec::new() }));
        }
        for changed in changed.chunks(READ_AT_ONCE) {
            // Histograms after what says which addition was the last: they may have more than that, and are then read again, but never less.
            let ask = |pipeline: &mut Pipeline, name: &str| {
                self.both_names(name).iter().for_each(|name| _ = pipeline.cmd("HGETALL").arg(name));
            };
            let replies = self.of_each(changed.iter().map(|(_, wanted)| *wanted), until, ask).await?;
            let mut replies = replies.into_iter().map(texts);
            for (place, _) in changed {
                let (sums, histograms) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
                let (mut version, mut fields) = (None, Vec::new());
                for pair in sums.chunks_exact(2) {
                    // What is no number is of a later version, and says nothing here.
                    let Ok(number) = pair[1].parse() else { continue };
                    if pair[0] == VERSION { version = Some(number) } else { fields.push((pair[0].clone(), number)) }
                }
                let histograms = histograms.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                found[*place] = Some(Found { version, fields, histograms });
            }
        }
        Ok(found)
    }

    /// Asks the same of each hash.
    async fn of_each<'a>(
        &self,
        wanted: impl Iterator<Item = &'a Wanted>,
        until: Instant,
        ask: impl Fn(&mut Pipeline, &str),
    ) -> Result<Vec<Value>, Error> {
        let mut pipeline = Pipeline::new();
        wanted.for_each(|wanted| ask(&mut pipeline, &wanted.name));
        let replies = self.inner.servers.call(To::Key(&self.sums_name("")), Lane::Bulk, until, 0, Ask::All(&pipeline)).await?;
        match replies.iter().find_map(Fault::of_value) {
            Some(fault) => Err(fault.into()),
            None => Ok(replies),
        }
    }

    /// The newest records, the newest first.
    pub(crate) async fn records(&self, limit: usize) -> Result<Vec<Vec<(String, String)>>, Error> {
        let until = Instant::now() + self.inner.deadlines.write.max(self.inner.deadlines.read);
        let mut command = redis::cmd("XREVRANGE");
        let name = self.sums_name("records");
        command.arg(&name).arg("+").arg("-").arg("COUNT").arg(limit);
        let Value::Array(entries) = self.inner.one(To::Key(&name), Lane::Bulk, until, 0, &command).await? else {
            return Err(Fault::Garbled.into());
        };
        let record = |entry| match entry {
            Value::Array(parts) => {
                let fields = parts.into_iter().nth(1).map(texts).unwrap_or_default();
                fields.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
            }
            _ => Vec::new(),
        };
        Ok(entries.into_iter().map(record).collect())
    }
}

/// The texts of a flat reply, in either version of the protocol.
fn texts(reply: Value) -> Vec<String> {
    let text = |value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) => text,
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    };
    match reply {
        Value::Array(values) => values.into_iter().map(text).collect(),
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [text(name), text(value)]).collect(),
        _ => Vec::new(),
    }
}
