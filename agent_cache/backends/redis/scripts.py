"""The Lua: each operation that changes a tag record is one script, and every script touches one hash slot only.

Versions and fences are nonces that the caller mints for each attempt; time is the server's own. The layout of the
records is :mod:`.records`'.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["BEGIN", "END", "FILL", "LEAD", "MOVE", "RELEASE", "RENEW", "TOKEN", "Script"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script with the digest by which Redis knows it."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# ARGV[1] is always a correction of the clock in ms (0; tests let time pass with it), ARGV[2] how long a tag record is
# kept in ms. A record that is missing or not ours is nil; markers whose lease has ended are dropped when it is written.
_TAGS = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000) + tonumber(ARGV[1])
local keep = tonumber(ARGV[2])
local function read(key)
  local raw = redis.pcall('GET', key)
  if type(raw) ~= 'string' or #raw < 30 or raw:sub(1, 1) ~= 'T' then return nil end
  if not raw:find('^%x%x%x%x', 27) then return nil end
  local n = tonumber(raw:sub(27, 30), 16)
  if #raw < 30 + 25 * n then return nil end
  local after = 31 + 25 * n
  local named = tonumber(raw:sub(after, after + 1), 16) or 0
  local r = {head = raw:sub(1, 2), v = raw:sub(3, 14), f = raw:sub(15, 26), m = {}}
  r.by, r.rest = raw:sub(after + 2, after + 1 + named), raw:sub(after + 2 + named)
  for i = 0, n - 1 do
    local at = 31 + 25 * i
    local ends = tonumber(raw:sub(at + 12, at + 24))
    if ends and ends > now then r.m[#r.m + 1] = {raw:sub(at, at + 11), ends} end
  end
  return r
end
local function write(key, r)
  local out = {r.head, r.v, r.f, string.format('%04x', #r.m)}
  for i, m in ipairs(r.m) do out[i + 4] = m[1] .. string.format('%013.0f', m[2]) end
  out[#out + 1] = string.format('%02x', #r.by) .. r.by .. r.rest
  redis.call('SET', key, table.concat(out), 'PX', keep)
end
local function fresh(nonce) return {head = 'T1', v = nonce, f = nonce, m = {}, by = '', rest = ''} end
"""

# ARGV: 3 nonce for tags that are missing. Replies 0 while somebody writes, else the versions and then the fences.
TOKEN = Script.of(
    _TAGS
    + """
local versions, fences = {}, {}
for i, key in ipairs(KEYS) do
  local r = read(key)
  if not r then r = fresh(ARGV[3]); write(key, r) end
  if #r.m > 0 then return 0 end
  versions[i], fences[i] = r.v, r.f
end
return table.concat(versions) .. table.concat(fences)
"""
)

# KEYS: entry, lead, tags. ARGV: 3 who, 4 lease ms, 5 versions and fences of these tags, 6 the whole stamp ('' where what
# is stored cannot be read and has to be replaced), 7 '' or, where an expired entry stands under that stamp, the ms it had
# left to be kept: one that has more was stored since.
# Replies 1: lead; 0: another leads; 2: look up again.
LEAD = Script.of(
    _TAGS
    + """
local n, expected = #KEYS - 2, ARGV[5]
for i = 1, n do
  local r = read(KEYS[i + 2])
  if not r or #r.m > 0 or r.v ~= expected:sub(12 * i - 11, 12 * i) then return 2 end
  if r.f ~= expected:sub(12 * (n + i) - 11, 12 * (n + i)) then return 2 end
end
local stamp = redis.pcall('GETRANGE', KEYS[1], 5, 4 + #ARGV[6])
if ARGV[6] ~= '' and stamp == ARGV[6] then
  if ARGV[7] == '' or redis.call('PTTL', KEYS[1]) > tonumber(ARGV[7]) then return 2 end
end
if redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4]) then return 1 end
if redis.pcall('GET', KEYS[2]) == ARGV[3] then return 1 end
return 0
"""
)

# KEYS: lead. ARGV: 1 who.
RELEASE = Script.of("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")

# KEYS: lead. ARGV: 1 who, 2 lease ms.
PROLONG = Script.of(
    "if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)

# KEYS: entry, lead, tags. ARGV: 3 who leads or '', 4 versions and fences, 5 the entry ('' only checks), 6 its ttl in ms.
FILL = Script.of(
    _TAGS
    + """
if ARGV[3] ~= '' and redis.pcall('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
local n, expected = #KEYS - 2, ARGV[4]
for i = 1, n do
  local r = read(KEYS[i + 2])
  if not r or #r.m > 0 or r.v ~= expected:sub(12 * i - 11, 12 * i) then return 0 end
  if r.f ~= expected:sub(12 * (n + i) - 11, 12 * (n + i)) then return 0 end
end
if ARGV[5] == '' then return 1 end
redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6])
for i = 1, n do
  if redis.call('PTTL', KEYS[i + 2]) < ARGV[6] + 60000 then redis.call('PEXPIRE', KEYS[i + 2], math.max(keep, ARGV[6] + 60000)) end
end
return 1
"""
)

# KEYS: tags. ARGV: 3 nonce, 4 writer, 5 bus, 6 what is published, 7 key of the leases' announcement or ''.
# Replies the announcement ('' if there is none).
MOVE = Script.of(
    _TAGS
    + """
for _, key in ipairs(KEYS) do
  local r = read(key) or fresh(ARGV[3])
  r.v, r.f, r.by = ARGV[3], ARGV[3], ARGV[4]
  write(key, r)
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return ARGV[7] ~= '' and redis.pcall('GET', ARGV[7]) or ''
"""
)

# KEYS: tags. ARGV: 3 nonce, 4 writer, 5 bus, 6 what is published, 7 lease ms, 8 key of the leases' announcement or ''.
# Replies the announcement ('' if there is none), then the versions that were replaced ('' where there was none).
BEGIN = Script.of(
    _TAGS
    + """
local reply = {ARGV[8] ~= '' and redis.pcall('GET', ARGV[8]) or ''}
for i, key in ipairs(KEYS) do
  local r = read(key)
  reply[i + 1] = r and r.v or ''
  r = r or fresh(ARGV[3])
  r.v, r.f, r.by = ARGV[3], ARGV[3], ARGV[4]
  r.m[#r.m + 1] = {ARGV[3], now + tonumber(ARGV[7])}
  write(key, r)
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return reply
"""
)

# KEYS: tags. ARGV as BEGIN's, but 3 the window's nonce, 8 a fresh one. Replies 1 if a marker was lost: then tags moved.
RENEW = Script.of(
    _TAGS
    + """
local lost, ends = 0, now + tonumber(ARGV[7])
for _, key in ipairs(KEYS) do
  local r, mine = read(key), nil
  if r then for _, m in ipairs(r.m) do if m[1] == ARGV[3] then mine = m end end end
  if mine then
    mine[2] = ends
  else
    lost = 1
    r = r or fresh(ARGV[8])
    r.v, r.f, r.by = ARGV[8], ARGV[8], ARGV[4]
    r.m[#r.m + 1] = {ARGV[3], ends}
  end
  write(key, r)
end
if lost == 1 then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return lost
"""
)

# KEYS: the window's tags, then those that a narrowed write turned out to have written beside them, which move first.
# ARGV: 3 the nonces of all attempts to begin, 4 writer, 5 bus, 6 the ids of all of them, 16 bytes each, of which those
# that move are published, 7 a fresh nonce, 8 ms to settle (0: known outcome), 9 '' or the versions to restore, one for
# each of the window's tags ('-' x 12: none), 10 how many are beside them.
# Replies 1 if a marker was lost.
END = Script.of(
    _TAGS
    + """
local lost, moved, n = 0, {}, #KEYS - tonumber(ARGV[10])
local mine, nonce = {}, ARGV[3]:sub(-12)
for at = 1, #ARGV[3], 12 do mine[ARGV[3]:sub(at, at + 11)] = true end
for i = n + 1, #KEYS do
  local r = read(KEYS[i]) or fresh(ARGV[7])
  r.v, r.f, r.by = ARGV[7], ARGV[7], ARGV[4]
  write(KEYS[i], r)
  moved[#moved + 1] = ARGV[6]:sub(16 * i - 15, 16 * i)
end
for i = 1, n do
  local key = KEYS[i]
  local r = read(key)
  local marked, left = false, {}
  if r then
    for _, m in ipairs(r.m) do
      if m[1] == nonce then marked = true end
      if not mine[m[1]] then left[#left + 1] = m end
    end
  else
    r = fresh(ARGV[7])
  end
  if not marked then lost = 1 end
  local before = ARGV[9]:sub(12 * i - 11, 12 * i)
  if marked and r.v == nonce and #before == 12 and before ~= '------------' then
    r.v = before
  else
    r.v, r.by = ARGV[7], ARGV[4]
    moved[#moved + 1] = ARGV[6]:sub(16 * i - 15, 16 * i)
  end
  r.f = ARGV[7]
  if tonumber(ARGV[8]) > 0 then left[#left + 1] = {ARGV[7], now + tonumber(ARGV[8])} end
  r.m = left
  write(key, r)
end
if #moved > 0 then redis.call('PUBLISH', ARGV[5], table.concat(moved)) end
return lost
"""
)

# KEYS: tags. ARGV: 1 bus, 2 what is published, 3 key of the leases' announcement or ''. For a Redis that is full and takes
# no more: a tag that is lost is as good as one that moved. What it cannot do is hold off fills while the tool runs: the
# end of the window drops those. Replies the announcement, in a list.
FORGET = Script.of(
    """
for _, key in ipairs(KEYS) do redis.call('DEL', key) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return {ARGV[3] ~= '' and redis.pcall('GET', ARGV[3]) or ''}
"""
)

__all__ += ["FORGET", "PROLONG"]
