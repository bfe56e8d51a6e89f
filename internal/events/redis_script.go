package events

import (
	"crypto/sha1"
	"encoding/hex"
	"strconv"
	"strings"
)

// script is a piece of Lua that the server runs without anything in between. The server keeps it; it is sent again only if
// it was forgotten.
type script struct{ text, digest string }

func newScript(text string) script {
	digest := sha1.Sum([]byte(text))
	return script{text: text, digest: hex.EncodeToString(digest[:])}
}

// run runs the script with some keys, all of one slot, and arguments.
func (s script) run(c *redisConn, keys []string, args ...string) (answer, error) {
	command := append([]string{"EVALSHA", s.digest, strconv.Itoa(len(keys))}, keys...)
	command = append(command, args...)
	a, err := c.do(command...)
	if isRedisError(err) && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		command[0], command[1] = "EVAL", s.text
		return c.do(command...)
	}
	return a, err
}

// Who holds a lease stands in the hash KEYS[1]: token, beat, place and holder; of replicas number and at, too.
var (
	// holdScript renews the lease of ARGV[1], or takes it if it is as it was seen: of the token ARGV[4] with the beat ARGV[5],
	// both empty if nobody has it. It returns 1, or 0 if somebody else was faster. Each of its commands counts as one of a
	// client, so that a renewal has no more than it needs. A server whose memory is full refuses what may need more, unless
	// the script has written already; KEYS[2] is never there.
	holdScript = newScript(`local function write(...)
  local a = redis.pcall(...)
  if type(a) == 'table' and a.err then
    redis.call('UNLINK', KEYS[2])
    return redis.call(...)
  end
  return a
end
local seen = redis.call('HMGET', KEYS[1], 'token', 'beat')
local token, beat = seen[1] or '', seen[2] or ''
if token ~= ARGV[1] then
  if token ~= ARGV[4] or beat ~= ARGV[5] then return 0 end
  write('HSET', KEYS[1], 'token', ARGV[1], 'place', ARGV[2], 'holder', ARGV[3])
end
write('HINCRBY', KEYS[1], 'beat', 1)
return 1`)

	// releaseScript gives up the lease of ARGV[1]. What else is in the hash stays if ARGV[2] is 1.
	releaseScript = newScript(`if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then redis.call('HDEL', KEYS[1], 'token') else redis.call('DEL', KEYS[1]) end
return 1`)

	// claimScript renames the list KEYS[2] to KEYS[3] for the holder ARGV[1]. It returns 1, 0 if there is no list or already a
	// claim, -1 if somebody else holds the lease; or what else than a list there is.
	claimScript = newScript(`if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return -1 end
local found = redis.call('TYPE', KEYS[2]).ok
if found == 'none' then return 0 end
if found ~= 'list' then return found end
return redis.call('RENAMENX', KEYS[2], KEYS[3])`)

	// unlinkScript deletes all keys but KEYS[1] for the holder ARGV[1]. It returns -1 if somebody else holds the lease.
	unlinkScript = newScript(`if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return -1 end
return redis.call('UNLINK', unpack(KEYS, 2))`)

	// writeScript appends the part ARGV[7] of a record for the holder ARGV[1]: to the journal KEYS[2] if its last record is
	// number ARGV[2], or, if ARGV[4] says whole, to KEYS[3], which takes its place in the end. With the last part (ARGV[6]),
	// the record is number ARGV[3] and tells the position ARGV[8]. It returns ok, lost or gap. KEYS[4] is never there: a server
	// whose memory is full goes on with a script that has written already, and claims can be deleted only behind a record.
	writeScript = newScript(`local head = redis.call('HMGET', KEYS[1], 'token', 'number')
if head[1] ~= ARGV[1] then return 'lost' end
redis.call('UNLINK', KEYS[4])
local list = KEYS[2]
if ARGV[4] == '1' then
  list = KEYS[3]
  if ARGV[5] == '1' then redis.call('UNLINK', list) end
elseif head[2] ~= ARGV[2] then
  return 'gap'
end
redis.call('RPUSH', list, ARGV[7])
redis.call('HINCRBY', KEYS[1], 'beat', 1)
if ARGV[6] == '1' then
  if ARGV[4] == '1' then
    redis.call('UNLINK', KEYS[2])
    redis.call('RENAME', KEYS[3], KEYS[2])
  end
  redis.call('HSET', KEYS[1], 'number', ARGV[3], 'at', ARGV[8])
end
return 'ok'`)
)
