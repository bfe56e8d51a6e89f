package events

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// claimsFile of the data directory says where the claims of the gateway are, so that one whose key or database changes knows
// where it may have left some.
const claimsFile = "claims"

// whereabouts of claims.
type whereabouts struct {
	database int
	prefix   string // of their keys
}

func (w whereabouts) String() string { return strconv.Itoa(w.database) + " " + w.prefix }

// readWhereabouts returns what a file says, the zero value if it is not there.
func readWhereabouts(name string) (w whereabouts, err error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	if err != nil {
		return w, err
	}
	number, prefix, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	database, err := strconv.Atoi(number)
	if err != nil || prefix == "" {
		return w, fmt.Errorf("file %s does not say a database and what the keys of claims begin with; it can be deleted, if there are none of another key", name)
	}
	return whereabouts{database, prefix}, nil
}

// whereabouts returns where the claims of the lease are, and where those were that the data directory knows of.
func (l *lease) whereabouts() (here, before whereabouts, err error) {
	o, err := l.servers.config.connect()
	if err == nil {
		here = whereabouts{o.database, l.prefix}
		before, err = readWhereabouts(l.claimsFile())
	}
	return here, before, err
}

func (l *lease) claimsFile() string { return filepath.Join(l.g.options.Dir, claimsFile) }

// noteClaims notes where claims are from now on.
func (l *lease) noteClaims() error {
	here, before, err := l.whereabouts()
	if err != nil || before == here {
		return err
	}
	return writeFile(l.claimsFile(), here.String())
}

// bringClaims makes claims those of this lease that its directory has elsewhere, for it had another key, or was no replica
// yet; they keep their numbers. What it cannot bring stays there, which it says. Then it notes where claims are from now on.
func (l *lease) bringClaims(c *redisConn) error {
	here, before, err := l.whereabouts()
	if err != nil {
		return err
	}
	if before != here && before.prefix != "" {
		if err := l.bring(c, before, here); err != nil {
			return fmt.Errorf("bring claims from %q: %w", before.prefix, err)
		}
	}
	return l.noteClaims()
}

// stays is why claims are left where they are.
type stays string

func (s stays) Error() string { return string(s) }

// bring is bringClaims once it is known that there may be some before. The error is one that may pass.
func (l *lease) bring(c *redisConn, before, here whereabouts) error {
	at := l.g.at()
	numbers, left := findClaimsAt(c, before, here)
	numbers = from(numbers, at.low) // those below are of an older copy of the server, and count
	unknown := left != nil
	if left == nil && before.database != here.database {
		left = stays("it is another database")
	}
	if left == nil {
		left = l.othersHave(c, before)
		unknown = refuses(left, "MOVED") // another node of a cluster has them
	}
	brought := 0
	for left == nil && brought < len(numbers) {
		if left = l.bringOne(c, before, numbers[brought]); left == nil {
			brought++
		}
	}
	if brought > 0 {
		l.g.options.Logger.Info("claims of an earlier key go on under the one of now", "claims", brought, "from", before.prefix, "to", here.prefix)
	}
	if left == nil {
		_, err := c.do("DEL", before.prefix+"head") // which nobody holds
		return err
	}
	if _, is := errors.AsType[stays](left); !is && !refuses(left, "MOVED", "CROSSSLOT", "NOPERM", "ERR") {
		return left // and try again
	}
	if open := from(numbers[brought:], at.seq); len(open) > 0 || unknown {
		l.g.options.Logger.Warn("claims of an earlier key or database may be there, and are not read; docs/events.md says how to have them counted",
			"database", before.database, "keys", before.prefix+"N", "numbers", open, "number_in_hand", at.seq, "counted_of_it", at.offset, "why", left)
		if !slices.Contains(numbers[:brought], at.seq) {
			l.g.leave(at)
		}
	}
	return nil
}

// bringOne makes a claim one of this lease.
func (l *lease) bringOne(c *redisConn, before whereabouts, number uint64) error {
	a, err := c.do("RENAMENX", before.prefix+strconv.FormatUint(number, 10), l.claim(number))
	if err == nil && a.n == 0 {
		err = stays(fmt.Sprintf("there is a claim %q already", l.claim(number)))
	}
	return err
}

// leave goes on behind a claim that stays where it is.
func (g *Gateway) leave(at position) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at.offset > 0 {
		g.state.position.seq, g.state.position.offset = at.seq+1, 0
		g.changed = true
	}
}

// refuses reports whether an error is an answer of the server that begins with one of some codes.
func refuses(err error, codes ...string) bool {
	answer, is := errors.AsType[redisError](err)
	code, _, _ := strings.Cut(string(answer), " ")
	return is && slices.Contains(codes, code)
}

// from returns those of some ascending numbers that are not below the first.
func from(numbers []uint64, first uint64) []uint64 {
	for len(numbers) > 0 && numbers[0] < first {
		numbers = numbers[1:]
	}
	return numbers
}

// findClaimsAt is findClaims in what may be another database than the one of the connection, which is here.
func findClaimsAt(c *redisConn, w, here whereabouts) (numbers []uint64, err error) {
	if w.database == here.database {
		return findClaims(c, w.prefix)
	}
	if _, err := c.do("SELECT", strconv.Itoa(w.database)); err != nil {
		return nil, err
	}
	numbers, err = findClaims(c, w.prefix)
	if err != nil && !isRedisError(err) {
		return nil, err
	}
	if _, back := c.do("SELECT", strconv.Itoa(here.database)); back != nil {
		return nil, fmt.Errorf("select database %d again: %v", here.database, back) // which no refusal of the claims is
	}
	return numbers, err
}

// othersHave says why claims may be read by others, nil if nobody else does.
func (l *lease) othersHave(c *redisConn, w whereabouts) error {
	a, err := c.do("HMGET", w.prefix+"head", "token", "place", "holder", "number")
	if err != nil {
		return err
	}
	if len(a.list) != 4 {
		return errRESP
	}
	h := head{token: string(a.list[0].text), place: string(a.list[1].text), holder: string(a.list[2].text), number: string(a.list[3].text)}
	switch {
	case h.number != "":
		return stays("they belong to replicas")
	case h.token != "" && !l.wasOwn(h):
		return stays(fmt.Sprintf("they belong to gateway %s", h.holder))
	}
	return nil
}
