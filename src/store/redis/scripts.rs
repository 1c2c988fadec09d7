use std::sync::LazyLock;

use redis::Cmd;

/// A Lua script. Each touches keys of one slot only.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Makes the server know it.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.code);
        command
    }

    /// A call of the script that the server has to know, or with its source, which makes the server know it.
    pub(super) fn call(&self, with_source: bool, keys: &[&str]) -> Cmd {
        let mut command = if with_source { redis::cmd("EVAL") } else { redis::cmd("EVALSHA") };
        command.arg(if with_source { self.code } else { &self.hash }).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        command
    }
}

/// Stores a value, unless the epoch is another than the one seen, or there is a value and it is not the one seen. That there is none any
/// more says nothing: it may have been evicted.
///
/// Keys: record, epoch. Arguments: epoch seen, number of the value seen, lifetime in milliseconds, value.
pub(super) static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local head = redis.call('GETRANGE', KEYS[1], 0, 11)
if head ~= '' and string.sub(head, 5) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
return 1",
    )
});

/// Puts the mark of a removal in the place of whatever is there, and says whether that was a record.
///
/// Keys: record. Arguments: mark, its lifetime in milliseconds, how records begin.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local head = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[3] - 1)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if head == ARGV[3] then return 1 end
return 0",
    )
});

/// Drops values that still begin as they did when they were read, and counts them; where nothing is expected, what is no string.
///
/// Keys: records. Arguments: for each, how it began.
pub(super) static DISCARD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local count = 0
for i, key in ipairs(KEYS) do
  local same
  if ARGV[i] == '' then
    same = redis.call('TYPE', key).ok ~= 'string'
  else
    same = redis.pcall('GETRANGE', key, 0, #ARGV[i] - 1) == ARGV[i]
  end
  if same then count = count + redis.call('UNLINK', key) end
end
return count",
    )
});
