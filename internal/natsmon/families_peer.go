package natsmon

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// peer is another server, or a cluster behind a gateway, to which a server is connected, or was not long ago.
type peer struct {
	connections   int
	rtt           time.Duration // the longest of the connections; 0: not measured
	pending       int
	subscriptions int
	total         traffic // of all connections since they were seen first
}

// connect adds a connection.
func (p *peer) connect(rtt string, pending int, subscriptions uint32) {
	p.connections++
	if d, err := time.ParseDuration(rtt); err == nil {
		p.rtt = max(p.rtt, d)
	}
	p.pending += pending
	p.subscriptions += int(subscriptions)
}

// peers are the peers of one kind that a server has at a moment.
type peers struct {
	now  map[peerKey]*peer
	open map[peerKey]map[uint64]traffic
}

func newPeers() *peers {
	return &peers{now: map[peerKey]*peer{}, open: map[peerKey]map[uint64]traffic{}}
}

// connection returns the peer, for which it notes a connection.
func (p *peers) connection(key peerKey, number uint64, t traffic) *peer {
	if p.now[key] == nil {
		p.now[key], p.open[key] = &peer{}, map[uint64]traffic{}
	}
	p.open[key][number] = t
	return p.now[key]
}

// peerNamed is what a peer is called by: its name. One to which nobody gave a name has its ID for it, another one with each
// start, and would be down for a day after each; then it is the address it comes from, or else what is there.
func peerNamed(name, ip, otherwise string) string {
	if name == "" || nkeys.IsValidPublicServerKey(name) {
		return cmp.Or(ip, otherwise)
	}
	return name
}

// addPeers adds routes, leafs and gateways.
func (b *builder) addPeers(s *Server, own labels) {
	if s.Routes != nil {
		p := newPeers()
		for _, r := range s.Routes.Routes {
			key := peerKey{kind: Route, name: peerNamed(r.RemoteName, r.IP, r.RemoteID)}
			p.connection(key, r.Rid, traffic{r.InMsgs, r.OutMsgs, r.InBytes, r.OutBytes}).connect(r.RTT, r.Pending, r.NumSubs)
		}
		addPeers(b, s, Route, p, routeTable, func(k peerKey) labels { return own.with("peer", k.name) })
	}
	if s.Leafs != nil {
		p, info := newPeers(), map[peerKey]*server.LeafInfo{}
		for _, l := range s.Leafs.Leafs {
			key := peerKey{kind: Leaf, name: peerNamed(l.Name, l.IP, l.Name), account: l.Account}
			p.connection(key, l.ID, traffic{l.InMsgs, l.OutMsgs, l.InBytes, l.OutBytes}).connect(l.RTT, 0, l.NumSubs)
			info[key] = l
		}
		name := func(k peerKey) labels { return own.with("account", k.account).with("name", k.name) }
		addPeers(b, s, Leaf, p, leafTable, name)
		for _, key := range slices.SortedFunc(maps.Keys(info), peerKey.compare) {
			record(b, leafInfoTable, leafInfo(name(key), info[key]), info[key])
		}
	}
	if g := s.Gateways; g != nil && g.Name != "" {
		p := newPeers()
		connect := func(remote string, inbound bool, c *server.ConnInfo) {
			if c != nil {
				key := peerKey{kind: Gateway, name: remote, inbound: inbound}
				p.connection(key, c.Cid, traffic{c.InMsgs, c.OutMsgs, c.InBytes, c.OutBytes}).connect(c.RTT, c.Pending, c.NumSubs)
			}
		}
		for remote, out := range g.OutboundGateways {
			connect(remote, false, out.Connection)
		}
		for remote, list := range g.InboundGateways {
			for _, in := range list {
				connect(remote, true, in.Connection)
			}
		}
		addPeers(b, s, Gateway, p, gatewayTable, func(k peerKey) labels {
			return own.with("kind", gatewayKind(k.inbound)).with("remote", k.name)
		})
	}
}

// gatewayKind is which side has made the connection.
func gatewayKind(inbound bool) string {
	if inbound {
		return "inbound"
	}
	return "outbound"
}

// addPeers adds the peers of one kind, those that are not connected any more included.
func addPeers(b *builder, s *Server, kind Kind, p *peers, t []metric[*peer], name func(peerKey) labels) {
	for _, k := range b.history.update(s.ID, kind, s.At, p.open) {
		now := p.now[k.key]
		if now == nil {
			now = &peer{}
		}
		now.total = k.total
		record(b, t, name(k.key), now)
	}
}

var (
	routeTable = append(peerMetrics("nats_route", "other server of the cluster"),
		gauge("nats_route_pending_bytes", "Bytes that wait to be sent to the other server of the cluster.",
			func(p *peer) float64 { return connected(p, p.pending) }))
	leafTable    = peerMetrics("nats_leaf", "server at the other end of a leaf connection")
	gatewayTable = append(peerMetrics("nats_gateway", "other cluster"),
		gauge("nats_gateway_pending_bytes", "Bytes that wait to be sent to the other cluster.",
			func(p *peer) float64 { return connected(p, p.pending) }))
)

// peerMetrics are what all kinds of peers have.
func peerMetrics(prefix, who string) []metric[*peer] {
	of := "Messages of connections to the " + who + "; what they carried counts on when they are made anew."
	bytes := "Bytes of headers and bodies of messages of connections to the " + who + "; they count on like messages."
	return slices.Clip([]metric[*peer]{
		gauge(prefix+"_up", "Whether there is a connection to the "+who+". One that went away is 0 for a day.",
			func(p *peer) float64 { return truth(p.connections > 0) }),
		gauge(prefix+"_connections", "Open connections to the "+who+".",
			func(p *peer) float64 { return float64(p.connections) }),
		gauge(prefix+"_rtt_seconds", "Round trip to the "+who+", the longest if there are several connections.",
			func(p *peer) float64 { return positive(p.rtt.Seconds()) }),
		gauge(prefix+"_subscriptions", "Subscriptions that the "+who+" has made known.",
			func(p *peer) float64 { return connected(p, p.subscriptions) }),
		messages(prefix+"_messages_total", of, "received", func(p *peer) float64 { return float64(p.total.receivedMessages) }),
		messages(prefix+"_messages_total", of, "sent", func(p *peer) float64 { return float64(p.total.sentMessages) }),
		messages(prefix+"_payload_bytes_total", bytes, "received", func(p *peer) float64 { return float64(p.total.receivedBytes) }),
		messages(prefix+"_payload_bytes_total", bytes, "sent", func(p *peer) float64 { return float64(p.total.sentBytes) }),
	})
}

// connected is n, if there is a connection that can have one.
func connected(p *peer, n int) float64 {
	if p.connections == 0 {
		return absent
	}
	return float64(n)
}

var leafInfoTable = []metric[*server.LeafInfo]{
	gauge("nats_leaf_info", "Always 1; the labels say which side of the connection this server is, and from where the other one comes.",
		one[*server.LeafInfo]),
}

func leafInfo(name labels, l *server.LeafInfo) labels {
	role, transport := "hub", "tcp"
	if l.IsSpoke {
		role = "spoke"
	}
	if l.Websocket {
		transport = "websocket"
	}
	return name.with("ip", l.IP).with("role", role).with("transport", transport)
}
