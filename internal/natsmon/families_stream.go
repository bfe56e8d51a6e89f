package natsmon

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// streamKey is what a stream is called wherever its leader is. Server is empty in a cluster, and cluster elsewhere. Without a
// name it is an account.
type streamKey struct{ cluster, server, account, name string }

func (k streamKey) compare(o streamKey) int {
	return cmp.Or(cmp.Compare(k.cluster, o.cluster), cmp.Compare(k.server, o.server),
		cmp.Compare(k.account, o.account), cmp.Compare(k.name, o.name))
}

// streamKeyOf is the key of a stream that a server has.
func streamKeyOf(s *Server, account, name string) streamKey {
	if s.Cluster != "" {
		return streamKey{cluster: s.Cluster, account: account, name: name}
	}
	return streamKey{server: s.label(), account: account, name: name}
}

// labels of the stream and of what belongs to it. They stay the same when another server leads.
func (k streamKey) labels() labels {
	return labels{}.with("cluster", k.cluster).with("server", k.server).with("account", k.account).with("stream", k.name)
}

// stream is what all servers say of a stream. Those that only follow do not know how it is: of a consumer's lag they may say
// 0 while it grows.
type stream struct {
	led[server.StreamDetail]
	consumers map[string]*led[server.ConsumerInfo]
}

// led is what the leader of a stream or consumer says of it. While leaders change two servers can believe to lead; the one
// that has led for a shorter time is right.
type led[T any] struct {
	detail *T
	by     sight
	since  time.Time
	told   []string // who leads, as each server that does not says; "" where it knows of nobody
}

// sight is where something was seen: the stream of an account, as one server has it.
type sight struct {
	server  *Server
	account *server.AccountDetail
	stream  *server.StreamDetail
}

// offer takes what a server says, if it leads, and for a shorter time than the leader before.
func (l *led[T]) offer(detail *T, c *server.ClusterInfo, by sight) {
	var since time.Time
	switch {
	case c == nil: // alone
	case c.Leader != by.server.Name:
		l.told = append(l.told, c.Leader)
		return
	case isElect(c):
		l.told = append(l.told, "")
		return
	case c.LeaderSince != nil:
		since = *c.LeaderSince
	}
	if l.detail == nil || since.After(l.since) {
		l.detail, l.by, l.since = detail, by, since
	}
}

// addStream takes what one server says of a stream, with its consumers. A consumer can have another leader than its stream.
func (b *builder) addStream(account string, by sight) {
	d := by.stream
	key := streamKeyOf(by.server, account, d.Name)
	st := b.streams[key]
	if st == nil {
		st = &stream{consumers: map[string]*led[server.ConsumerInfo]{}}
		b.streams[key] = st
	}
	st.offer(d, d.Cluster, by)
	for _, c := range d.Consumer {
		l := st.consumers[c.Name]
		if l == nil {
			l = &led[server.ConsumerInfo]{}
			st.consumers[c.Name] = l
		}
		if isSettling(c) {
			l.told = append(l.told, "")
			continue
		}
		l.offer(c, c.Cluster, by)
	}
}

// isElect reports whether the server that is the leader has not begun to lead: it has still to apply what the one before left.
// Servers that do not say since when they lead do not say the account of the traffic either.
func isElect(c *server.ClusterInfo) bool {
	return c.LeaderSince == nil && (c.SystemAcc || c.TrafficAcc != "")
}

// settling is how long the new leader of a consumer is not believed. When it is elected it has still to count what is pending,
// which it says is 0 until then. That takes it milliseconds.
const settling = time.Second

// isSettling reports whether the server that says this leads the consumer, but only just.
func isSettling(c *server.ConsumerInfo) bool {
	return c.Cluster != nil && c.Cluster.LeaderSince != nil && !c.TimeStamp.IsZero() && c.TimeStamp.Sub(*c.Cluster.LeaderSince) < settling
}

// addStreams adds what leaders say of streams and consumers.
func (b *builder) addStreams() {
	for _, key := range slices.SortedFunc(maps.Keys(b.streams), streamKey.compare) {
		st, name := b.streams[key], key.labels()
		if st.detail != nil {
			b.addLedStream(st.detail, name)
		}
		b.addConsumers(st, key, name)
		if b.compat != nil {
			b.compat.addStream(b, st)
		}
	}
}

func (b *builder) addLedStream(d *server.StreamDetail, name labels) {
	record(b, streamTable, name, d)
	if c := d.Config; c != nil {
		record(b, streamLimitsTable, name, c)
		info := name.with("discard", strings.TrimPrefix(strings.ToLower(c.Discard.String()), "discard")).
			with("retention", strings.ToLower(c.Retention.String())).with("storage", strings.ToLower(c.Storage.String()))
		if d.Cluster != nil {
			info = info.with("leader", d.Cluster.Leader).with("raft_group", d.RaftGroup)
		}
		record(b, streamInfoTable, info, c)
	}
	if d.Cluster != nil {
		addReplicas(b, streamReplicaTable, name, d.Cluster.Replicas)
	}
	if d.Mirror != nil {
		record(b, mirrorTable, sourceLabels(name, d.Mirror), d.Mirror)
	}
	known := map[string]bool{}
	for _, source := range d.Sources {
		l := sourceLabels(name, source)
		if key := l.String(); !known[key] {
			known[key] = true
			record(b, sourceTable, l, source)
		}
	}
}

// unwritable are the streams, by ID of the account and name, that the server says it could not write to. It is nil if the
// server did not say.
func unwritable(h *server.HealthStatus) map[[2]string]bool {
	if h == nil || !detailed(h) {
		return nil
	}
	streams := map[[2]string]bool{}
	for i := range h.Errors {
		if e := &h.Errors[i]; e.Type == server.HealthzErrorStream && strings.Contains(e.Error, "write error") {
			streams[[2]string{e.Account, e.Stream}] = true
		}
	}
	return streams
}

var copyTable = []metric[bool]{
	gauge("nats_stream_write_error", "Whether the server could not write to its copy of the stream, and takes nothing more into it.", truth),
}

var streamInfoTable = []metric[*server.StreamConfig]{
	gauge("nats_stream_info", "Always 1; the labels say how the stream is kept, and who leads it.", one[*server.StreamConfig]),
}

// streamTable is what the leader of a stream says of it.
var streamTable = []metric[*server.StreamDetail]{
	gauge("nats_stream_messages", "Messages in the stream.",
		func(d *server.StreamDetail) float64 { return float64(d.State.Msgs) }),
	gauge("nats_stream_bytes", "Bytes of the messages in the stream, before compression.",
		func(d *server.StreamDetail) float64 { return float64(d.State.Bytes) }),
	gauge("nats_stream_first_sequence", "Number of the first message.",
		func(d *server.StreamDetail) float64 { return float64(d.State.FirstSeq) }),
	gauge("nats_stream_last_sequence", "Number of the last message.",
		func(d *server.StreamDetail) float64 { return float64(d.State.LastSeq) }),
	gauge("nats_stream_first_timestamp_seconds", "When the first message was stored.",
		func(d *server.StreamDetail) float64 { return timestamp(d.State.FirstTime) }),
	gauge("nats_stream_last_timestamp_seconds", "When the last message was stored.",
		func(d *server.StreamDetail) float64 { return timestamp(d.State.LastTime) }),
	gauge("nats_stream_created_timestamp_seconds", "When the stream was made.",
		func(d *server.StreamDetail) float64 { return timestamp(d.Created) }),
	gauge("nats_stream_deleted", "Messages that were deleted between the first and the last.",
		func(d *server.StreamDetail) float64 { return float64(d.State.NumDeleted) }),
	gauge("nats_stream_lost", "Messages that were found damaged and are lost.",
		func(d *server.StreamDetail) float64 {
			if d.State.Lost == nil {
				return 0
			}
			return float64(len(d.State.Lost.Msgs))
		}),
	gauge("nats_stream_subjects", "Subjects of the messages in the stream.",
		func(d *server.StreamDetail) float64 { return float64(d.State.NumSubjects) }),
	gauge("nats_stream_direct_consumers", "Consumers by which other streams mirror or source this one.",
		func(d *server.StreamDetail) float64 { return float64(len(d.DirectConsumer)) }),
	gauge("nats_stream_direct_pending", "Messages that other streams which mirror or source this one were not sent yet, all together.",
		func(d *server.StreamDetail) float64 {
			n := 0.0
			for _, c := range d.DirectConsumer {
				if c != nil {
					n += float64(c.NumPending)
				}
			}
			return n
		}),
}

var streamLimitsTable = []metric[*server.StreamConfig]{
	gauge("nats_stream_messages_limit", "Most messages that the stream may hold; absent if there is no limit.",
		func(c *server.StreamConfig) float64 { return limit(c.MaxMsgs) }),
	gauge("nats_stream_storage_limit_bytes", "Most bytes that the stream may hold; absent if there is no limit.",
		func(c *server.StreamConfig) float64 { return limit(c.MaxBytes) }),
	gauge("nats_stream_age_limit_seconds", "How long messages are kept; absent if there is no limit.",
		func(c *server.StreamConfig) float64 { return positive(c.MaxAge.Seconds()) }),
	gauge("nats_stream_consumers_limit", "Most consumers that the stream may have; absent if the stream has no limit of its own.",
		func(c *server.StreamConfig) float64 { return limit(int64(c.MaxConsumers)) }),
	gauge("nats_stream_replicas", "Servers that should have a copy.",
		func(c *server.StreamConfig) float64 { return float64(max(1, c.Replicas)) }),
}

var (
	sourceTable = sourceMetrics("nats_stream_source", "source")
	mirrorTable = sourceMetrics("nats_stream_mirror", "mirrored stream")
)

// sourceMetrics are what a stream says of one that it reads. A dead one may well have no lag: when it was heard of tells.
func sourceMetrics(prefix, what string) []metric[*server.StreamSourceInfo] {
	return []metric[*server.StreamSourceInfo]{
		gauge(prefix+"_lag_messages", "Messages that the stream is behind the "+what+", as far as it knows.",
			func(s *server.StreamSourceInfo) float64 { return float64(s.Lag) }),
		gauge(prefix+"_last_seen_seconds", "How long ago the "+what+" was heard of; absent if it never was.",
			func(s *server.StreamSourceInfo) float64 { return seconds(s.Active) }),
		gauge(prefix+"_seen", "Whether the "+what+" was ever heard of since this server leads the stream.",
			func(s *server.StreamSourceInfo) float64 { return truth(s.Active >= 0) }),
		gauge(prefix+"_error", "Whether the last attempt to read the "+what+" was refused.",
			func(s *server.StreamSourceInfo) float64 { return truth(s.Error != nil) }),
	}
}

// sourceLabels say which stream it is that is read. One stream can be read several times, with other filters.
func sourceLabels(stream labels, s *server.StreamSourceInfo) labels {
	filter := s.FilterSubject
	if filter == "" {
		var all []string
		for _, t := range s.SubjectTransforms {
			all = append(all, t.Source)
		}
		filter = strings.Join(all, ",")
	}
	if s.External != nil {
		stream = stream.with("external", s.External.ApiPrefix)
	}
	return stream.with("filter", filter).with("source", s.Name)
}
