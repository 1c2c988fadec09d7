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

/// What is added to a hash.
pub(crate) struct Sums {
    pub(crate) name: String,
    /// From now on.
    pub(crate) lifetime: Duration,
    pub(crate) fields: Vec<(String, u64)>,
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

impl Redis {
    fn sums_name(&self, name: &str) -> String {
        format!("{}:{{sums}}:{name}", self.inner.names.prefix())
    }

    pub(crate) async fn add_sums(&self, addition: &Addition, cap: &Cap) -> Result<(), Error> {
        let until = Instant::now() + self.inner.deadlines.write;
        let fixed = [self.sums_name(&format!("added:{:016x}", addition.id)), self.sums_name("records")];
        let names: Vec<String> = fixed.into_iter().chain(addition.sums.iter().map(|sums| self.sums_name(&sums.name))).collect();
        let mut command = ADD.call(&names.iter().map(String::as_str).collect::<Vec<_>>());
        command.arg(millis(REMEMBERED)).arg(cap.records).arg(millis(cap.age)).arg(cap.oldest).arg(addition.records.len());
        for record in &addition.records {
            command.arg(2 * record.len());
            for (name, value) in record {
                command.arg(*name).arg(value);
            }
        }
        for Sums { lifetime, fields, .. } in &addition.sums {
            command.arg(millis(*lifetime)).arg(fields.len());
            for (field, by) in fields {
                command.arg(field).arg(*by);
            }
        }
        let bytes = command.get_packed_command().len();
        self.inner.run(&ADD, &names[0], until, bytes, &command).await?;
        Ok(())
    }

    /// The fields of hashes; those that are not there have none.
    pub(crate) async fn sums(&self, names: &[String]) -> Result<Vec<(String, u64)>, Error> {
        let until = Instant::now() + self.inner.deadlines.write.max(self.inner.deadlines.read);
        let mut fields = Vec::new();
        for names in names.chunks(READ_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(names.len());
            for name in names {
                pipeline.cmd("HGETALL").arg(self.sums_name(name));
            }
            for reply in self.inner.servers.call(To::Key(&self.sums_name("")), Lane::Bulk, until, 0, Ask::All(&pipeline)).await? {
                if let Some(fault) = Fault::of_value(&reply) {
                    return Err(fault.into());
                }
                let pairs = texts(reply);
                for pair in pairs.chunks_exact(2) {
                    fields.push((pair[0].clone(), pair[1].parse().map_err(|_| Fault::Garbled)?));
                }
            }
        }
        Ok(fields)
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
