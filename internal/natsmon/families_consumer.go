package natsmon

import (
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// consumers sums up those of a stream: how many there are, and of the ephemeral ones, which go away by themselves, how they
// are. These come and go with clients, and each would be series that nobody ever looks at.
type consumers struct {
	all, ephemeral, pending, ackPending, redelivered, waiting float64
}

func (e *consumers) addEphemeral(c *server.ConsumerInfo) {
	e.ephemeral++
	e.pending += float64(c.NumPending)
	e.ackPending += float64(c.NumAckPending)
	e.redelivered += float64(c.NumRedelivered)
	e.waiting += float64(c.NumWaiting)
}

// isEphemeral reports whether the consumer goes away by itself. Without a configuration nobody knows.
func isEphemeral(c *server.ConsumerInfo) bool { return c.Config != nil && c.Config.Durable == "" }

// addConsumers adds the consumers of a stream that the servers lead, also if they do not lead the stream.
func (b *builder) addConsumers(st *stream, key streamKey, name labels) {
	var sum consumers
	whole := true
	for _, consumer := range slices.Sorted(maps.Keys(st.consumers)) {
		c := st.consumers[consumer].detail
		if c == nil {
			whole = whole && !b.unled(key, st.consumers[consumer].told)
			continue
		}
		sum.all++
		if isEphemeral(c) {
			sum.addEphemeral(c)
			continue
		}
		l := name.with("consumer", c.Name)
		record(b, consumerTable, l, c)
		if c.Config != nil {
			record(b, consumerInfoTable, consumerInfo(l, c), c)
		}
	}
	if whole && (st.detail != nil || sum.all > 0) {
		record(b, consumersTable, name, sum)
	}
}

// unled reports whether something of a cluster, which no server says it leads, is to be missed: nobody is known to lead it, or
// a server that is read here. Else it is led by one that is not.
func (b *builder) unled(key streamKey, told []string) bool {
	return slices.ContainsFunc(told, func(leader string) bool {
		return leader == "" || b.servers[[2]string{key.cluster, leader}]
	})
}

func consumerInfo(l labels, c *server.ConsumerInfo) labels {
	kind := "pull"
	if c.Config.DeliverSubject != "" {
		kind = "push"
	}
	if c.Cluster != nil {
		l = l.with("leader", c.Cluster.Leader)
	}
	return l.with("ack_policy", strings.ToLower(strings.TrimPrefix(c.Config.AckPolicy.String(), "Ack"))).with("kind", kind)
}

var consumerInfoTable = []metric[*server.ConsumerInfo]{
	gauge("nats_consumer_info", "Always 1; the labels say what kind of consumer it is, and who leads it.", one[*server.ConsumerInfo]),
}

// consumerTable is what the leader of a consumer says of it.
var consumerTable = []metric[*server.ConsumerInfo]{
	gauge("nats_consumer_pending", "Messages of the stream that have not been delivered yet.",
		func(c *server.ConsumerInfo) float64 { return float64(c.NumPending) }),
	gauge("nats_consumer_ack_pending", "Messages that were delivered and not acknowledged.",
		func(c *server.ConsumerInfo) float64 { return float64(c.NumAckPending) }),
	gauge("nats_consumer_ack_pending_limit", "Most messages that may be delivered and not acknowledged; absent if there is no limit.",
		func(c *server.ConsumerInfo) float64 {
			return ofConsumer(c, func(o *server.ConsumerConfig) float64 { return limit(int64(o.MaxAckPending)) })
		}),
	gauge("nats_consumer_redelivered", "Messages that were delivered more than once and not acknowledged.",
		func(c *server.ConsumerInfo) float64 { return float64(c.NumRedelivered) }),
	gauge("nats_consumer_waiting", "Requests of clients that wait for messages.",
		func(c *server.ConsumerInfo) float64 { return float64(c.NumWaiting) }),
	gauge("nats_consumer_delivered_sequence", "Number of the last delivery, each delivery being one.",
		func(c *server.ConsumerInfo) float64 { return float64(c.Delivered.Consumer) }),
	gauge("nats_consumer_delivered_stream_sequence", "Number in the stream of the last message that was delivered.",
		func(c *server.ConsumerInfo) float64 { return float64(c.Delivered.Stream) }),
	gauge("nats_consumer_ack_floor_sequence", "Number of the last delivery before which all are acknowledged.",
		func(c *server.ConsumerInfo) float64 { return float64(c.AckFloor.Consumer) }),
	gauge("nats_consumer_ack_floor_stream_sequence", "Number in the stream of the last message before which all are acknowledged.",
		func(c *server.ConsumerInfo) float64 { return float64(c.AckFloor.Stream) }),
	gauge("nats_consumer_last_delivery_timestamp_seconds", "When a message was delivered last; absent if none was since the leader leads.",
		func(c *server.ConsumerInfo) float64 { return lastOf(c.Delivered) }),
	gauge("nats_consumer_last_ack_timestamp_seconds", "When a message was acknowledged last; absent if none was since the leader leads.",
		func(c *server.ConsumerInfo) float64 { return lastOf(c.AckFloor) }),
	gauge("nats_consumer_paused", "Whether the consumer is paused.",
		func(c *server.ConsumerInfo) float64 { return truth(c.Paused) }),
	gauge("nats_consumer_pinned", "Whether a client is pinned; absent if the consumer pins none.",
		func(c *server.ConsumerInfo) float64 {
			if c.Config == nil || c.Config.PriorityPolicy != server.PriorityPinnedClient {
				return absent
			}
			return truth(slices.ContainsFunc(c.PriorityGroups, func(g server.PriorityGroupState) bool { return g.PinnedClientID != "" }))
		}),
	gauge("nats_consumer_push_bound", "Whether somebody is subscribed to what is pushed; absent if the consumer does not push.",
		func(c *server.ConsumerInfo) float64 {
			if c.Config == nil || c.Config.DeliverSubject == "" {
				return absent
			}
			return truth(c.PushBound)
		}),
}

func ofConsumer(c *server.ConsumerInfo, field func(*server.ConsumerConfig) float64) float64 {
	if c.Config == nil {
		return absent
	}
	return field(c.Config)
}

func lastOf(s server.SequenceInfo) float64 {
	if s.Last == nil {
		return absent
	}
	return timestamp(*s.Last)
}

var consumersTable = []metric[consumers]{
	gauge("nats_stream_consumers", "Consumers of the stream that the servers read here lead: all of them, if all servers are read. Absent while one has no leader.",
		func(c consumers) float64 { return c.all }),
	gauge("nats_stream_ephemeral_consumers", "Consumers without a durable name, which have no series of their own.",
		func(c consumers) float64 { return c.ephemeral }),
	gauge("nats_stream_ephemeral_pending", "Messages that were not delivered yet to ephemeral consumers, all together.",
		func(c consumers) float64 { return c.pending }),
	gauge("nats_stream_ephemeral_ack_pending", "Messages that were delivered to ephemeral consumers and not acknowledged.",
		func(c consumers) float64 { return c.ackPending }),
	gauge("nats_stream_ephemeral_redelivered", "Messages that were delivered to ephemeral consumers more than once and not acknowledged.",
		func(c consumers) float64 { return c.redelivered }),
	gauge("nats_stream_ephemeral_waiting", "Requests to ephemeral consumers that wait for messages.",
		func(c consumers) float64 { return c.waiting }),
}
