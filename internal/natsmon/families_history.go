package natsmon

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// traffic is what a connection between servers has carried, as one of them counts.
type traffic struct{ receivedMessages, sentMessages, receivedBytes, sentBytes int64 }

func (t traffic) plus(u traffic) traffic {
	return traffic{
		t.receivedMessages + u.receivedMessages, t.sentMessages + u.sentMessages,
		t.receivedBytes + u.receivedBytes, t.sentBytes + u.sentBytes,
	}
}

func (t traffic) atLeast(u traffic) traffic {
	return traffic{
		max(t.receivedMessages, u.receivedMessages), max(t.sentMessages, u.sentMessages),
		max(t.receivedBytes, u.receivedBytes), max(t.sentBytes, u.sentBytes),
	}
}

// peerKey is what is at the other end of connections of a server: another server, or a cluster behind a gateway.
type peerKey struct {
	kind          Kind
	name, account string
	inbound       bool // of gateways
}

func (k peerKey) compare(o peerKey) int {
	return cmp.Or(cmp.Compare(k.name, o.name), cmp.Compare(k.account, o.account), cmp.Compare(truth(k.inbound), truth(o.inbound)))
}

// memory is what is known of a peer.
type memory struct {
	closed traffic            // of connections that are gone
	open   map[uint64]traffic // by number of the connection
	seen   time.Time          // when there was a connection last
}

// serverMemory is of one server in one life: its peers, and when it was read last, for each kind.
type serverMemory struct {
	peers map[peerKey]*memory
	read  map[Kind]time.Time
}

// history is what has to be remembered from one reading to the next: which peers there were, so that one that went away can
// be reported as down, and what closed connections had carried. Servers count for each connection, so that a sum over
// those that are open would go back when one is made anew. It is safe for concurrent use.
type history struct {
	mu      sync.Mutex
	servers map[string]*serverMemory // by ID, which is another one after a restart
	names   map[[2]string]holder     // by cluster and name
}

func newHistory() *history {
	return &history{servers: map[string]*serverMemory{}, names: map[[2]string]holder{}}
}

// holder is the server that has a name.
type holder struct {
	id, target string
	seen       time.Time
}

// hasName reports whether the server is the one that has its name.
func (h *history) hasName(s *Server) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names[s.key()].id == s.ID
}

// takeName reports whether the server of a target may have its name, and gives it to it: if it has it, if nobody has, or if
// it is the holder's successor, which is of the same target. A holder that is gone keeps the name for as long as a peer is
// reported as down: else values of another server would follow on its own.
func (h *history) takeName(s *Server, target string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := s.key()
	if before, there := h.names[key]; there && before.id != s.ID && before.target != target && s.At.Sub(before.seen) < rememberPeer {
		return false
	} else if !there {
		maps.DeleteFunc(h.names, func(_ [2]string, o holder) bool { return s.At.Sub(o.seen) >= rememberPeer })
	}
	h.names[key] = holder{s.ID, target, s.At}
	return true
}

const (
	// rememberPeer is how long a peer without connections is reported as down. Somebody should have noticed by then, or
	// it went away for good.
	rememberPeer = 24 * time.Hour
	// maxPeers is how many peers of a server are remembered. When there are more, those that are down are forgotten.
	maxPeers = 20_000
	// rememberServer is how long a server that is not read is remembered.
	rememberServer = time.Hour
)

// known is what history knows of a peer: what its connections, open and closed, have carried.
type known struct {
	key   peerKey
	total traffic
}

// update takes the open connections to peers of one kind that a server had at a time, and returns all that are known,
// sorted. A reading that is older than one before adds to what is known, but nothing is taken to be gone.
func (h *history) update(id string, kind Kind, at time.Time, open map[peerKey]map[uint64]traffic) []known {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.servers[id]
	if s == nil {
		h.forgetServers(at)
		s = &serverMemory{peers: map[peerKey]*memory{}, read: map[Kind]time.Time{}}
		h.servers[id] = s
	}
	newest := !at.Before(s.read[kind])
	if newest {
		s.read[kind] = at
	}
	for key, connections := range open {
		m := s.peers[key]
		if m == nil {
			m = &memory{open: map[uint64]traffic{}}
			s.peers[key] = m
		}
		if newest {
			m.seen = at
		}
		for number, t := range connections {
			m.open[number] = t.atLeast(m.open[number])
		}
	}
	if newest {
		s.close(kind, at, open)
	}

	list := make([]known, 0, len(open))
	for key, m := range s.peers {
		if key.kind != kind {
			continue
		}
		k := known{key, m.closed}
		for _, t := range m.open {
			k.total = k.total.plus(t)
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(x, y known) int { return x.key.compare(y.key) })
	return list
}

// close takes connections that are not open any more to be closed, and forgets peers.
func (s *serverMemory) close(kind Kind, at time.Time, open map[peerKey]map[uint64]traffic) {
	full := len(s.peers) > maxPeers
	for key, m := range s.peers {
		if key.kind != kind {
			continue
		}
		for number, t := range m.open {
			if _, there := open[key][number]; !there {
				m.closed = m.closed.plus(t)
				delete(m.open, number)
			}
		}
		if len(m.open) == 0 && (full || at.Sub(m.seen) > rememberPeer) {
			delete(s.peers, key)
		}
	}
}

// forgetServers forgets those that have not been read for long: they are gone, or have another ID since they restarted.
func (h *history) forgetServers(now time.Time) {
	maps.DeleteFunc(h.servers, func(_ string, s *serverMemory) bool {
		for _, at := range s.read {
			if now.Sub(at) < rememberServer {
				return false
			}
		}
		return true
	})
}
