package natsmon

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// tcpSocket is what the kernel says of one at one moment. Bytes are those of the stream: no headers of TCP, nothing twice.
type tcpSocket struct {
	cookie         uint64         // names it as long as the machine runs
	inode          uint32         // of the file that holds it; 0 when no process does any more
	local, remote  netip.AddrPort // IPv4 as such, never mapped into IPv6
	received, sent uint64
}

// wireLedger adds up what the sockets of servers carry. It is told of a socket again and again, by readings of the open ones
// and once when it is destroyed, in any order; each time it adds what the socket has grown since it was last told of. So
// totals never go back, and nothing is counted twice.
type wireLedger struct {
	// listeners are the addresses at which servers accept, as listenersOf has them.
	listeners map[netip.AddrPort]wireListener
	// sockets by cookie: those that are open, at most so many. A socket for which there is no room is counted when it is
	// destroyed, whole.
	sockets map[uint64]*wireSocket
	most    int
	// gone are the cookies of sockets destroyed while a reading is under way, which may still have them; nil while none is.
	gone map[uint64]struct{}
	// ends are ports by which a socket that matters is known, of now and of before. Beyond maxWireEnds they are not complete.
	ends []wireEnd
	// readings that there were, to know which sockets the last one had.
	readings uint64
}

// maxWireSockets is four times as many connections as a server accepts by default.
const maxWireSockets = 1 << 18

// maxWireEnds is as many as a filter of the kernel can hold, whose jumps go over 255 instructions at most.
const maxWireEnds = 100

// wireEnd is a port at this end of connections, or at the other one.
type wireEnd struct {
	remote bool
	port   uint16
}

// wireMissing is how long a socket may be missing in readings before it is forgotten. It is closed then, and either on its
// way to be handed in as destroyed, which is a matter of milliseconds, or never will be, because the kernel had no room.
const wireMissing = time.Minute

// wireSettling is how long after the first reading of a server the sockets that are destroyed, and were in no reading, are
// taken to be from before: a connection that was reset is in no reading while its server has not closed it yet.
const wireSettling = time.Second

type wireListener struct {
	server *wireServer
	kind   Kind
}

// wireServer has the totals of a server.
type wireServer struct {
	received, sent map[Kind]uint64
	// baseline makes sockets that are met for the first time count from what they have now, not from their beginning; of
	// those that are destroyed before settled nothing counts.
	baseline bool
	settled  time.Time
	readAt   time.Time
}

type wireSocket struct {
	server         *wireServer
	kind           Kind
	received, sent uint64
	reading        uint64    // the last one that had it
	missing        time.Time // since when readings do not have it; zero if the last one did
}

// wireOutgoing is how many connections of a kind a server has made to an address.
type wireOutgoing struct {
	kind Kind
	n    int
}

func newWireLedger() wireLedger {
	return wireLedger{listeners: map[netip.AddrPort]wireListener{}, sockets: map[uint64]*wireSocket{}, most: maxWireSockets}
}

func newWireServer() *wireServer {
	return &wireServer{received: map[Kind]uint64{}, sent: map[Kind]uint64{}}
}

// listen notes at which addresses a server accepts, and whether another server did so before.
func (l *wireLedger) listen(server *wireServer, addresses map[netip.AddrPort]Kind) (replaced bool) {
	for address, kind := range addresses {
		if before, ok := l.listeners[address]; ok && before.server != server {
			replaced = true
		}
		l.listeners[address] = wireListener{server, kind}
		l.ends = appendEnd(l.ends, wireEnd{port: address.Port()})
		server.meet(kind)
	}
	return replaced
}

// appendEnd appends what is not there yet, until it is too much.
func appendEnd(ends []wireEnd, end wireEnd) []wireEnd {
	if len(ends) > maxWireEnds || slices.Contains(ends, end) {
		return ends
	}
	return append(ends, end)
}

// meet makes a kind be among the totals, be it with 0.
func (s *wireServer) meet(kind Kind) {
	s.received[kind] += 0
	s.sent[kind] += 0
}

// leave forgets where a server accepts.
func (l *wireLedger) leave(server *wireServer) {
	maps.DeleteFunc(l.listeners, func(_ netip.AddrPort, o wireListener) bool { return o.server == server })
}

// begin says that a reading begins, end that it has been taken in, or failed.
func (l *wireLedger) begin() { l.gone = map[uint64]struct{}{} }

func (l *wireLedger) end() { l.gone = nil }

// observe takes in a reading of all connected sockets that matter.
func (l *wireLedger) observe(open []tcpSocket, at time.Time) {
	l.readings++
	for i := range open {
		s := &open[i]
		if _, gone := l.gone[s.cookie]; gone {
			continue
		}
		known := l.sockets[s.cookie]
		o, accepted := acceptedAt(l.listeners, s.local)
		switch {
		case known == nil && accepted:
			known = l.track(s, o.server, o.kind)
		case known != nil && accepted && known.server != o.server && s.inode != 0:
			// Another server accepts here now, and has accepted this before that was noticed. What nobody holds any more
			// (inode 0) is a remainder of the server before.
			known = l.track(s, o.server, o.kind)
		}
		if known == nil {
			continue
		}
		known.grow(s)
		known.reading, known.missing = l.readings, time.Time{}
	}
	maps.DeleteFunc(l.sockets, func(_ uint64, s *wireSocket) bool {
		if s.reading != l.readings && s.missing.IsZero() {
			s.missing = at
		}
		return !s.missing.IsZero() && at.Sub(s.missing) > wireMissing
	})
}

// track begins to count a socket, and returns nil if there is no room for it.
func (l *wireLedger) track(s *tcpSocket, server *wireServer, kind Kind) *wireSocket {
	if _, known := l.sockets[s.cookie]; !known && len(l.sockets) >= l.most {
		return nil
	}
	t := &wireSocket{server: server, kind: kind}
	if server.baseline {
		t.received, t.sent = s.received, s.sent
	}
	l.sockets[s.cookie] = t
	server.meet(kind)
	return t
}

// claim looks in a reading for the connections that a server has made itself: to an address, as many as it says. A socket is
// of one server only, so that two servers with connections to the same address do not both count all of them. Mine
// tells which inodes are of sockets of the server's process; nil if that is not known.
func (l *wireLedger) claim(server *wireServer, open []tcpSocket, outgoing map[netip.AddrPort]wireOutgoing, mine func(inodes []uint32) (map[uint32]bool, error)) error {
	if len(outgoing) == 0 {
		return nil
	}
	have := map[netip.AddrPort]int{}
	var unclaimed []*tcpSocket
	for i := range open {
		s := &open[i]
		_, ok := outgoing[s.remote]
		if _, gone := l.gone[s.cookie]; gone || !ok {
			continue
		}
		if known := l.sockets[s.cookie]; known != nil {
			if known.server == server {
				have[s.remote]++
			}
		} else if s.inode != 0 {
			unclaimed = append(unclaimed, s)
		}
	}
	unclaimed = slices.DeleteFunc(unclaimed, func(s *tcpSocket) bool { return have[s.remote] >= outgoing[s.remote].n })
	if len(unclaimed) == 0 {
		return nil
	}
	if mine != nil {
		inodes := make([]uint32, len(unclaimed))
		for i, s := range unclaimed {
			inodes[i] = s.inode
		}
		own, err := mine(inodes)
		if err != nil {
			return err
		}
		unclaimed = slices.DeleteFunc(unclaimed, func(s *tcpSocket) bool { return !own[s.inode] })
	}
	for _, s := range unclaimed {
		if have[s.remote] >= outgoing[s.remote].n {
			continue
		}
		if t := l.track(s, server, outgoing[s.remote].kind); t != nil {
			t.grow(s)
			t.reading = l.readings
			have[s.remote]++
			l.ends = appendEnd(l.ends, wireEnd{port: s.remote.Port(), remote: true})
		}
	}
	return nil
}

// destroyed takes in the last that is known of a socket.
func (l *wireLedger) destroyed(s *tcpSocket, at time.Time) {
	if l.gone != nil {
		l.gone[s.cookie] = struct{}{}
	}
	known := l.sockets[s.cookie]
	if known == nil {
		o, ok := acceptedAt(l.listeners, s.local)
		if !ok || at.Before(o.server.settled) {
			return
		}
		known = &wireSocket{server: o.server, kind: o.kind}
	}
	known.grow(s)
	delete(l.sockets, s.cookie)
}

// grow adds to the totals what a socket has more than it had. A socket that was reset by its own end has nothing left.
func (t *wireSocket) grow(s *tcpSocket) {
	if s.received > t.received {
		t.server.received[t.kind] += s.received - t.received
		t.received = s.received
	}
	if s.sent > t.sent {
		t.server.sent[t.kind] += s.sent - t.sent
		t.sent = s.sent
	}
}

// wire is a copy of the totals.
func (s *wireServer) wire() *Wire {
	return &Wire{Received: maps.Clone(s.received), Sent: maps.Clone(s.sent)}
}
