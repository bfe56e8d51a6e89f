package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxOwnClaims is how many claims of a gateway are open at a time: those of which no checkpoint says that they are done.
	maxOwnClaims = 64
	// maxClaims bounds those of all gateways. The oldest is forgotten then, which is of one that has been gone for long.
	maxClaims = 1000
	// claimAge is how old a claim may become, in nanoseconds between when its messages and the newest were stored. That is twice
	// as long as the stream keeps messages, so that nobody comes back for it.
	claimAge = int64(14 * 24 * time.Hour)
)

// claims say which gateway each message of a stream belongs to. They are the value that gateways share.
//
// Who claims messages has seen all of them, so that every one with a sequence below Next that was ever claimed was stored at
// Until or before. One that was stored later is another one: the server lost the first, and its sequence was used again.
type claims struct {
	// Stream is when it was created, in nanoseconds since 1970; of another stream they say nothing.
	Stream int64 `json:"stream"`
	// Next is the first sequence that nobody has claimed, and Until when the last message was stored that somebody has.
	Next  uint64 `json:"next"`
	Until int64  `json:"until"`
	// Open are the claims of which it is not known that they count, ascending.
	Open []claim `json:"open,omitempty"`
}

// claim gives messages to a gateway, the first and the last sequence included, if they were stored at Until or before.
type claim struct {
	Gateway string `json:"gateway"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Until   int64  `json:"until"`
}

// parseClaims is the inverse of encode; an empty value are no claims.
func parseClaims(value []byte) (claims, error) {
	var c claims
	if len(value) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return claims{}, fmt.Errorf("parse claims: %w", err)
	}
	last := uint64(0)
	for _, o := range c.Open {
		if o.From <= last || o.To < o.From || o.To >= c.Next {
			return claims{}, errors.New("parse claims: they are not in order")
		}
		last = o.To
	}
	return c, nil
}

func (c *claims) encode() ([]byte, error) {
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode claims: %w", err)
	}
	return value, nil
}

// free reports whether nobody has claimed a message. Of a stream in whose place there is a newer one nothing is free: who is
// late does not know what others had claimed.
func (c *claims) free(p StreamPosition) bool {
	return p.Created > c.Stream || p.Created == c.Stream && (p.Sequence >= c.Next || p.Stored > c.Until)
}

// of reports whether a message belongs to a gateway.
func (c *claims) of(gateway string, p StreamPosition) bool {
	return p.Created == c.Stream && slices.ContainsFunc(c.Open, func(o claim) bool {
		return o.Gateway == gateway && o.From <= p.Sequence && p.Sequence <= o.To && p.Stored <= o.Until
	})
}

// open returns how many claims of a gateway are not done, which is on disk up to a position.
func (c *claims) open(gateway string, durable StreamPosition) (n int) {
	for _, o := range c.Open {
		if o.Gateway == gateway && !c.done(&o, durable) {
			n++
		}
	}
	return n
}

func (c *claims) done(o *claim, durable StreamPosition) bool {
	return durable.Created == c.Stream && o.To <= durable.Sequence && o.Until <= durable.Stored
}

// known returns the claims of a gateway that has read up to a position, and goes on reading at another one: if the value was
// lost, or is an older copy, it may not say so.
func (c *claims) known(gateway string, at, next StreamPosition) claims {
	known := *c
	switch {
	case at.Created != next.Created, c.Stream > at.Created: // it has not read this stream, or is late
		return known
	case c.Stream < at.Created:
		known = claims{Stream: at.Created, Next: 1}
	case at.Stored <= c.Until || at.Sequence < c.Next:
		return known
	}
	return known.add(gateway, at.Sequence, at.Stored, StreamPosition{})
}

// before returns the claims on what stands before a free message, which become void if it is of another stream, or stands
// where others had been.
func (c *claims) before(p StreamPosition) claims {
	switch {
	case p.Created != c.Stream:
		return claims{Stream: p.Created, Next: p.Sequence}
	case p.Sequence >= c.Next:
		return *c
	}
	left := claims{Stream: c.Stream, Next: p.Sequence, Until: c.Until}
	for _, o := range c.Open {
		if o.From < left.Next {
			o.To = min(o.To, left.Next-1)
			left.Open = append(left.Open, o)
		}
	}
	return left
}

// add returns claims in which all up to a message, of which the last was stored at until, belongs to a gateway that belonged
// to nobody, without those of its claims that are done, and those of anybody that are too old to be read.
func (c *claims) add(gateway string, last uint64, until int64, durable StreamPosition) claims {
	changed := *c
	changed.Open = slices.DeleteFunc(slices.Clone(c.Open), func(o claim) bool {
		return o.Gateway == gateway && c.done(&o, durable) || until-o.Until > claimAge
	})
	added := claim{Gateway: gateway, From: c.Next, To: last, Until: max(c.Until, until)}
	if n := len(changed.Open); n > 0 && changed.Open[n-1].Gateway == gateway && changed.Open[n-1].To == c.Next-1 {
		added.From = changed.Open[n-1].From
		changed.Open = changed.Open[:n-1]
	}
	changed.Open = append(changed.Open, added)
	changed.Open = changed.Open[max(0, len(changed.Open)-maxClaims):]
	changed.Next, changed.Until = last+1, added.Until
	return changed
}

// lost returns how many messages between two that a gateway reads can no longer be read although they belong to it, or to
// nobody yet.
func (c *claims) lost(gateway string, at, next StreamPosition) (n uint64) {
	if at.Created != c.Stream || next.Created != c.Stream {
		return 0
	}
	overlap := func(from, to uint64) uint64 {
		from, to = max(from, at.Sequence+1), min(to, next.Sequence-1)
		if to < from {
			return 0
		}
		return to - from + 1
	}
	for _, o := range c.Open {
		if o.Gateway == gateway {
			n += overlap(o.From, o.To)
		}
	}
	return n + overlap(c.Next, next.Sequence-1)
}
