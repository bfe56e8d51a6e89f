package natsmon

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// oldConnz are of all connections, not of the first 1,024.
var oldConnz = []old[*Connections]{
	{"connz_num_connections", `sum without (kind) (nats_server_connections{kind=~"client|websocket|mqtt|inprocess"})`,
		func(c *Connections) float64 { return float64(c.Total) }},
	{"connz_total", `sum without (kind) (nats_server_connections{kind=~"client|websocket|mqtt|inprocess"})`,
		func(c *Connections) float64 { return float64(c.Total) }},
	{"connz_offset", "", func(*Connections) float64 { return 0 }},
	{"connz_limit", "", func(c *Connections) float64 { return float64(c.Total) }},
	{"connz_pending_bytes", "nats_server_pending_bytes", func(c *Connections) float64 { return float64(c.PendingBytes) }},
	{"connz_subscriptions", "nats_server_subscriptions", func(c *Connections) float64 { return float64(c.Subscriptions) }},
	{"connz_in_bytes", `nats_server_client_payload_bytes_total{direction="received"}`, func(c *Connections) float64 { return float64(c.InBytes) }},
	{"connz_in_msgs", `nats_server_client_messages_total{direction="received"}`, func(c *Connections) float64 { return float64(c.InMessages) }},
	{"connz_out_bytes", `nats_server_client_payload_bytes_total{direction="sent"}`, func(c *Connections) float64 { return float64(c.OutBytes) }},
	{"connz_out_msgs", `nats_server_client_messages_total{direction="sent"}`, func(c *Connections) float64 { return float64(c.OutMessages) }},
}

var oldSubsz = []old[*server.Subsz]{
	{"subsz_num_subscriptions", "nats_server_subscriptions", func(s *server.Subsz) float64 { return float64(s.NumSubs) }},
	{"subsz_num_cache", "nats_server_subscription_cache_entries", func(s *server.Subsz) float64 { return float64(s.NumCache) }},
	{"subsz_num_inserts", "", func(s *server.Subsz) float64 { return float64(s.NumInserts) }},
	{"subsz_num_removes", "", func(s *server.Subsz) float64 { return float64(s.NumRemoves) }},
	{"subsz_num_matches", "", func(s *server.Subsz) float64 { return float64(s.NumMatches) }},
	{"subsz_cache_hit_rate", "nats_server_subscription_cache_hit_ratio", func(s *server.Subsz) float64 { return s.CacheHitRate }},
	{"subsz_max_fanout", "nats_server_subscription_fanout_max", func(s *server.Subsz) float64 { return float64(s.MaxFanout) }},
	{"subsz_avg_fanout", "nats_server_subscription_fanout_mean", func(s *server.Subsz) float64 { return s.AvgFanout }},
	{"subsz_total", "nats_server_subscriptions", func(s *server.Subsz) float64 { return float64(s.Total) }},
	{"subsz_offset", "", func(s *server.Subsz) float64 { return float64(s.Offset) }},
	{"subsz_limit", "", func(s *server.Subsz) float64 { return float64(s.Limit) }},
}

func (c *compat) addAccounts(b *builder, s *Server, id labels) {
	if s.Accounts != nil {
		for _, a := range s.Accounts.Accounts {
			recordOld(b, c.core, oldAccstatz, id.with("account", a.Account).with("account_id", a.Account).with("account_name", a.Name), a)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.AccountLimits)) {
		if a := s.AccountLimits[name]; a != nil {
			account := id.with("account_id", a.AccountName).with("account_name", cmp.Or(a.NameTag, a.AccountName))
			recordOld(b, c.core, oldAccountz, account, a)
		}
	}
}

var oldAccstatz = []old[*server.AccountStat]{
	{"accstatz_current_connections", "nats_account_connections", func(a *server.AccountStat) float64 { return float64(a.Conns) }},
	{"accstatz_total_connections", "nats_account_connections + nats_account_leafs", func(a *server.AccountStat) float64 { return float64(a.TotalConns) }},
	{"accstatz_subscriptions", "nats_account_subscriptions", func(a *server.AccountStat) float64 { return float64(a.NumSubs) }},
	{"accstatz_leaf_nodes", "nats_account_leafs", func(a *server.AccountStat) float64 { return float64(a.LeafNodes) }},
	{"accstatz_sent_messages", `nats_account_messages_total{direction="sent"}`, func(a *server.AccountStat) float64 { return float64(a.Sent.Msgs) }},
	{"accstatz_sent_bytes", `nats_account_payload_bytes_total{direction="sent"}`, func(a *server.AccountStat) float64 { return float64(a.Sent.Bytes) }},
	{"accstatz_received_messages", `nats_account_messages_total{direction="received"}`, func(a *server.AccountStat) float64 { return float64(a.Received.Msgs) }},
	{"accstatz_received_bytes", `nats_account_payload_bytes_total{direction="received"}`, func(a *server.AccountStat) float64 { return float64(a.Received.Bytes) }},
	{"accstatz_slow_consumers", "nats_account_slow_consumers_total", func(a *server.AccountStat) float64 { return float64(a.SlowConsumers) }},
}

var oldAccountz = []old[*server.AccountInfo]{
	{"accountz_client_connections", "nats_account_connections", func(a *server.AccountInfo) float64 { return float64(a.ClientCnt) }},
	{"accountz_leafnode_connections", "nats_account_leafs", func(a *server.AccountInfo) float64 { return float64(a.LeafCnt) }},
	{"accountz_subscriptions", "nats_account_subscriptions", func(a *server.AccountInfo) float64 { return float64(a.SubCnt) }},
	{"accountz_is_system", "", func(a *server.AccountInfo) float64 { return truth(a.IsSystem) }},
	{"accountz_expired", "", func(a *server.AccountInfo) float64 { return truth(a.Expired) }},
	{"accountz_complete", "", func(a *server.AccountInfo) float64 { return truth(a.Complete) }},
	{"accountz_jetstream_enabled", "", func(a *server.AccountInfo) float64 { return truth(a.JetStream) }},
	{"accountz_limit_subs", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Subs })
	}},
	{"accountz_limit_data", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Data })
	}},
	{"accountz_limit_payload", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Payload })
	}},
	{"accountz_limit_imports", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Imports })
	}},
	{"accountz_limit_exports", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Exports })
	}},
	{"accountz_limit_conn", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.Conn })
	}},
	{"accountz_limit_leaf", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return l.LeafNodeConn })
	}},
	{"accountz_limit_wildcards", "", func(a *server.AccountInfo) float64 {
		return claimed(a, func(l jwt.OperatorLimits) int64 { return int64(truth(l.WildcardExports)) })
	}},
}

// claimed is a limit that stands in the account's JWT, if it has one.
func claimed(a *server.AccountInfo, limit func(jwt.OperatorLimits) int64) float64 {
	if a.Claim == nil {
		return absent
	}
	return float64(limit(a.Claim.Limits))
}

func (c *compat) addPeers(b *builder, s *Server, id labels) {
	if s.Leafs != nil {
		b.sampleOld(c.core+"_leafz_conn_nodes_total", `nats_server_connections{kind="leaf"}`, id, float64(s.Leafs.NumLeafs))
		for _, l := range s.Leafs.Leafs {
			recordOld(b, c.core, oldLeafz, id.with("account", l.Account).with("account_id", l.Account).
				with("ip", l.IP).with("name", l.Name).with("port", strconv.Itoa(l.Port)), l)
		}
	}
	if g := s.Gateways; g != nil {
		add := func(t []old[gatewayConn], remote string, r *server.RemoteGatewayz) {
			if r.Connection != nil {
				l := id.with("cid", strconv.FormatUint(r.Connection.Cid, 10)).with("gateway_name", g.Name).with("remote_gateway_name", remote)
				recordOld(b, c.core, t, l, gatewayConn{r.Connection, r.IsConfigured, g.Now})
			}
		}
		for _, remote := range slices.Sorted(maps.Keys(g.OutboundGateways)) {
			add(oldOutbound, remote, g.OutboundGateways[remote])
		}
		for _, remote := range slices.Sorted(maps.Keys(g.InboundGateways)) {
			for _, r := range g.InboundGateways[remote] {
				add(oldInbound, remote, r)
			}
		}
	}
}

var oldLeafz = []old[*server.LeafInfo]{
	{"leafz_info", "nats_leaf_info", one[*server.LeafInfo]},
	{"leafz_conn_rtt", "nats_leaf_rtt_seconds", func(l *server.LeafInfo) float64 { return rtt(l.RTT) }},
	{"leafz_conn_in_msgs", `nats_leaf_messages_total{direction="received"}`, func(l *server.LeafInfo) float64 { return float64(l.InMsgs) }},
	{"leafz_conn_out_msgs", `nats_leaf_messages_total{direction="sent"}`, func(l *server.LeafInfo) float64 { return float64(l.OutMsgs) }},
	{"leafz_conn_in_bytes", `nats_leaf_payload_bytes_total{direction="received"}`, func(l *server.LeafInfo) float64 { return float64(l.InBytes) }},
	{"leafz_conn_out_bytes", `nats_leaf_payload_bytes_total{direction="sent"}`, func(l *server.LeafInfo) float64 { return float64(l.OutBytes) }},
	{"leafz_conn_subscriptions_total", "nats_leaf_subscriptions", func(l *server.LeafInfo) float64 { return float64(l.NumSubs) }},
}

// rtt is a round trip in seconds.
func rtt(s string) float64 {
	d, err := time.ParseDuration(s)
	if err != nil {
		return absent
	}
	return d.Seconds()
}

// gatewayConn is a connection of a gateway, and when the server spoke of it.
type gatewayConn struct {
	*server.ConnInfo
	configured bool
	now        time.Time
}

var (
	oldOutbound = oldGateway("outbound")
	oldInbound  = oldGateway("inbound")
)

// oldGateway are the metrics of gateways in one direction. Uptime and idle time are from the timestamps beside them: as
// texts they have units that nothing reads.
func oldGateway(kind string) []old[gatewayConn] {
	name := func(suffix string) string { return "gatewayz_" + kind + "_gateway_" + suffix }
	with := func(metric, more string) string { return metric + `{kind="` + kind + `"` + more + "}" }
	return []old[gatewayConn]{
		{name("configured"), "", func(c gatewayConn) float64 { return truth(c.configured) }},
		{name("conn_start_time_seconds"), "", func(c gatewayConn) float64 { return float64(c.Start.Unix()) }},
		{name("conn_last_activity_seconds"), "", func(c gatewayConn) float64 { return float64(c.LastActivity.Unix()) }},
		{name("conn_uptime_seconds"), "", func(c gatewayConn) float64 { return max(0, c.now.Sub(c.Start).Truncate(time.Second).Seconds()) }},
		{name("conn_idle_seconds"), "", func(c gatewayConn) float64 { return max(0, c.now.Sub(c.LastActivity).Truncate(time.Second).Seconds()) }},
		{name("conn_rtt"), with("nats_gateway_rtt_seconds", ""), func(c gatewayConn) float64 { return rtt(c.RTT) }},
		{name("conn_pending_bytes"), with("nats_gateway_pending_bytes", ""), func(c gatewayConn) float64 { return float64(c.Pending) }},
		{name("conn_in_msgs"), with("nats_gateway_messages_total", `, direction="received"`), func(c gatewayConn) float64 { return float64(c.InMsgs) }},
		{name("conn_out_msgs"), with("nats_gateway_messages_total", `, direction="sent"`), func(c gatewayConn) float64 { return float64(c.OutMsgs) }},
		{name("conn_in_bytes"), with("nats_gateway_payload_bytes_total", `, direction="received"`), func(c gatewayConn) float64 { return float64(c.InBytes) }},
		{name("conn_out_bytes"), with("nats_gateway_payload_bytes_total", `, direction="sent"`), func(c gatewayConn) float64 { return float64(c.OutBytes) }},
		{name("conn_subscriptions"), with("nats_gateway_subscriptions", ""), func(c gatewayConn) float64 { return float64(c.NumSubs) }},
	}
}
