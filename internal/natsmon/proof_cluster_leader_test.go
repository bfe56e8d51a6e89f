package natsmon

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// seriesOf makes metrics of servers: values by name and labels, such as nats_stream_messages{account="APP",stream="S"}.
func seriesOf(t *testing.T, h *history, servers []*Server) map[string]float64 {
	t.Helper()
	b := newBuilder(true, h, "", "")
	for _, s := range servers {
		if !b.add(s) {
			t.Fatalf("server %s of cluster %s is there twice", s.Name, s.Cluster)
		}
	}
	return valuesOf(b.families())
}

// valuesOf are the values by name and labels, and NaN for a series that is there twice.
func valuesOf(families []*dto.MetricFamily) map[string]float64 {
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName() + seriesLabels(m)
			if _, twice := all[name]; twice {
				all[name] = math.NaN()
				continue
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // of which it has one
		}
	}
	return all
}

func seriesLabels(m *dto.Metric) string {
	var pairs []string
	for _, p := range m.GetLabel() {
		pairs = append(pairs, fmt.Sprintf("%s=%q", p.GetName(), p.GetValue()))
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// readSeries reads the servers that answer, and makes metrics of them.
func readSeries(t *testing.T, r Reader, h *history) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	read, err := r.Read(ctx)
	if err != nil {
		return nil
	}
	return seriesOf(t, h, read)
}

// awaitSeries reads until the series have these values.
func awaitSeries(t *testing.T, r Reader, h *history, want map[string]float64) {
	t.Helper()
	last := ""
	bustest.WaitFor(t, fmt.Sprint(want), func() bool {
		got := readSeries(t, r, h)
		for name, v := range want {
			if now, there := got[name]; !there || now != v {
				if why := fmt.Sprint(name, " is ", now, ", there: ", there); why != last {
					t.Log(why)
					last = why
				}
				return false
			}
		}
		return true
	})
}

// startOrders makes a stream with three replicas and 100 messages, 40 of which its consumer has been sent and 30 are
// acknowledged.
func startOrders(t *testing.T, js jetstream.JetStream) jetstream.Stream {
	t.Helper()
	var stream jetstream.Stream
	bustest.WaitFor(t, "the stream", func() bool {
		var err error
		stream, err = js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
			Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: 3,
		})
		return err == nil
	})
	publish(t, js, "orders.new", 100)
	consumer, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := consumer.Fetch(40)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for m := range batch.Messages() {
		if n++; n <= 30 {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != 40 {
		t.Fatalf("got %d messages: %v", n, batch.Error())
	}
	return stream
}

func publish(t *testing.T, js jetstream.JetStream, subject string, n int) {
	t.Helper()
	for i := range n {
		if _, err := js.Publish(t.Context(), subject, fmt.Appendf(nil, "%04096d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// ordersSeries are what the leaders of stream and consumer say after startOrders.
func ordersSeries() map[string]float64 {
	const stream = `{account="APP",cluster="east",stream="ORDERS"}`
	const consumer = `{account="APP",cluster="east",consumer="billing",stream="ORDERS"}`
	return map[string]float64{
		"nats_stream_messages" + stream:                      100,
		"nats_stream_last_sequence" + stream:                 100,
		"nats_stream_consumers" + stream:                     1,
		"nats_stream_replicas" + stream:                      3,
		"nats_consumer_pending" + consumer:                   60,
		"nats_consumer_ack_pending" + consumer:               10,
		"nats_consumer_delivered_sequence" + consumer:        40,
		"nats_consumer_ack_floor_stream_sequence" + consumer: 30,
	}
}

// While leaders change there is one series of a stream or none, and never a wrong value.
func TestStreamSeriesComeFromTheLeaderAlone(t *testing.T) {
	servers := startCluster(t, "east", "")
	r := readSystem(t, 0, servers...)
	js := servers[0].jetStream(t)
	stream := startOrders(t, js)
	want := ordersSeries()
	h := newHistory()
	awaitSeries(t, r, h, want)

	leaders := func() (ofStream, ofConsumer string) {
		info, err := stream.Info(t.Context())
		if err != nil {
			return "", ""
		}
		consumer, err := stream.Consumer(t.Context(), "billing")
		if err != nil {
			return "", ""
		}
		return info.Cluster.Leader, consumer.CachedInfo().Cluster.Leader
	}
	for range 3 {
		ofStream, ofConsumer := leaders()
		for _, subject := range []string{"STREAM.LEADER.STEPDOWN.ORDERS", "CONSUMER.LEADER.STEPDOWN.ORDERS.billing"} {
			if _, err := js.Conn().Request("$JS.API."+subject, nil, 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		bustest.WaitFor(t, "other leaders", func() bool {
			got := readSeries(t, r, h)
			for name, v := range got {
				if right, known := want[name]; known && v != right {
					t.Fatalf("%s is %v while leaders change, want %v", name, v, right)
				}
			}
			a, b := leaders()
			return a != "" && b != "" && a != ofStream && b != ofConsumer
		})
		awaitSeries(t, r, h, want)
	}
}

// A follower that was away has some lag, which its leader reports, and none when it has caught up.
func TestLaggingReplica(t *testing.T) {
	servers := startCluster(t, "east", "")
	h := newHistory()
	info, err := startOrders(t, servers[0].jetStream(t)).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var leader, follower *plain
	for _, p := range servers {
		switch p.name {
		case info.Cluster.Leader:
			leader = p
		default:
			follower = p
		}
	}
	r := readSystem(t, 0, leader)
	replica := func(name string) string {
		return fmt.Sprintf(`nats_stream_replica_%s{account="APP",cluster="east",peer=%q,stream="ORDERS"}`, name, follower.name)
	}
	awaitSeries(t, r, h, map[string]float64{replica("lag"): 0, replica("current"): 1, replica("offline"): 0})

	follower.stop()
	publish(t, leader.jetStream(t), "orders.new", 50)
	bustest.WaitFor(t, "the lag of a follower that is away", func() bool {
		got := readSeries(t, r, h)
		return got[replica("lag")] > 0 && got[replica("current")] == 0 &&
			got[`nats_stream_messages{account="APP",cluster="east",stream="ORDERS"}`] == 150
	})
	follower.start(t)
	awaitSeries(t, r, h, map[string]float64{replica("lag"): 0, replica("current"): 1, replica("offline"): 0})
}
