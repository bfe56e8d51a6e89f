package natsmon

import (
	"cmp"
	"maps"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// limits bound what is read of a target, and so how many series come of it. What is beyond them is left out, always the
// same (the last by name), and counted in nats_scrape_omitted_objects.
type limits struct {
	accounts, streams, consumers, sources, leafs, routes, gateways int

	// responseBytes of memory may be taken by an answer: a server in trouble, or an enemy, must not fill all of it.
	responseBytes int64
}

// defaultLimits are for each server. A stream makes about twenty series, a consumer or a leaf about ten, so that a server
// at all its limits makes some 500,000: more than is of use to anybody. The answer of a server with as many streams and
// consumers is about 50 MiB long, and takes 110 MiB.
func defaultLimits() limits {
	return limits{
		accounts:      2_000,
		streams:       5_000,
		consumers:     20_000,
		sources:       5_000,
		leafs:         10_000,
		routes:        1_000,
		gateways:      1_000,
		responseBytes: 128 << 20,
	}
}

// object is a kind of what can be left out. The set is closed.
type object string

const (
	objectServer   object = "server"
	objectAccount  object = "account"
	objectStream   object = "stream"
	objectConsumer object = "consumer"
	objectSource   object = "source"
	objectLeaf     object = "leaf"
	objectRoute    object = "route"
	objectGateway  object = "gateway"
)

func objects() []object {
	return []object{
		objectAccount, objectConsumer, objectGateway, objectLeaf, objectRoute, objectServer, objectSource, objectStream,
	}
}

// present drops what is nil: null in a list is not an answer of a NATS server, but must not be our end.
func present[T any](list []*T) []*T {
	return slices.DeleteFunc(list, func(p *T) bool { return p == nil })
}

// bound takes from s what is beyond the limits, and adds to omitted what that was. Ephemeral consumers are no series of
// their own unless compat is set, and are only counted as consumers then.
func (l limits) bound(s *Server, compat bool, omitted map[object]int) {
	cut := func(what object, n, limit int) { omitted[what] += max(0, n-limit) }

	if a := s.Accounts; a != nil {
		a.Accounts = present(a.Accounts)
		cut(objectAccount, len(a.Accounts), l.accounts)
		slices.SortFunc(a.Accounts, func(x, y *server.AccountStat) int { return cmp.Compare(x.Account, y.Account) })
		a.Accounts = a.Accounts[:min(len(a.Accounts), l.accounts)]
	}
	if f := s.Leafs; f != nil {
		f.Leafs = present(f.Leafs)
		cut(objectLeaf, len(f.Leafs), l.leafs)
		slices.SortFunc(f.Leafs, func(x, y *server.LeafInfo) int {
			return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Account, y.Account), cmp.Compare(x.ID, y.ID))
		})
		f.Leafs = f.Leafs[:min(len(f.Leafs), l.leafs)]
	}
	if r := s.Routes; r != nil {
		r.Routes = present(r.Routes)
		cut(objectRoute, len(r.Routes), l.routes)
		slices.SortFunc(r.Routes, func(x, y *server.RouteInfo) int {
			return cmp.Or(cmp.Compare(x.RemoteName, y.RemoteName), cmp.Compare(x.Rid, y.Rid))
		})
		r.Routes = r.Routes[:min(len(r.Routes), l.routes)]
	}
	if g := s.Gateways; g != nil {
		l.boundGateways(g, cut)
	}
	if s.JetStream != nil {
		l.boundJetStream(s.JetStream, compat, cut)
	}
}

func (l limits) boundGateways(g *server.Gatewayz, cut func(object, int, int)) {
	left := l.gateways
	n := len(g.OutboundGateways)
	for _, name := range slices.Sorted(maps.Keys(g.OutboundGateways)) {
		if left--; left < 0 || g.OutboundGateways[name] == nil {
			delete(g.OutboundGateways, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.InboundGateways)) {
		in := present(g.InboundGateways[name])
		n += len(in)
		g.InboundGateways[name] = in[:min(len(in), max(0, left))]
		left -= len(in)
	}
	cut(objectGateway, n, l.gateways)
}

func (l limits) boundJetStream(j *server.JSInfo, compat bool, cut func(object, int, int)) {
	j.AccountDetails = present(j.AccountDetails)
	if j.Meta != nil {
		j.Meta.Replicas = present(j.Meta.Replicas)
		j.Meta.Replicas = j.Meta.Replicas[:min(len(j.Meta.Replicas), l.routes)]
	}
	slices.SortFunc(j.AccountDetails, func(x, y *server.AccountDetail) int { return cmp.Compare(x.Id, y.Id) })
	j.AccountDetails = j.AccountDetails[:min(len(j.AccountDetails), l.accounts)]
	streams, consumers, sources := 0, 0, 0
	for _, a := range j.AccountDetails {
		// The server has them in no order. One order makes it the same ones that are left out every time.
		slices.SortFunc(a.Streams, func(x, y server.StreamDetail) int { return cmp.Compare(x.Name, y.Name) })
		n := len(a.Streams)
		a.Streams = a.Streams[:min(n, max(0, l.streams-streams))]
		streams += n
		for i := range a.Streams {
			s := &a.Streams[i]
			s.Sources = present(s.Sources)
			boundPeers(s.Cluster)
			s.Consumer, consumers = firstConsumers(s.Consumer, compat, consumers, l.consumers)
			n := len(s.Sources)
			s.Sources = s.Sources[:min(n, max(0, l.sources-sources))]
			sources += n
		}
	}
	cut(objectStream, streams, l.streams)
	cut(objectConsumer, consumers, l.consumers)
	cut(objectSource, sources, l.sources)
}

// maxReplicas of a Raft group: it has three or five.
const maxReplicas = 100

func boundPeers(c *server.ClusterInfo) {
	if c != nil {
		c.Replicas = present(c.Replicas)
		c.Replicas = c.Replicas[:min(len(c.Replicas), maxReplicas)]
	}
}

// firstConsumers returns those for which there is room, of which before are taken, and how many there are then.
func firstConsumers(all []*server.ConsumerInfo, ephemeral bool, before, limit int) ([]*server.ConsumerInfo, int) {
	all = present(all)
	slices.SortFunc(all, func(x, y *server.ConsumerInfo) int { return cmp.Compare(x.Name, y.Name) })
	kept := all[:0]
	for _, c := range all {
		boundPeers(c.Cluster)
		if ephemeral || c.Config == nil || c.Config.Durable != "" {
			if before++; before > limit {
				continue
			}
		}
		kept = append(kept, c)
	}
	return kept, before
}
