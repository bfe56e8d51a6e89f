package natsmon

import (
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// addVarz adds the numbers of Varz, and the texts that the other exporter has as labels.
func (c *compat) addVarz(b *builder, s *Server, id labels) {
	recordOld(b, c.core, oldVarz, id, s)
	texts := []struct{ name, instead, value string }{
		{"varz_cluster_name", "nats_server_info", s.Varz.Cluster.Name},
		{"varz_gateway_name", "nats_server_info", s.Varz.Gateway.Name},
		{"varz_server_id", "nats_server_info", s.Varz.ID},
		{"varz_server_name", "nats_server_info", s.Varz.Name},
		{"varz_version", "nats_server_version", s.Varz.Version},
	}
	if j := s.Varz.JetStream.Config; j != nil {
		texts = append(texts, struct{ name, instead, value string }{"varz_jetstream_config_domain", "nats_server_info", j.Domain})
	}
	if m := s.Varz.JetStream.Meta; m != nil {
		texts = append(texts,
			struct{ name, instead, value string }{"varz_jetstream_meta_leader", "nats_jetstream_meta_leader", m.Leader},
			struct{ name, instead, value string }{"varz_jetstream_meta_name", "nats_server_info", m.Name})
	}
	for _, t := range texts {
		if t.value != "" {
			b.sampleOld(c.core+"_"+t.name, t.instead, id.with("value", t.value), 1)
		}
	}
	for _, path := range monitoringPaths(s.Varz) {
		if endpoint := strings.TrimPrefix(path, "/"); plainName(endpoint) {
			n := float64(s.Varz.HTTPReqStats[path])
			b.sampleOld(c.core+"_varz_http_req_stats_"+endpoint, "nats_server_monitoring_requests_total", id, n)
		}
	}
}

// milliseconds since 1970, and absent if t is none.
func milliseconds(t time.Time) float64 {
	if t.IsZero() {
		return absent
	}
	return float64(t.UnixMilli())
}

// plainName reports whether s can be part of a name. What a server says may be anything.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < 'a' || r > 'z' })
}

// varz is a number of Varz.
func varz[N int | int32 | int64 | uint32 | uint64 | float64](name, instead string, value func(*server.Varz) N) old[*Server] {
	return old[*Server]{"varz_" + name, instead, func(s *Server) float64 { return float64(value(s.Varz)) }}
}

// varzOf is a number of a part of Varz that may not be there.
func varzOf[P any](prefix string, part func(*server.Varz) *P, fields ...old[*P]) []old[*Server] {
	var list []old[*Server]
	for _, f := range fields {
		list = append(list, old[*Server]{"varz_" + prefix + f.name, f.instead, func(s *Server) float64 {
			if p := part(s.Varz); p != nil {
				return f.value(p)
			}
			return absent
		}})
	}
	return list
}

func field[P any, N int | int64 | uint64](name, instead string, value func(*P) N) old[*P] {
	return old[*P]{name, instead, func(p *P) float64 { return float64(value(p)) }}
}

// oldVarz are the numbers of Varz, each named after its place in the answer, with the unit that it has there.
var oldVarz = slices.Concat([]old[*Server]{
	{"varz_connections", "nats_server_clients", func(s *Server) float64 { return float64(max(0, s.Varz.Connections-s.Own)) }},
	{"varz_total_connections", "nats_server_total_connections",
		func(s *Server) float64 { return float64(s.Varz.TotalConnections) - float64(s.OwnTotal) }},
	{"varz_start", "nats_server_start_timestamp_seconds * 1000", func(s *Server) float64 { return milliseconds(s.Varz.Start) }},
	{"varz_config_load_time", "nats_server_config_load_timestamp_seconds * 1000",
		func(s *Server) float64 { return milliseconds(s.Varz.ConfigLoadTime) }},

	varz("auth_timeout", "", func(v *server.Varz) float64 { return v.AuthTimeout }),
	varz("cores", "nats_server_cpu_cores", func(v *server.Varz) int { return v.Cores }),
	varz("cpu", "nats_server_cpu_ratio * 100", func(v *server.Varz) float64 { return v.CPU }),
	varz("gomaxprocs", "nats_server_gomaxprocs", func(v *server.Varz) int { return v.MaxProcs }),
	varz("http_port", "", func(v *server.Varz) int { return v.HTTPPort }),
	varz("https_port", "", func(v *server.Varz) int { return v.HTTPSPort }),
	varz("in_bytes", "nats_server_total_payload_bytes_received", func(v *server.Varz) int64 { return v.InBytes }),
	varz("in_client_bytes", `nats_server_client_payload_bytes_total{direction="received"}`, func(v *server.Varz) int64 { return v.InClientBytes }),
	varz("in_client_msgs", `nats_server_client_messages_total{direction="received"}`, func(v *server.Varz) int64 { return v.InClientMsgs }),
	varz("in_msgs", "nats_server_total_messages_received", func(v *server.Varz) int64 { return v.InMsgs }),
	varz("leafnodes", `nats_server_connections{kind="leaf"}`, func(v *server.Varz) int { return v.Leafs }),
	varz("max_connections", "nats_server_connections_limit", func(v *server.Varz) int { return v.MaxConn }),
	varz("max_control_line", "", func(v *server.Varz) int32 { return v.MaxControlLine }),
	varz("max_payload", "nats_server_payload_limit_bytes", func(v *server.Varz) int { return v.MaxPayload }),
	varz("max_pending", "nats_server_pending_limit_bytes", func(v *server.Varz) int64 { return v.MaxPending }),
	varz("mem", "nats_server_memory_bytes", func(v *server.Varz) int64 { return v.Mem }),
	varz("out_bytes", "nats_server_total_payload_bytes_sent", func(v *server.Varz) int64 { return v.OutBytes }),
	varz("out_client_bytes", `nats_server_client_payload_bytes_total{direction="sent"}`, func(v *server.Varz) int64 { return v.OutClientBytes }),
	varz("out_client_msgs", `nats_server_client_messages_total{direction="sent"}`, func(v *server.Varz) int64 { return v.OutClientMsgs }),
	varz("out_msgs", "nats_server_total_messages_sent", func(v *server.Varz) int64 { return v.OutMsgs }),
	varz("ping_interval", "", func(v *server.Varz) int64 { return int64(v.PingInterval) }),
	varz("ping_max", "", func(v *server.Varz) int { return v.MaxPingsOut }),
	varz("port", "", func(v *server.Varz) int { return v.Port }),
	varz("proto", "", func(v *server.Varz) int { return v.Proto }),
	varz("remotes", "sum without (peer) (nats_route_up)", func(v *server.Varz) int { return v.Remotes }),
	varz("routes", `nats_server_connections{kind="route"}`, func(v *server.Varz) int { return v.Routes }),
	varz("slow_consumers", "nats_server_slow_consumers", func(v *server.Varz) int64 { return v.SlowConsumers }),
	varz("stale_connections", "sum without (kind) (nats_server_stale_connections_total)", func(v *server.Varz) int64 { return v.StaleConnections }),
	varz("stalled_clients", "nats_server_producer_stalls_total", func(v *server.Varz) int64 { return v.StalledClients }),
	varz("subscriptions", "nats_server_subscriptions", func(v *server.Varz) uint32 { return v.Subscriptions }),
	varz("tls_timeout", "", func(v *server.Varz) float64 { return v.TLSTimeout }),
	{"varz_websocket_port", "", func(s *Server) float64 { return positive(float64(s.Varz.Websocket.Port)) }},
	varz("write_deadline", "", func(v *server.Varz) int64 { return int64(v.WriteDeadline) }),
},
	oldSlow, oldStale, oldDisk, oldJetStreamConfig, oldJetStreamStats, oldMeta,
)

var oldSlow = varzOf("slow_consumer_stats_", func(v *server.Varz) *server.SlowConsumersStats { return v.SlowConsumersStats },
	field("clients", `nats_server_slow_consumers_total{kind="client"}`, func(s *server.SlowConsumersStats) uint64 { return s.Clients }),
	field("gateways", `nats_server_slow_consumers_total{kind="gateway"}`, func(s *server.SlowConsumersStats) uint64 { return s.Gateways }),
	field("leafs", `nats_server_slow_consumers_total{kind="leaf"}`, func(s *server.SlowConsumersStats) uint64 { return s.Leafs }),
	field("routes", `nats_server_slow_consumers_total{kind="route"}`, func(s *server.SlowConsumersStats) uint64 { return s.Routes }),
)

var oldStale = varzOf("stale_connection_stats_", func(v *server.Varz) *server.StaleConnectionStats { return v.StaleConnectionStats },
	field("clients", `nats_server_stale_connections_total{kind="client"}`, func(s *server.StaleConnectionStats) uint64 { return s.Clients }),
	field("gateways", `nats_server_stale_connections_total{kind="gateway"}`, func(s *server.StaleConnectionStats) uint64 { return s.Gateways }),
	field("leafs", `nats_server_stale_connections_total{kind="leaf"}`, func(s *server.StaleConnectionStats) uint64 { return s.Leafs }),
	field("routes", `nats_server_stale_connections_total{kind="route"}`, func(s *server.StaleConnectionStats) uint64 { return s.Routes }),
)

var oldDisk = varzOf("disk_io_wait_stats_", func(v *server.Varz) *server.DiskIOWaitStats { return v.DiskIOWaitStats },
	field("max_wait_time", "nats_server_disk_io_wait_max_seconds * 1e9", func(d *server.DiskIOWaitStats) uint64 { return d.MaxWaitTime }),
	field("wait_time", "nats_server_disk_io_wait_seconds_total * 1e9", func(d *server.DiskIOWaitStats) uint64 { return d.WaitTime }),
	field("waiters", "nats_server_disk_io_waiting", func(d *server.DiskIOWaitStats) int64 { return d.Waiters }),
	field("waits", "nats_server_disk_io_waits_total", func(d *server.DiskIOWaitStats) uint64 { return d.Waits }),
)

var oldJetStreamConfig = slices.Concat(
	[]old[*Server]{{"varz_cluster_pool_size", "", func(s *Server) float64 { return positive(float64(s.Varz.Cluster.PoolSize)) }}},
	varzOf("jetstream_config_", func(v *server.Varz) *server.JetStreamConfig { return v.JetStream.Config },
		field("max_memory", "nats_jetstream_memory_limit_bytes", func(j *server.JetStreamConfig) int64 { return j.MaxMemory }),
		field("max_storage", "nats_jetstream_storage_limit_bytes", func(j *server.JetStreamConfig) int64 { return j.MaxStore }),
		field("sync_interval", "", func(j *server.JetStreamConfig) int64 { return int64(j.SyncInterval) }),
	),
	varzOf("jetstream_limits_", func(v *server.Varz) *server.JSLimitOpts { return v.JetStream.Limits },
		field("default_max_consumers", "", func(l *server.JSLimitOpts) int { return l.DefaultMaxConsumers }),
	),
)

var oldJetStreamStats = varzOf("jetstream_stats_", func(v *server.Varz) *server.JetStreamStats { return v.JetStream.Stats },
	field("accounts", "nats_jetstream_accounts", func(j *server.JetStreamStats) int { return j.Accounts }),
	field("api_errors", "nats_jetstream_api_errors_total", func(j *server.JetStreamStats) uint64 { return j.API.Errors }),
	field("api_level", "nats_jetstream_api_level", func(j *server.JetStreamStats) int { return j.API.Level }),
	field("api_total", "nats_jetstream_api_requests_total", func(j *server.JetStreamStats) uint64 { return j.API.Total }),
	field("ha_assets", "nats_jetstream_ha_assets", func(j *server.JetStreamStats) int { return j.HAAssets }),
	field("memory", "nats_jetstream_memory_used_bytes", func(j *server.JetStreamStats) uint64 { return j.Memory }),
	field("reserved_memory", "nats_jetstream_memory_reserved_bytes", func(j *server.JetStreamStats) int64 { return int64(j.ReservedMemory) }),
	field("reserved_storage", "nats_jetstream_storage_reserved_bytes", func(j *server.JetStreamStats) int64 { return int64(j.ReservedStore) }),
	field("storage", "nats_jetstream_storage_used_bytes", func(j *server.JetStreamStats) uint64 { return j.Store }),
)

var oldMeta = slices.Concat(
	varzOf("jetstream_meta_", func(v *server.Varz) *server.MetaClusterInfo { return v.JetStream.Meta },
		field("cluster_size", "nats_jetstream_meta_cluster_size", func(m *server.MetaClusterInfo) int { return m.Size }),
		field("pending", "nats_jetstream_meta_pending", func(m *server.MetaClusterInfo) int { return m.Pending }),
		field("pending_infos", "", func(m *server.MetaClusterInfo) int { return m.PendingInfos }),
		field("pending_requests", "", func(m *server.MetaClusterInfo) int { return m.PendingRequests }),
		field("quorum_needed", "nats_jetstream_meta_quorum", func(m *server.MetaClusterInfo) int { return m.QuorumNeeded }),
	),
	varzOf("jetstream_meta_snapshot_", func(v *server.Varz) *server.MetaSnapshotStats {
		if v.JetStream.Meta == nil {
			return nil
		}
		return v.JetStream.Meta.Snapshot
	},
		field("pending_entries", "nats_jetstream_meta_snapshot_pending_entries", func(m *server.MetaSnapshotStats) uint64 { return m.PendingEntries }),
		field("pending_size", "nats_jetstream_meta_snapshot_pending_bytes", func(m *server.MetaSnapshotStats) uint64 { return m.PendingSize }),
	),
)
