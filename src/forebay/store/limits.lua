-- The counts of policy/accounts.py, shared by gateways: the same decisions, step by step, in one call.
--
-- KEYS: 1 gateways, by when they were last heard of; 2 the number that this gateway settled last; then for each account
--   its counts: r, t (requests and tokens in the window), o, n (oldest and newest half second), r<i>, t<i> (those of
--   half second i), d, du, m, mu (day, month, and their tokens)
--   and what runs, by gateway: absolute numbers, so that what was lost comes back with the next
-- ARGV: 1 what to do, 2 the time in ms or '' for this server's, 3 gateway; then
--   take: 4 tokens, 5 day, 6 month; for each account most requests, tokens, at once, a day, a month (-1: no limit)
--     → 1, half second, then of each account its requests and tokens
--     → 0, account, limit (1 requests, 2 tokens, 3 day, 4 month, 5 at once), wait in ms, time to reset in ms, and the
--       requests and tokens of each account
--     → 2, the numbers of accounts whose counts were none; they are deleted, and nothing was counted
--   settle: 4 number; for each account half second (0: now), requests, tokens, day, month, 1 if it has a budget, how
--         many run at this gateway (-1: not counted)
--     → time in ms, gateways heard of lately, the numbers of accounts whose counts were none; they begin anew with this
--
-- Counts are none where a key is of another type, or holds what is no number: somebody else has written there. Nothing is
-- looked at beforehand: an error makes it look, and what it finds sound was not the reason.
local SPAN, BUCKET_MS, ALIVE_MS = 120, 500, 5000
local KEPT_S, BUDGET_KEPT_S = 130, 33 * 86400
local LONGEST = 10 * SPAN  -- from the oldest half second to the newest: clocks may differ

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local index = math.floor(now / BUCKET_MS)
local gateway = ARGV[3]

local function whole(number)
  return string.format('%.0f', number)
end

local function is_hash(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'hash' or kind == 'none'
end

local function all_whole(key)
  local all = redis.call('HGETALL', key)
  for i = 2, #all, 2 do
    if not string.match(all[i], '^%-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then return false end
  end
  return true
end

-- What slides out with its half seconds; and where there are none, nothing is counted.
local function is_window(requests, tokens, oldest, newest)
  if not oldest then return not newest and requests == 0 and tokens == 0 end
  return newest ~= nil and newest >= oldest and newest - oldest <= LONGEST and newest <= index + LONGEST
end

local function is_sound(key, runs)
  if not (is_hash(key) and is_hash(runs) and all_whole(key) and all_whole(runs)) then return false end
  local found = redis.call('HMGET', key, 'r', 't', 'o', 'n', 'd', 'm')
  local in_window = is_window(tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3]), tonumber(found[4]))
  return in_window and (not found[5] or #found[5] == 8) and (not found[6] or #found[6] == 6)
end

-- What went wrong: with those of the accounts that were none, which are deleted; anything else is an error as before.
local function mended(failure)
  local numbers = {}
  for a = 1, (#KEYS - 2) / 2 do
    local key, runs = KEYS[2 * a + 1], KEYS[2 * a + 2]
    if not is_sound(key, runs) then
      redis.call('DEL', key, runs)
      numbers[#numbers + 1] = a
    end
  end
  if #numbers == 0 then error(failure, 0) end
  return numbers
end

-- Forget the half seconds that are a minute old; return what still counts.
local function slide(key)
  local found = redis.call('HMGET', key, 'r', 't', 'o', 'n')
  local requests, tokens = tonumber(found[1] or 0), tonumber(found[2] or 0)
  local oldest, newest = tonumber(found[3]), tonumber(found[4])
  if not is_window(requests, tokens, oldest, newest) then error('no half seconds') end
  if not oldest or oldest >= index - SPAN then
    return requests, tokens, oldest, newest
  end
  local last = math.min(newest, index - SPAN - 1)
  local names = {}
  for i = oldest, last do
    names[#names + 1] = 'r' .. whole(i)
    names[#names + 1] = 't' .. whole(i)
  end
  local counts = redis.call('HMGET', key, unpack(names))
  for i = 1, #counts, 2 do
    requests = requests - tonumber(counts[i] or 0)
    tokens = tokens - tonumber(counts[i + 1] or 0)
  end
  redis.call('HDEL', key, unpack(names))
  if last == newest then
    redis.call('HDEL', key, 'o', 'n')
    requests, tokens, oldest, newest = 0, 0, nil, nil
  else
    oldest = last + 1
    redis.call('HSET', key, 'o', whole(oldest))
  end
  redis.call('HSET', key, 'r', whole(requests), 't', whole(tokens))
  return requests, tokens, oldest, newest
end

-- The day's and the month's tokens; a gateway whose clock is behind another's goes by the other's.
local function budgets(key, day, month)
  local found = redis.call('HMGET', key, 'd', 'du', 'm', 'mu')
  if #(found[1] or day) ~= 8 or #(found[3] or month) ~= 6 then error('no date') end
  if not tonumber(found[2] or 0) or not tonumber(found[4] or 0) then error('no tokens') end
  if found[1] and found[1] > day then day = found[1] end
  if found[3] and found[3] > month then month = found[3] end
  local of_day = found[1] == day and tonumber(found[2]) or 0
  local of_month = found[3] == month and tonumber(found[4]) or 0
  return {of_day, of_month, day, month}
end

-- How many run, here and at the other gateways; those not heard of lately run nothing.
local function running(key)
  local sum, all = 0, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local heard = all[i] == gateway and now or redis.call('ZSCORE', KEYS[1], all[i])
    if heard and tonumber(heard) >= now - ALIVE_MS then
      sum = sum + tonumber(all[i + 1])
    else
      redis.call('HDEL', key, all[i])
    end
  end
  return sum
end

local function wait_ms(key, field, over, oldest, newest)
  for i = oldest or 0, newest or -1 do
    over = over - tonumber(redis.call('HGET', key, field .. whole(i)) or 0)
    if over <= 0 then
      return (i + SPAN + 1) * BUCKET_MS - now
    end
  end
  return (SPAN + 1) * BUCKET_MS
end

local function add(key, at, requests, tokens, oldest, newest)
  redis.call('HINCRBY', key, 'r', requests)
  redis.call('HINCRBY', key, 't', tokens)
  redis.call('HINCRBY', key, 'r' .. whole(at), requests)
  redis.call('HINCRBY', key, 't' .. whole(at), tokens)
  if not oldest or at < oldest then
    redis.call('HSET', key, 'o', whole(at))
  end
  if not newest or at > newest then
    redis.call('HSET', key, 'n', whole(at))
  end
end

local function take()
  local tokens, day, month = tonumber(ARGV[4]), ARGV[5], ARGV[6]
  local states, answer, refused = {}, {}, nil
  for a = 1, (#KEYS - 2) / 2 do
    local key, runs, at = KEYS[2 * a + 1], KEYS[2 * a + 2], 1 + 5 * a
    local limit = {}
    for i = 1, 5 do limit[i] = tonumber(ARGV[at + i]) end
    local requests, counted, oldest, newest = slide(key)
    local budget = (limit[4] >= 0 or limit[5] >= 0) and budgets(key, day, month)
    states[a] = {requests, counted, oldest, newest, budget}
    answer[#answer + 1] = requests
    answer[#answer + 1] = counted
    local kind, wait = nil, 1000
    if limit[1] >= 0 and requests >= limit[1] then
      kind, wait = 1, wait_ms(key, 'r', requests + 1 - limit[1], oldest, newest)
    elseif tokens > 0 and limit[2] >= 0 and counted + tokens > limit[2] then
      kind, wait = 2, wait_ms(key, 't', counted + tokens - limit[2], oldest, newest)
    elseif tokens > 0 and limit[4] >= 0 and budget[1] + tokens > limit[4] then
      kind = 3
    elseif tokens > 0 and limit[5] >= 0 and budget[2] + tokens > limit[5] then
      kind = 4
    elseif limit[3] >= 0 and running(runs) >= limit[3] then
      kind = 5
    end
    if kind and not refused then
      refused = {0, a, kind, wait, newest and (newest + SPAN + 1) * BUCKET_MS - now or 0}
    end
  end
  if refused then
    for i = 1, #answer do refused[#refused + 1] = answer[i] end
    return refused
  end
  for a, state in ipairs(states) do
    local key, runs, at = KEYS[2 * a + 1], KEYS[2 * a + 2], 1 + 5 * a
    add(key, index, 1, tokens, state[3], state[4])
    local budget = state[5]
    if budget then
      local of_day, of_month = whole(budget[1] + tokens), whole(budget[2] + tokens)
      redis.call('HSET', key, 'd', budget[3], 'du', of_day, 'm', budget[4], 'mu', of_month)
    end
    redis.call('EXPIRE', key, budget and BUDGET_KEPT_S or KEPT_S)
    if tonumber(ARGV[at + 3]) >= 0 then
      redis.call('HINCRBY', runs, gateway, 1)
      redis.call('EXPIRE', runs, KEPT_S)
    end
    answer[2 * a - 1], answer[2 * a] = state[1] + 1, state[2] + tokens
  end
  return {1, index, unpack(answer)}
end

local function settle_one(a)
  local key, runs, at = KEYS[2 * a + 1], KEYS[2 * a + 2], 4 + 7 * (a - 1)
  local bucket, requests, tokens = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local day, month, budgeted, running = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6] == '1', tonumber(ARGV[at + 7])
  if requests ~= 0 or tokens ~= 0 then
    local _, _, oldest, newest = slide(key)
    if bucket == 0 then bucket = index end
    local counts = redis.call('HEXISTS', key, 'r' .. whole(bucket)) == 1
    if bucket >= index - SPAN and (counts or requests > 0 or tokens > 0) then
      add(key, bucket, requests, tokens, oldest, newest)
    end
    if budgeted then
      local found = redis.call('HMGET', key, 'd', 'm')
      if not found[1] or found[1] < day then redis.call('HSET', key, 'd', day, 'du', 0) end
      if not found[2] or found[2] < month then redis.call('HSET', key, 'm', month, 'mu', 0) end
      if not found[1] or found[1] <= day then redis.call('HINCRBY', key, 'du', tokens) end
      if not found[2] or found[2] <= month then redis.call('HINCRBY', key, 'mu', tokens) end
    end
    redis.call('EXPIRE', key, budgeted and BUDGET_KEPT_S or KEPT_S)
  end
  if running >= 0 then
    redis.call('HSET', runs, gateway, running)
    redis.call('EXPIRE', runs, KEPT_S)
  end
end

-- The keys that are no account's, where they are of another type.
local function own_keys()
  if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
  if not tonumber(redis.pcall('GET', KEYS[2])) then redis.call('DEL', KEYS[2]) end
end

local function settle()
  own_keys()
  redis.call('ZADD', KEYS[1], now, gateway)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 10 * ALIVE_MS)
  local deleted = {}
  if tonumber(ARGV[4]) > tonumber(redis.call('GET', KEYS[2]) or 0) then  -- the same again is done once
    redis.call('SET', KEYS[2], ARGV[4], 'EX', 86400)
    for a = 1, (#KEYS - 2) / 2 do
      local done, failure = pcall(settle_one, a)
      if not done then
        if is_sound(KEYS[2 * a + 1], KEYS[2 * a + 2]) then error(failure, 0) end
        redis.call('DEL', KEYS[2 * a + 1], KEYS[2 * a + 2])
        settle_one(a)
        deleted[#deleted + 1] = a
      end
    end
  end
  return {now, redis.call('ZCOUNT', KEYS[1], now - ALIVE_MS, '+inf'), unpack(deleted)}
end

if ARGV[1] == 'settle' then return settle() end
local done, answer = pcall(take)
if done then return answer end
return {2, unpack(mended(answer))}
