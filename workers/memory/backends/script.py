"""The verbs as one Lua script, so that each is atomic at the server.

KEYS[1] is the beginning of all keys of one partition of a namespace, which lie in one slot of a
cluster. ARGV[1] is MessagePack: a list of `[verb, arguments, id of the request]`. The reply is the
list of results; a failed one is `{"!", kind, version}`.

    e:<key>   hash: v version, x expiry, f freshness, c cost, t tags, and the value as one of
              i (integer, decimal), d (float, decimal), b (MessagePack)
    i         sorted set of all keys, by name      x   sorted set of keys by expiry
    t:<tag>   set of keys                          T:<tag>  those left to an invalidation
    s         hash: ver, entries, octets, quota, counters
    l:<name>  hash of a lock: token, x, owner      f:<key>  the same of a reservation
    y         sorted set of locks (l<name>) and reservations (f<key>) by expiry
    r:<id>    outcome of a request
"""

from __future__ import annotations

from mesh.protocol.memory import MAX_PAGE_OCTETS

# Seconds for which the outcome of a request is kept: longer than a call may last.
REMEMBER = 330
# Milliseconds for which what has expired is kept for the indexes to be put in order.
GRACE = 600_000

SCRIPT = """
local base, S = KEYS[1], KEYS[1]..'s'
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)
local watched = redis.call('EXISTS', base..'w') == 1
local ops = cmsgpack.unpack(ARGV[1])
local results = {}

local function text(n) return string.format('%.0f', n) end
local function failed(kind, version) return {'!', kind, version or 0} end
local function count(name, n) redis.call('HINCRBY', S, name, n) end

local function event(kind, key, version)
  if watched then
    redis.call('PUBLISH', base..'w', cmsgpack.pack({kind, key, version}))
  end
end

local function next_version()
  local v = math.max(tonumber(redis.call('HGET', S, 'ver') or 0) + 1, micros)
  redis.call('HSET', S, 'ver', text(v))
  return v
end

-- v, x, f, t, i, d, b, c of an entry whether or not it has ended; nil if there is none
local function load(key)
  local r = redis.call('HMGET', base..'e:'..key, 'v', 'x', 'f', 't', 'i', 'd', 'b', 'c')
  if not r[1] then return nil end
  return {v = tonumber(r[1]), x = tonumber(r[2]), f = tonumber(r[3]), t = r[4], c = tonumber(r[8]),
          raw = {r[1], r[2], r[3], r[4], r[5], r[6], r[7]}, i = r[5], d = r[6]}
end

local function live(key, stale)
  local e = load(key)
  if not e then return nil end
  local ends = e.x
  if not stale and e.f > 0 then ends = e.f end
  if ends > 0 and ends <= now then return nil end
  return e
end

local function untag(key, e)
  if e.t and e.t ~= '' then
    for _, tag in ipairs(cmsgpack.unpack(e.t)) do redis.call('SREM', base..'t:'..tag, key) end
  end
end

local function held(name)
  local r = redis.call('HMGET', name, 'token', 'x', 'owner')
  if not r[1] or tonumber(r[2]) <= now then return nil end
  return {token = tonumber(r[1]), x = tonumber(r[2]), owner = r[3]}
end

local function keep_until(kind, name, expire_at)
  redis.call('HSET', base..kind..':'..name, 'x', text(expire_at))
  redis.call('PEXPIREAT', base..kind..':'..name, text(expire_at + GRACE))
  redis.call('ZADD', base..'y', text(expire_at), kind..name)
end

local function take(kind, name, expire_at, owner)
  local token = next_version()
  redis.call('HSET', base..kind..':'..name, 'token', text(token), 'owner', owner)
  keep_until(kind, name, expire_at)
  return token
end

-- Whoever waits is told, unless what happened to the key tells already.
local function give_up(kind, name, told)
  local place = base..kind..':'..name
  local r = told and held(place)
  if redis.call('DEL', place) == 1 then redis.call('ZREM', base..'y', kind..name) end
  if r then event(kind == 'l' and 'unlocked' or 'released', name, r.token) end
end

local function drop(key, why)
  local e = load(key)
  redis.call('ZREM', base..'x', key)
  local known = redis.call('ZREM', base..'i', key)
  if known == 1 then count('entries', -1) end
  if not e then return false end
  redis.call('DEL', base..'e:'..key)
  untag(key, e)
  count('octets', -e.c)
  count(why, 1)
  event(why, key, e.v)
  return true
end

local function room(a, e)
  local quota = tonumber(redis.call('HGET', S, 'quota') or 0)
  if quota == 0 then return true end
  local grown = a.cost - (e and e.c or 0)
  return grown <= 0 or tonumber(redis.call('HGET', S, 'octets') or 0) + grown <= quota
end

local function index(key, e, expire_at, tags)
  if e then untag(key, e) end
  for _, tag in ipairs(tags) do redis.call('SADD', base..'t:'..tag, key) end
  redis.call('ZADD', base..'i', 0, key)
  if expire_at > 0 then
    redis.call('ZADD', base..'x', text(expire_at), key)
    redis.call('PEXPIREAT', base..'e:'..key, text(math.max(expire_at, now) + GRACE))
  else
    redis.call('ZREM', base..'x', key)
    redis.call('PERSIST', base..'e:'..key)
  end
end

local function write(key, field, value, expire_at, fresh_until, tags, cost)
  local e = load(key)
  local v = next_version()
  local name = base..'e:'..key
  redis.call('HDEL', name, 'i', 'd', 'b')
  redis.call('HSET', name, 'v', text(v), 'x', text(expire_at), 'f', text(fresh_until),
             't', #tags > 0 and cmsgpack.pack(tags) or '', 'c', text(cost), field, value)
  index(key, e, expire_at, tags)
  if not e then count('entries', 1) end
  count('octets', cost - (e and e.c or 0))
  count('written', 1)
  give_up('f', key, false)
  event('set', key, v)
  return v
end

local function tags_of(e) return (e.t and e.t ~= '') and cmsgpack.unpack(e.t) or {} end

local verbs = {}

function verbs.get(a)
  local e = live(a.key, a.stale)
  return e and e.raw or false
end

function verbs.get_many(a)
  local found = {}
  for n, key in ipairs(a.keys) do found[n] = verbs.get({key = key, stale = a.stale}) end
  return found
end

function verbs.exists(a)
  local n = 0
  for _, key in ipairs(a.keys) do if live(key, false) then n = n + 1 end end
  return n
end

function verbs.set(a)
  local e = live(a.key, true)
  if a.version and (e and e.v or 0) ~= a.version then
    return failed('conflict', e and e.v or 0)
  end
  if a.only_if == 'absent' and e or a.only_if == 'present' and not e then return 0 end
  if a.token then
    local r = held(base..'f:'..a.key)
    if not r or r.token ~= a.token then return 0 end
  end
  if not room(a, e) then return failed('quota') end
  local x, f = a.expire_at, a.fresh_until
  if a.keep_ttl and e then x, f = e.x, e.f end
  return write(a.key, a.field, a.value, x, f, a.tags, a.cost)
end

function verbs.delete(a)
  local n = 0
  if a.version then
    for _, key in ipairs(a.keys) do
      local e = live(key, true)
      if (e and e.v or 0) ~= a.version then return failed('conflict', e and e.v or 0) end
    end
  end
  for _, key in ipairs(a.keys) do
    give_up('f', key, true)
    if live(key, false) then n = n + 1 end
    drop(key, 'deleted')
  end
  return n
end

function verbs.pop(a)
  local e = live(a.key, false)
  verbs.delete({keys = {a.key}})
  return e and e.raw or false
end

function verbs.expire(a)
  local e = live(a.key, true)
  if not e then return false end
  local before, after = e.x, a.expire_at
  if before == 0 then before = math.huge end
  if after == 0 then after = math.huge end
  if a.condition == 'none' and e.x ~= 0 or a.condition == 'some' and e.x == 0
      or a.condition == 'later' and after <= before
      or a.condition == 'sooner' and after >= before then
    return false
  end
  local v = next_version()
  redis.call('HSET', base..'e:'..a.key, 'v', text(v), 'x', text(a.expire_at), 'f', '0')
  index(a.key, e, a.expire_at, tags_of(e))
  give_up('f', a.key, false)
  event('set', a.key, v)
  return true
end

function verbs.touch(a)
  local e = live(a.key, false)
  if not e then return false end
  if e.x ~= a.expire_at or e.f ~= 0 then
    verbs.expire({key = a.key, expire_at = a.expire_at, condition = ''})
  end
  return verbs.get({key = a.key})
end

function verbs.increment(a)
  local e = live(a.key, false)
  local name = base..'e:'..a.key
  if e and not e.i and not e.d then return failed('number') end
  if not e and not room(a, load(a.key)) then return failed('quota') end
  local field, value = 'i', nil
  if a.float or e and e.d then
    local sum = tonumber(e and (e.d or e.i) or 0) + tonumber(a.by)
    if sum ~= sum or sum == math.huge or sum == -math.huge then return failed('finite') end
    field, value = 'd', string.format('%.17g', sum)
  else
    -- Lua has no exact integers of 64 bits; the server has.
    local scratch = base..'n'
    redis.call('HSET', scratch, 'n', e and e.i or '0')
    local done = redis.pcall('HINCRBY', scratch, 'n', a.by)
    value = redis.call('HGET', scratch, 'n')
    redis.call('DEL', scratch)
    if type(done) == 'table' and done.err then return failed('range') end
  end
  local x, f = a.expire_at, 0
  if e and not a.renew then x, f = e.x, e.f end
  write(a.key, field, value, x, f, e and tags_of(e) or {}, a.cost)
  return {field, value}
end

function verbs.ttl(a)
  local e = live(a.key, false)
  if not e then return false end
  local ends = e.f > 0 and e.f or e.x
  return ends > 0 and ends - now or -1
end

function verbs.scan(a)
  local from = a.after ~= '' and '('..a.after or '['..a.prefix
  local found, last, page, size = {}, false, {}, 0
  if a.after ~= '' and a.after < a.prefix then from = '['..a.prefix end
  page = redis.call('ZRANGEBYLEX', base..'i', from, '+', 'LIMIT', 0, a.limit)
  for _, key in ipairs(page) do
    if string.sub(key, 1, #a.prefix) ~= a.prefix then return {found, false} end
    if size > PAGE then return {found, last} end
    last = key
    local e = live(key, false)
    if e then
      size = size + #key + (a.values and #(e.raw[7] or '') or 0)
      found[#found + 1] = {key, a.values and e.raw or false}
    elseif redis.call('EXISTS', base..'e:'..key) == 0 then
      drop(key, 'expired')
    end
  end
  return {found, #page == a.limit and last or false}
end

-- Removes up to a.limit entries that are not younger than a.version; repeated until none is left.
function verbs.invalidate(a)
  local version = a.version
  if version == 0 then
    version = tonumber(redis.call('HGET', S, 'ver') or 0)
    for _, member in ipairs(redis.call('ZRANGE', base..'y', 0, -1)) do
      local key = string.sub(member, 2)
      if string.sub(member, 1, 1) == 'f' and string.sub(key, 1, #a.prefix) == a.prefix then
        give_up('f', key, true)
      end
    end
  end
  local keys, n, done, after = {}, 0, true, a.after
  if a.tag ~= '' then
    -- What gets the tag from now on is not in the way.
    local sweep = base..'T:'..a.tag
    if a.version == 0 then
      redis.call('SUNIONSTORE', sweep, sweep, base..'t:'..a.tag)
      redis.call('DEL', base..'t:'..a.tag)
    end
    keys = redis.call('SPOP', sweep, a.limit)
    done = redis.call('EXISTS', sweep) == 0
  else
    local from = a.after ~= '' and '('..a.after or (a.prefix ~= '' and '['..a.prefix or '-')
    keys = redis.call('ZRANGEBYLEX', base..'i', from, '+', 'LIMIT', 0, a.limit)
    done = #keys < a.limit
  end
  for _, key in ipairs(keys) do
    if a.tag == '' and string.sub(key, 1, #a.prefix) ~= a.prefix then done = true break end
    after = key
    local e = load(key)
    if not e or e.v <= version then
      if live(key, false) then n = n + 1 end
      drop(key, 'deleted')
    end
  end
  return {n, done, version, after}
end

function verbs.configure(a)
  if a.quota then redis.call('HSET', S, 'quota', text(a.quota)) end
  return false
end

function verbs.lock(a)
  if held(base..'l:'..a.name) then return 0 end
  return take('l', a.name, a.expire_at, a.owner)
end

function verbs.lock_info(a)
  local r = held(base..'l:'..a.name)
  return r and {r.token, r.x, r.owner} or false
end

function verbs.extend(a)
  local r = held(base..'l:'..a.name)
  if not r or r.token ~= a.token then return false end
  keep_until('l', a.name, a.expire_at)
  return true
end

local function give_back(kind, name, token)
  local r = held(base..kind..':'..name)
  if not r or r.token ~= token then return false end
  give_up(kind, name, true)
  return true
end

function verbs.unlock(a) return give_back('l', a.name, a.token) end

function verbs.release(a) return give_back('f', a.key, a.token) end

function verbs.reserve(a)
  local e = live(a.key, false)
  if e then return {'hit', e.raw, 0} end
  e = live(a.key, true)
  local raw = e and e.raw or false
  if held(base..'f:'..a.key) then return {e and 'stale' or 'wait', raw, 0} end
  return {e and 'stale' or 'lead', raw, take('f', a.key, a.expire_at, '')}
end

function verbs.batch(a)
  for _, condition in ipairs(a.conditions) do
    local e = live(condition[1], true)
    local found = e and e.v or 0
    if found ~= condition[2] then return failed('conflict:'..condition[1], found) end
  end
  local grown = 0
  for _, step in ipairs(a.steps) do
    local old = step[2].cost and load(step[2].key)
    grown = grown + math.max(0, (step[2].cost or 0) - (old and old.c or 0))
  end
  if not room({cost = grown}, nil) then return failed('quota') end
  local found = {}
  for n, step in ipairs(a.steps) do
    found[n] = verbs[step[1]](step[2])
    if step[3] then found[n] = step[3] end
  end
  return found
end

function verbs.tidy(a)
  local due = redis.call('ZRANGEBYSCORE', base..'x', '-inf', text(now), 'LIMIT', 0, a.limit)
  for _, key in ipairs(due) do drop(key, 'expired') end
  local ended = redis.call('ZRANGEBYSCORE', base..'y', '-inf', text(now), 'LIMIT', 0, a.limit)
  for _, member in ipairs(ended) do
    local kind, name = string.sub(member, 1, 1), string.sub(member, 2)
    local token = redis.call('HGET', base..kind..':'..name, 'token')
    give_up(kind, name, false)
    redis.call('ZREM', base..'y', member)
    if token then event(kind == 'l' and 'unlocked' or 'released', name, tonumber(token)) end
  end
  return math.max(#due, #ended)
end

function verbs.stats(a)
  local r = redis.call('HMGET', S, 'entries', 'octets', 'quota', 'written', 'deleted', 'expired',
                       'hits', 'misses')
  for n = 1, 8 do r[n] = tonumber(r[n] or 0) end
  return r
end

function verbs.count(a)
  count('hits', a.hits)
  count('misses', a.misses)
  return false
end

for n, op in ipairs(ops) do
  local id = op[3]
  local known = id and redis.call('GET', base..'r:'..id)
  if known then
    local kept = cmsgpack.unpack(known)
    if kept[1] == op[4] then results[n] = kept[2] else results[n] = failed('reused') end
  else
    local result = verbs[op[1]](op[2])
    results[n] = result
    if id and not (type(result) == 'table' and result[1] == '!') then
      redis.call('SET', base..'r:'..id, cmsgpack.pack({op[4], result}), 'EX', REMEMBER)
    end
  end
end
return cmsgpack.pack(results)
"""
for _name, _value in {"GRACE": GRACE, "REMEMBER": REMEMBER, "PAGE": MAX_PAGE_OCTETS}.items():
    SCRIPT = SCRIPT.replace(_name, str(_value))
