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

    /// A call of it.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }
}

/// Stores a value, unless the epoch is another than the one seen, or there is a value and it is not the one seen. That there is none any
/// more says nothing: it may have been evicted. Called twice with the same value, it answers twice the same, as long as that is there: what is there is
/// to stay in the sets of its tags.
///
/// By the holder of a lease, unless another holds it by now; and that ends it.
///
/// Keys: record, epoch; perhaps lease. Arguments: epoch seen, number of the value seen, lifetime in milliseconds, value; perhaps token.
pub(super) static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local head = redis.call('GETRANGE', KEYS[1], 0, 11)
local there = string.sub(head, 5)
if there == string.sub(ARGV[4], 5, 12) then return 1 end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if head ~= '' and there ~= ARGV[2] then return 0 end
if KEYS[3] then
  local holder = redis.call('GET', KEYS[3])
  if holder and holder ~= ARGV[5] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
if KEYS[3] then redis.call('UNLINK', KEYS[3]) end
return 1",
    )
});

/// Puts the mark of a removal in the place of whatever is there, and says whether that was a record. The mark remembers that: called twice
/// with the same mark, it answers twice the same.
///
/// Whoever makes an answer now makes it in vain: its lease ends. That comes first, for a server that is out of memory refuses the first write of a script if it
/// needs room, and no later one.
///
/// Keys: record, lease. Arguments: magic, kind and number of the mark; its lifetime in milliseconds; how records begin.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local head = redis.pcall('GETRANGE', KEYS[1], 0, 15)
if type(head) ~= 'string' then head = '' end
if string.sub(head, 1, 12) == ARGV[1] then return string.byte(head, 16) end
local was = 0
if string.sub(head, 1, 4) == ARGV[3] then was = 1 end
redis.call('UNLINK', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. string.char(0, 0, 0, was), 'PX', ARGV[2])
return was",
    )
});

/// Adds to the fields of hashes and appends to a stream, once per marker. Fields are numbers, or histograms: `bucket:count bucket:count`, in any order.
///
/// What a script has done before it fails stays done. So the marker says how many of its writes that were, and whoever tries again goes on from there; empty, it says that all are.
///
/// Keys: marker, stream; hashes in pairs, of numbers and of histograms. Arguments: lifetime of the marker in milliseconds; of the stream, its length, its lifetime and the time before which
/// nothing is kept; the count of records, the number of the addition; for each record how many texts and those; for each pair its lifetime, and twice the count of fields, and for each its
/// name and what is added.
#[cfg(feature = "analytics")]
pub(super) static ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local before = redis.call('GET', KEYS[1])
if before == '' then return 0 end
before = tonumber(before or 0)
local function mark(count) redis.call('SET', KEYS[1], count, 'PX', ARGV[1]) end
-- Should this not be possible, nothing was done yet.
mark(before)
local writes, fault = 0, nil
local function try(...)
  if fault then return end
  local told = redis.pcall(...)
  if type(told) == 'table' and told.err then fault = told end
  return told
end
local function write(...)
  if writes >= before then try(...) end
  if not fault then writes = writes + 1 end
end
local function increase(key, field, by)
  write('HINCRBY', key, field, by)
  -- There is no larger sum than that.
  if fault and string.find(fault.err, 'overflow', 1, true) then
    fault = nil
    write('HSET', key, field, '9223372036854775807')
  end
end
local at = 7
for _ = 1, tonumber(ARGV[5]) do
  local count = tonumber(ARGV[at])
  write('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, at + 1, at + count))
  at = at + 1 + count
end
if tonumber(ARGV[5]) > 0 then
  write('XTRIM', KEYS[2], 'MINID', '~', ARGV[4])
  write('PEXPIRE', KEYS[2], ARGV[3])
end
local function add(sums, text)
  for bucket, count in string.gmatch(text, '(%d+):(%d+)') do sums[bucket] = (sums[bucket] or 0) + count end
end
for i = 3, #KEYS, 2 do
  local lifetime, count = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for field = at, at + 2 * count - 2, 2 do increase(KEYS[i], ARGV[field], ARGV[field + 1]) end
  write('HSET', KEYS[i], 'v', ARGV[6])
  write('PEXPIRE', KEYS[i], lifetime)
  at = at + 2 * count
  count = tonumber(ARGV[at])
  at = at + 1
  for field = at, at + 2 * count - 2, 2 do
    local text = ARGV[field + 1]
    local there = try('HGET', KEYS[i + 1], ARGV[field])
    if there and not fault then
      local sums, parts = {}, {}
      add(sums, there)
      add(sums, text)
      for bucket, count in pairs(sums) do parts[#parts + 1] = bucket .. string.format(':%.0f', count) end
      text = table.concat(parts, ' ')
    end
    write('HSET', KEYS[i + 1], ARGV[field], text)
  end
  if count > 0 then write('PEXPIRE', KEYS[i + 1], lifetime) end
  at = at + 2 * count
end
if fault then
  mark(writes)
  return fault
end
mark('')
return 1",
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

/// Adds a member to the set of a tag, drops some that expired long ago, and lets the set live as long as its last member.
///
/// Keys: set. Arguments: member, when it expires, how long it has to be kept, before when members have expired for sure, how many of those to drop.
pub(super) static ADD_TAG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local dead = redis.call('ZRANGE', KEYS[1], '-inf', '(' .. ARGV[4], 'BYSCORE', 'LIMIT', 0, ARGV[5])
if #dead > 0 then redis.call('ZREM', KEYS[1], unpack(dead)) end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX')
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'GT')
return 1",
    )
});

/// Looks for the values that members of a tag's set name, of one bucket. What is from before the present epoch is removed, if told to.
/// Says how many values that were, and the places of the members whose value is gone and can never come.
///
/// Keys: epoch, records. Arguments: 1 to remove; for each record, how it begins, and its epoch.
pub(super) static UNTAG: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local epoch = redis.call('GET', KEYS[1])
local told = {0}
for i = 2, #KEYS do
  if ARGV[2 * i - 1] ~= epoch then
    local is = redis.pcall('GETRANGE', KEYS[i], 0, 11) == ARGV[2 * i - 2]
    if is and ARGV[1] == '1' then
      told[1] = told[1] + redis.call('UNLINK', KEYS[i])
      is = false
    end
    if not is then told[#told + 1] = i - 1 end
  end
end
return told",
    )
});

/// Grants the lease of a key (1), unless what is under the key is not what was seen there (2), it was declined a moment ago (3), or another has
/// it: then it answers with the token of that one. Called twice with the same token, it answers twice the same.
///
/// Keys: record, lease. Arguments: number of the value seen, token, lifetime in milliseconds, what stands for declined.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local there = redis.pcall('GETRANGE', KEYS[1], 4, 11)
if type(there) == 'string' and there ~= '' and there ~= ARGV[1] then return 2 end
local holder = redis.call('GET', KEYS[2])
if holder == ARGV[4] then return 3 end
if holder and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1",
    )
});

/// Lets a lease last for longer, if it is still held, or puts something else in its place, or nothing. Says 2 rather than 1 if someone wants to follow what
/// is made under it.
///
/// Keys: lease; perhaps where word of that is left. Arguments: token, what to put in its place, lifetime of that in milliseconds.
pub(super) static SETTLE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('UNLINK', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
if KEYS[2] and redis.call('GET', KEYS[2]) == ARGV[1] then return 2 end
return 1",
    )
});

/// Adds parts to a live stream, and lets it live on. Says 0 if the parts before them are not there, 1 if they were added and nobody wants them any more, 2 if
/// somebody does. Called twice with the same parts, it answers twice the same.
///
/// Keys: stream, where word is left that it is wanted. Arguments: token, lifetime in milliseconds, number of the first part, parts.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local there = redis.call('XLEN', KEYS[1])
local from = tonumber(ARGV[3])
if there < from then return 0 end
for i = 4 + there - from, #ARGV do
  redis.call('XADD', KEYS[1], '1-' .. (from + i - 3), '', ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if redis.call('GET', KEYS[2]) == ARGV[1] then return 2 end
return 1",
    )
});

/// For one who waits: for how long the lease lasts still, in milliseconds; and, if there is a live stream, how many parts it has, and the first and the
/// last; -1, if one of those is missing, or longer than a part may be.
///
/// Leaves word that it is wanted, and asks the holder for a sign of life if the lease lasts for less than that: cuts it short, and says so by that word. A
/// holder that lives renews it.
///
/// Keys: stream, where to leave word that it is wanted, lease. Arguments: the length of the longest part there may be, token, lifetime of the word in milliseconds,
/// for less than how long the lease lasts if a sign is wanted, for how long it lasts then.
pub(super) static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local left = 0
if redis.call('GET', KEYS[3]) == ARGV[2] then left = redis.call('PTTL', KEYS[3]) end
local asks = left < tonumber(ARGV[4])
if asks or redis.call('GET', KEYS[2]) ~= ARGV[2] then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
if asks and left > tonumber(ARGV[5]) then
  left = tonumber(ARGV[5])
  redis.call('PEXPIRE', KEYS[3], left)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return {left} end
local count = redis.call('XLEN', KEYS[1])
local told = {left, count}
for _, at in ipairs({'1-1', '1-' .. count}) do
  local found = redis.call('XRANGE', KEYS[1], at, at)[1]
  if not found or #found[2][2] > tonumber(ARGV[1]) then return -1 end
  told[#told + 1] = found[2][2]
end
return told",
    )
});

/// How many parts a live stream has, and those from a number on: as many as fit into a length, at least one; -1, if one is longer than a part may be. Says 0 if
/// there is no such stream. Who follows says so, for as long as a lease lasts. Looks at few at a time, for a script copies what it looks at.
///
/// Keys: stream, where to leave word that it is wanted. Arguments: the length of the longest part there may be, number of the first part, at most how many, their
/// length; perhaps token and lifetime in milliseconds.
pub(super) static FOLLOW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[5] then redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6]) end
local told, left, from = {redis.call('XLEN', KEYS[1])}, tonumber(ARGV[4]), '1-' .. (ARGV[2] + 1)
repeat
  local found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 8)
  for _, entry in ipairs(found) do
    local part = entry[2][2]
    if #part > tonumber(ARGV[1]) then return -1 end
    left = left - #part
    if #told > 1 and left < 0 then return told end
    told[#told + 1] = part
    from = '(' .. entry[1]
  end
until #found < 8 or #told > tonumber(ARGV[3])
return told",
    )
});
