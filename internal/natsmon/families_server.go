package natsmon

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// addServer adds what there is of one server, and keeps its streams for addStreams.
func (b *builder) addServer(s *Server) {
	own := labels{}.with("cluster", s.Cluster).with("server", s.label())
	if s.Varz != nil {
		b.addVarz(s, own)
	}
	for _, check := range slices.Sorted(maps.Keys(s.Health)) {
		if h := s.Health[check]; h != nil {
			record(b, healthTable, own.with("check", check), h)
		}
	}
	if h := s.Health[healthOfAll]; h != nil {
		record(b, ailingTable, own, h)
	}
	if s.Connections != nil {
		record(b, pendingTable, own, s.Connections)
	}
	byKind := connectionsByKind(s)
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		record(b, connectionsTable, own.with("kind", string(kind)), byKind[kind])
	}
	if s.Subscriptions != nil && s.Subscriptions.SublistStats != nil {
		record(b, subscriptionsTable, own, s.Subscriptions.SublistStats)
	}
	b.addPeers(s, own)
	b.addAccounts(s, own)
	b.addJetStream(s, own)
	if b.compat != nil {
		b.compat.addServer(b, s)
	}
}

func (b *builder) addVarz(s *Server, own labels) {
	basic := own
	if !b.labelled {
		basic = nil
	}
	v := s.Varz
	record(b, basicTable, basic, s)
	record(b, versionTable, basic.with("version", v.Version), s)
	record(b, serverTable, own, v)
	record(b, infoTable, own.with("domain", s.Domain).with("git_commit", v.GitCommit).with("go", v.GoVersion).
		with("id", v.ID).with("version", v.Version), v)

	method := "estimate"
	if s.Wire != nil {
		method = "tcp_info"
		for _, kind := range slices.Sorted(maps.Keys(s.Wire.Received)) {
			record(b, wireTable, own.with("direction", "received").with("kind", string(kind)), s.Wire.Received[kind])
		}
		for _, kind := range slices.Sorted(maps.Keys(s.Wire.Sent)) {
			record(b, wireTable, own.with("direction", "sent").with("kind", string(kind)), s.Wire.Sent[kind])
		}
	}
	record(b, methodTable, own.with("method", method), v)
	for _, path := range monitoringPaths(v) {
		record(b, requestsTable, own.with("path", path), v.HTTPReqStats[path])
	}
}

// maxMonitoringPaths are taken of what a server says was asked for. It knows some twenty.
const maxMonitoringPaths = 50

// monitoringPaths are what the monitoring port was asked for.
func monitoringPaths(v *server.Varz) []string {
	paths := slices.Sorted(maps.Keys(v.HTTPReqStats))
	return paths[:min(len(paths), maxMonitoringPaths)]
}

// connectionsByKind is what each endpoint says of its own kind. Connz has leafs too, but not all of them.
func connectionsByKind(s *Server) map[Kind]int {
	n := map[Kind]int{}
	if s.Connections != nil {
		maps.Copy(n, s.Connections.ByKind)
	}
	if s.Varz != nil {
		n[Leaf] = s.Varz.Leafs
	}
	if s.Routes != nil {
		n[Route] = s.Routes.NumRoutes
	}
	if g := s.Gateways; g != nil && g.Name != "" {
		n[Gateway] = len(g.OutboundGateways)
		for _, in := range g.InboundGateways {
			n[Gateway] += len(in)
		}
	}
	return n
}

var infoTable = []metric[*server.Varz]{
	gauge("nats_server_info", "Always 1; the labels say which server this is.", one[*server.Varz]),
}

var methodTable = []metric[*server.Varz]{
	gauge("nats_server_wire_bytes_info",
		"Always 1; the label says whether bytes on the wire are counted by the kernel or estimated.", one[*server.Varz]),
}

var wireTable = []metric[uint64]{
	counter("nats_server_wire_bytes_total", "Bytes on the wire as the kernel has counted them; absent where they are estimated.",
		func(n uint64) float64 { return float64(n) }),
}

var connectionsTable = []metric[int]{
	gauge("nats_server_connections", "Open connections by kind.", func(n int) float64 { return float64(n) }),
}

var requestsTable = []metric[uint64]{
	counter("nats_server_monitoring_requests_total", "Requests to the monitoring port.", func(n uint64) float64 { return float64(n) }),
}

var pendingTable = []metric[*Connections]{
	gauge("nats_server_pending_bytes", "Bytes that wait to be sent to clients.",
		func(c *Connections) float64 { return float64(c.PendingBytes) }),
}

// healthOfAll is the check that looks at everything.
const healthOfAll = "all"

var healthTable = []metric[*server.HealthStatus]{
	gauge("nats_server_healthy", "Whether the server passes one of its own health checks.",
		func(h *server.HealthStatus) float64 { return truth(h.Status == "ok") }),
}

// ailingTable is of the check of everything, if it was asked for details.
var ailingTable = []metric[*server.HealthStatus]{
	gauge("nats_server_unhealthy_streams", "Streams of this server that do not pass its health check.",
		func(h *server.HealthStatus) float64 { return ailing(h, server.HealthzErrorStream) }),
	gauge("nats_server_unhealthy_consumers", "Consumers of this server that do not pass its health check.",
		func(h *server.HealthStatus) float64 { return ailing(h, server.HealthzErrorConsumer) }),
}

func ailing(h *server.HealthStatus, what server.HealthZErrorType) float64 {
	if !detailed(h) {
		return absent
	}
	n := 0
	for i := range h.Errors {
		if h.Errors[i].Type == what {
			n++
		}
	}
	return float64(n)
}

// detailed reports whether all that is wrong is in Errors.
func detailed(h *server.HealthStatus) bool { return h.Status == "ok" || len(h.Errors) > 0 }

var subscriptionsTable = []metric[*server.SublistStats]{
	gauge("nats_server_subscription_cache_entries", "Subjects whose subscriptions are cached.",
		func(s *server.SublistStats) float64 { return float64(s.NumCache) }),
	gauge("nats_server_subscription_cache_hit_ratio", "Part of the messages whose subscriptions were in the cache.",
		func(s *server.SublistStats) float64 { return s.CacheHitRate }),
	gauge("nats_server_subscription_fanout_max", "Most subscriptions to one cached subject.",
		func(s *server.SublistStats) float64 { return float64(s.MaxFanout) }),
	gauge("nats_server_subscription_fanout_mean", "Mean of the subscriptions to a cached subject.",
		func(s *server.SublistStats) float64 { return s.AvgFanout }),
}

// serverTable is what Varz says beside the basic metrics.
var serverTable = slices.Concat([]metric[*server.Varz]{
	gauge("nats_server_start_timestamp_seconds", "When the server was started.",
		func(v *server.Varz) float64 { return timestamp(v.Start) }),
	gauge("nats_server_config_load_timestamp_seconds", "When the configuration in use was loaded.",
		func(v *server.Varz) float64 { return timestamp(v.ConfigLoadTime) }),
	gauge("nats_server_cpu_ratio", "CPU time used per second of the last measurement: 1 is one core.",
		func(v *server.Varz) float64 { return v.CPU / 100 }),
	gauge("nats_server_gomaxprocs", "How many threads run Go code at a time.",
		func(v *server.Varz) float64 { return positive(float64(v.MaxProcs)) }),
	gauge("nats_server_memory_limit_bytes", "GOMEMLIMIT; absent if there is none.",
		func(v *server.Varz) float64 { return limit(v.MemLimit) }),
	gauge("nats_server_subscriptions", "Subscriptions of all accounts.",
		func(v *server.Varz) float64 { return float64(v.Subscriptions) }),
	gauge("nats_server_connections_limit", "Most clients that may be connected; absent if there is no limit.",
		func(v *server.Varz) float64 { return limit(int64(v.MaxConn)) }),
	gauge("nats_server_payload_limit_bytes", "Longest message that is taken.",
		func(v *server.Varz) float64 { return limit(int64(v.MaxPayload)) }),
	gauge("nats_server_pending_limit_bytes", "How much may wait to be sent to a client before it is a slow consumer.",
		func(v *server.Varz) float64 { return limit(v.MaxPending) }),
	counter("nats_server_producer_stalls_total", "How often a client was made to wait because consumers of its messages were slow.",
		func(v *server.Varz) float64 { return float64(v.StalledClients) }),
	counter("nats_server_pinned_account_failures_total", "Logins refused because the account's issuer is not pinned.",
		func(v *server.Varz) float64 { return float64(v.PinnedAccountFail) }),
}, trafficMetrics, eventMetrics, diskMetrics, certificateMetrics)

var trafficMetrics = []metric[*server.Varz]{
	messages("nats_server_messages_total", "Messages of all connections, those between servers included.", "received",
		func(v *server.Varz) float64 { return float64(v.InMsgs) }),
	messages("nats_server_messages_total", "Messages of all connections, those between servers included.", "sent",
		func(v *server.Varz) float64 { return float64(v.OutMsgs) }),
	messages("nats_server_payload_bytes_total", "Bytes of headers and bodies of messages of all connections, those between servers included.", "received",
		func(v *server.Varz) float64 { return float64(v.InBytes) }),
	messages("nats_server_payload_bytes_total", "Bytes of headers and bodies of messages of all connections, those between servers included.", "sent",
		func(v *server.Varz) float64 { return float64(v.OutBytes) }),
	messages("nats_server_client_messages_total", "Messages of clients; absent if the server does not count them (before 2.12.9).", "received",
		func(v *server.Varz) float64 { return ofClients(v, v.InClientMsgs) }),
	messages("nats_server_client_messages_total", "Messages of clients; absent if the server does not count them (before 2.12.9).", "sent",
		func(v *server.Varz) float64 { return ofClients(v, v.OutClientMsgs) }),
	messages("nats_server_client_payload_bytes_total", "Bytes of headers and bodies of messages of clients; absent if the server does not count them (before 2.12.9).", "received",
		func(v *server.Varz) float64 { return ofClients(v, v.InClientBytes) }),
	messages("nats_server_client_payload_bytes_total", "Bytes of headers and bodies of messages of clients; absent if the server does not count them (before 2.12.9).", "sent",
		func(v *server.Varz) float64 { return ofClients(v, v.OutClientBytes) }),
}

func messages[T any](name, help, direction string, value func(T) float64) metric[T] {
	return counter(name, help, value).with("direction", direction)
}

// ofClients is n, unless the server is of a version that has no counters of clients.
func ofClients(v *server.Varz, n int64) float64 {
	if v.InClientMsgs == 0 && v.OutClientMsgs == 0 && v.InMsgs+v.OutMsgs > 0 && !countsClients(v.Version) {
		return absent
	}
	return float64(n)
}

// countsClients reports whether servers of a version have counters of clients.
func countsClients(version string) bool {
	var v [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); n < len(v) {
		return false
	}
	return slices.Compare(v[:], []int{2, 12, 9}) >= 0
}

var eventMetrics = slices.Concat(
	byKind("nats_server_slow_consumers_total", "Connections closed because they did not take what was to be sent to them, by kind.",
		func(v *server.Varz) *server.SlowConsumersStats { return v.SlowConsumersStats }),
	byKind("nats_server_stale_connections_total", "Connections closed because pings were not answered, by kind.",
		func(v *server.Varz) *server.SlowConsumersStats {
			return (*server.SlowConsumersStats)(v.StaleConnectionStats)
		}),
)

// byKind are the counters of one event. What servers count of slow and of stale connections has the same fields.
func byKind(name, help string, stats func(*server.Varz) *server.SlowConsumersStats) []metric[*server.Varz] {
	one := func(kind Kind, field func(*server.SlowConsumersStats) uint64) metric[*server.Varz] {
		return counter(name, help, func(v *server.Varz) float64 {
			if s := stats(v); s != nil {
				return float64(field(s))
			}
			return absent
		}).with("kind", string(kind))
	}
	return []metric[*server.Varz]{
		one(Client, func(s *server.SlowConsumersStats) uint64 { return s.Clients }),
		one(Gateway, func(s *server.SlowConsumersStats) uint64 { return s.Gateways }),
		one(Leaf, func(s *server.SlowConsumersStats) uint64 { return s.Leafs }),
		one(Route, func(s *server.SlowConsumersStats) uint64 { return s.Routes }),
	}
}

var diskMetrics = []metric[*server.Varz]{
	gauge("nats_server_disk_io_waiting", "Disk operations that wait because too many are under way.",
		func(v *server.Varz) float64 {
			return ofDisk(v, func(d *server.DiskIOWaitStats) float64 { return float64(d.Waiters) })
		}),
	counter("nats_server_disk_io_waits_total", "Disk operations that had to wait.",
		func(v *server.Varz) float64 {
			return ofDisk(v, func(d *server.DiskIOWaitStats) float64 { return float64(d.Waits) })
		}),
	counter("nats_server_disk_io_wait_seconds_total", "Time for which disk operations had to wait.",
		func(v *server.Varz) float64 {
			return ofDisk(v, func(d *server.DiskIOWaitStats) float64 { return float64(d.WaitTime) / 1e9 })
		}),
	gauge("nats_server_disk_io_wait_max_seconds", "Longest time for which a disk operation had to wait.",
		func(v *server.Varz) float64 {
			return ofDisk(v, func(d *server.DiskIOWaitStats) float64 { return float64(d.MaxWaitTime) / 1e9 })
		}),
}

func ofDisk(v *server.Varz, field func(*server.DiskIOWaitStats) float64) float64 {
	if v.DiskIOWaitStats == nil {
		return absent
	}
	return field(v.DiskIOWaitStats)
}

var certificateMetrics = []metric[*server.Varz]{
	certificate(Client, func(v *server.Varz) time.Time { return v.TLSCertNotAfter }),
	certificate(Gateway, func(v *server.Varz) time.Time { return v.Gateway.TLSCertNotAfter }),
	certificate(Leaf, func(v *server.Varz) time.Time { return v.LeafNode.TLSCertNotAfter }),
	certificate(MQTT, func(v *server.Varz) time.Time { return v.MQTT.TLSCertNotAfter }),
	certificate(Route, func(v *server.Varz) time.Time { return v.Cluster.TLSCertNotAfter }),
	certificate(WebSocket, func(v *server.Varz) time.Time { return v.Websocket.TLSCertNotAfter }),
}

func certificate(kind Kind, expiry func(*server.Varz) time.Time) metric[*server.Varz] {
	return gauge("nats_server_tls_cert_not_after_timestamp_seconds", "When the certificate of the listener for connections of this kind expires.",
		func(v *server.Varz) float64 { return timestamp(expiry(v)) }).with("kind", string(kind))
}

// timestamp is seconds since 1970, and absent if t is none.
func timestamp(t time.Time) float64 {
	if t.IsZero() || t.Unix() <= 0 {
		return absent
	}
	return float64(t.UnixNano()) / 1e9
}

// limit is n, and absent where n says that there is none: servers write 0 or -1 for that, and some of them as unsigned.
func limit[N int64 | uint64](n N) float64 {
	if n == 0 || uint64(n) > math.MaxInt64 {
		return absent
	}
	return float64(n)
}

// positive is x if it is above 0, and absent otherwise.
func positive(x float64) float64 {
	if x > 0 {
		return x
	}
	return absent
}
