package natsmon

import (
	"math"

	dto "github.com/prometheus/client_model/go"
)

// compat makes metrics under the names and labels of prometheus-nats-exporter 0.20, so that dashboards made for it keep
// working. Where it is wrong the names have right values: leaders only, all pages of connections, no limit where there is
// none, own connections left out. All are gauges, as there, the four counters of connz too, which go back when a client
// leaves. What it can be told to have for each connection and each subscription is not there.
type compat struct {
	core, jetStream string            // prefixes
	names           map[string]string // by name of the server, its ID: which of several has the name
}

// newCompat returns metrics whose prefix replaces both of that exporter, unless it is the default.
func newCompat(prefix string) *compat {
	c := &compat{core: prefix, jetStream: prefix, names: map[string]string{}}
	if prefix == DefaultConfig().CompatPrefix {
		c.jetStream = "jetstream"
	}
	return c
}

// old is a metric of that exporter.
type old[T any] struct {
	name    string // without the prefix
	instead string // what says the same, or better, and where it is another value how; empty if there is nothing
	value   func(T) float64
}

// recordOld adds what the table says of one thing.
func recordOld[T any](b *builder, prefix string, t []old[T], l labels, of T) {
	for i := range t {
		o := &t[i]
		if v := o.value(of); !math.IsNaN(v) {
			b.sampleOld(prefix+"_"+o.name, o.instead, l, v)
		}
	}
}

// sampleOld adds one value, with a help text that says where to look instead.
func (b *builder) sampleOld(name, instead string, l labels, v float64) {
	if f := b.byName[name]; f != nil {
		b.sample(name, f.GetHelp(), dto.MetricType_GAUGE, l, v)
		return
	}
	help := "As in prometheus-nats-exporter."
	if instead != "" {
		help = "As in prometheus-nats-exporter; better: " + instead
	}
	b.sample(name, help, dto.MetricType_GAUGE, l, v)
}

// serverID is the label server_id: the name, which stays the same when the server restarts, or the ID if another server has
// the name.
func (c *compat) serverID(s *Server) string {
	name := s.label()
	if first, there := c.names[name]; !there {
		c.names[name] = s.ID
	} else if first != s.ID {
		return s.ID
	}
	return name
}

// addServer adds what there is of a server, but for its streams.
func (c *compat) addServer(b *builder, s *Server) {
	id := labels{}.with("server_id", c.serverID(s))
	if s.Varz != nil {
		c.addVarz(b, s, id)
	}
	for check, name := range oldChecks {
		if h := s.Health[check]; h != nil {
			b.sampleOld(c.core+"_"+name+"_status", `1 - nats_server_healthy`, id, truth(h.Status != "ok"))
			b.sampleOld(c.core+"_"+name+"_status_value", "nats_server_healthy", id.with("value", h.Status), truth(h.Status == "ok"))
		}
	}
	if s.Connections != nil {
		recordOld(b, c.core, oldConnz, id, s.Connections)
	}
	if s.Subscriptions != nil && s.Subscriptions.SublistStats != nil {
		recordOld(b, c.core, oldSubsz, id, s.Subscriptions)
		b.sampleOld(c.core+"_subsz_server_id", "nats_server_info", id.with("value", s.ID), 1)
	}
	if s.Routes != nil {
		b.sampleOld(c.core+"_routez_num_routes", `nats_server_connections{kind="route"}`, id, float64(s.Routes.NumRoutes))
		b.sampleOld(c.core+"_routez_server_id", "nats_server_info", id.with("value", s.ID), 1)
		b.sampleOld(c.core+"_routez_server_name", "nats_server_info", id.with("value", s.Name), 1)
	}
	c.addAccounts(b, s, id)
	c.addPeers(b, s, id)
	c.addJetStream(b, s)
}

// oldChecks are the health checks that the other exporter knows, with the names of their metrics.
var oldChecks = map[string]string{
	healthOfAll:         "healthz",
	"jetstream_enabled": "healthz_js_enabled_only",
	"jetstream_server":  "healthz_js_server_only",
}
