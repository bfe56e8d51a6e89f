package natsmon

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// jetStreamLabels are those of all that is said of JetStream on a server.
func (c *compat) jetStreamLabels(s *Server) labels {
	l := labels{}.with("server_id", c.serverID(s)).with("server_name", s.Name).with("domain", s.JetStream.Config.Domain)
	if m := s.JetStream.Meta; m != nil {
		return l.with("cluster", m.Name).with("meta_leader", m.Leader).with("is_meta_leader", strconv.FormatBool(m.Leader == s.Name))
	}
	return l.with("is_meta_leader", "true")
}

func (c *compat) addJetStream(b *builder, s *Server) {
	if s.JetStream == nil {
		return
	}
	l := c.jetStreamLabels(s)
	recordOld(b, c.jetStream, oldServer, l, s.JetStream)
	for _, a := range s.JetStream.AccountDetails {
		recordOld(b, c.jetStream, oldAccount, accountLabels(l, a.Name, a.Id), a)
	}
}

func accountLabels(l labels, name, id string) labels {
	return l.with("account", name).with("account_id", id).with("account_name", name)
}

var oldServer = []old[*server.JSInfo]{
	{"server_jetstream_disabled", "1 - nats_jetstream_enabled", func(j *server.JSInfo) float64 { return truth(j.Disabled) }},
	{"server_total_streams", "nats_jetstream_streams", func(j *server.JSInfo) float64 { return float64(j.Streams) }},
	{"server_total_consumers", "nats_jetstream_consumers", func(j *server.JSInfo) float64 { return float64(j.Consumers) }},
	{"server_total_messages", "nats_jetstream_messages", func(j *server.JSInfo) float64 { return float64(j.Messages) }},
	{"server_total_message_bytes", "nats_jetstream_message_bytes", func(j *server.JSInfo) float64 { return float64(j.Bytes) }},
	{"server_max_memory", "nats_jetstream_memory_limit_bytes", func(j *server.JSInfo) float64 { return float64(j.Config.MaxMemory) }},
	{"server_max_storage", "nats_jetstream_storage_limit_bytes", func(j *server.JSInfo) float64 { return float64(j.Config.MaxStore) }},
}

// oldAccount has -1 for no limit, as the limits of streams have.
var oldAccount = []old[*server.AccountDetail]{
	{"account_max_memory", "nats_account_jetstream_memory_limit_bytes", func(a *server.AccountDetail) float64 { return float64(int64(a.ReservedMemory)) }},
	{"account_max_storage", "nats_account_jetstream_storage_limit_bytes", func(a *server.AccountDetail) float64 { return float64(int64(a.ReservedStore)) }},
	{"account_memory_used", "nats_account_jetstream_memory_used_bytes", func(a *server.AccountDetail) float64 { return float64(a.Memory) }},
	{"account_storage_used", "nats_account_jetstream_storage_used_bytes", func(a *server.AccountDetail) float64 { return float64(a.Store) }},
}

// addStream adds a stream, of its leader, and its consumers, ephemeral ones too, each of its leader.
func (c *compat) addStream(b *builder, st *stream) {
	if d := st.detail; d != nil {
		l := c.streamLabels(st.by)
		recordOld(b, c.jetStream, oldStream, l, d)
		if d.Config != nil {
			recordOld(b, c.jetStream, oldStreamLimits, l, d.Config)
		}
		known := map[string]bool{} // one stream can be a source twice, which these labels do not tell
		for _, source := range d.Sources {
			of := externalLabels(l, "source", source)
			if key := of.String(); !known[key] {
				known[key] = true
				recordOld(b, c.jetStream, oldSource, of, source)
			}
		}
		if d.Mirror != nil {
			recordOld(b, c.jetStream, oldMirror, externalLabels(l, "mirror", d.Mirror), d.Mirror)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(st.consumers)) {
		if o := st.consumers[name]; o.detail != nil {
			recordOld(b, c.jetStream, oldConsumer, c.consumerLabels(o), o.detail)
		}
	}
}

// streamLabels are those of a stream as a server sees it, which may follow.
func (c *compat) streamLabels(by sight) labels {
	l := accountLabels(c.jetStreamLabels(by.server), by.account.Name, by.account.Id)
	leader, leads := leaderLabels(by.stream.Cluster, by.server)
	return l.with("stream_name", by.stream.Name).with("stream_raft_group", by.stream.RaftGroup).
		with("stream_leader", leader).with("is_stream_leader", leads)
}

func (c *compat) consumerLabels(o *led[server.ConsumerInfo]) labels {
	leader, leads := leaderLabels(o.detail.Cluster, o.by.server)
	l := c.streamLabels(o.by).with("consumer_name", o.detail.Name).with("consumer_leader", leader).with("is_consumer_leader", leads)
	if o.detail.Config != nil {
		l = l.with("consumer_desc", o.detail.Config.Description)
	}
	return l
}

func leaderLabels(c *server.ClusterInfo, s *Server) (leader, leads string) {
	if c == nil {
		return "", "true"
	}
	return c.Leader, strconv.FormatBool(c.Leader == s.Name)
}

func externalLabels(l labels, kind string, s *server.StreamSourceInfo) labels {
	l = l.with(kind+"_name", s.Name)
	if s.External != nil {
		l = l.with(kind+"_api", s.External.ApiPrefix).with(kind+"_deliver", s.External.DeliverPrefix)
	}
	return l
}

var oldStream = []old[*server.StreamDetail]{
	{"stream_total_messages", "nats_stream_messages", func(d *server.StreamDetail) float64 { return float64(d.State.Msgs) }},
	{"stream_total_bytes", "nats_stream_bytes", func(d *server.StreamDetail) float64 { return float64(d.State.Bytes) }},
	{"stream_first_seq", "nats_stream_first_sequence", func(d *server.StreamDetail) float64 { return float64(d.State.FirstSeq) }},
	{"stream_last_seq", "nats_stream_last_sequence", func(d *server.StreamDetail) float64 { return float64(d.State.LastSeq) }},
	{"stream_consumer_count", "nats_stream_consumers", func(d *server.StreamDetail) float64 { return float64(d.State.Consumers) }},
	{"stream_subject_count", "nats_stream_subjects", func(d *server.StreamDetail) float64 { return float64(d.State.NumSubjects) }},
}

var oldStreamLimits = []old[*server.StreamConfig]{
	{"stream_limit_bytes", "nats_stream_storage_limit_bytes", func(s *server.StreamConfig) float64 { return float64(s.MaxBytes) }},
	{"stream_limit_messages", "nats_stream_messages_limit", func(s *server.StreamConfig) float64 { return float64(s.MaxMsgs) }},
}

var oldSource = []old[*server.StreamSourceInfo]{
	{"stream_source_lag", "nats_stream_source_lag_messages", func(s *server.StreamSourceInfo) float64 { return float64(s.Lag) }},
	{"stream_source_active_duration_ns", "nats_stream_source_last_seen_seconds * 1e9", func(s *server.StreamSourceInfo) float64 { return float64(s.Active) }},
}

var oldMirror = []old[*server.StreamSourceInfo]{
	{"stream_mirror_lag", "nats_stream_mirror_lag_messages", func(s *server.StreamSourceInfo) float64 { return float64(s.Lag) }},
	{"stream_mirror_active_duration_ns", "nats_stream_mirror_last_seen_seconds * 1e9", func(s *server.StreamSourceInfo) float64 { return float64(s.Active) }},
}

var oldConsumer = []old[*server.ConsumerInfo]{
	{"consumer_delivered_consumer_seq", "nats_consumer_delivered_sequence", func(c *server.ConsumerInfo) float64 { return float64(c.Delivered.Consumer) }},
	{"consumer_delivered_stream_seq", "nats_consumer_delivered_stream_sequence", func(c *server.ConsumerInfo) float64 { return float64(c.Delivered.Stream) }},
	{"consumer_last_delivery_seconds", "time() - nats_consumer_last_delivery_timestamp_seconds",
		func(c *server.ConsumerInfo) float64 { return ago(c, c.Delivered.Last) }},
	{"consumer_last_ack_seconds", "time() - nats_consumer_last_ack_timestamp_seconds",
		func(c *server.ConsumerInfo) float64 { return ago(c, c.AckFloor.Last) }},
	{"consumer_num_ack_pending", "nats_consumer_ack_pending", func(c *server.ConsumerInfo) float64 { return float64(c.NumAckPending) }},
	{"consumer_num_redelivered", "nats_consumer_redelivered", func(c *server.ConsumerInfo) float64 { return float64(c.NumRedelivered) }},
	{"consumer_num_waiting", "nats_consumer_waiting", func(c *server.ConsumerInfo) float64 { return float64(c.NumWaiting) }},
	{"consumer_num_pending", "nats_consumer_pending", func(c *server.ConsumerInfo) float64 { return float64(c.NumPending) }},
	{"consumer_ack_floor_stream_seq", "nats_consumer_ack_floor_stream_sequence", func(c *server.ConsumerInfo) float64 { return float64(c.AckFloor.Stream) }},
	{"consumer_ack_floor_consumer_seq", "nats_consumer_ack_floor_sequence", func(c *server.ConsumerInfo) float64 { return float64(c.AckFloor.Consumer) }},
}

// ago is how long before the answer something was, in seconds.
func ago(c *server.ConsumerInfo, last *time.Time) float64 {
	if last == nil {
		return absent
	}
	return c.TimeStamp.Sub(*last).Seconds()
}
