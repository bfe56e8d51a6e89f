package natsmon

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

var recordServers = flag.Bool("record", false, "write testdata/*.json anew, from what real servers say now")

// situations are real servers in states that make most of the metrics there are.
var situations = map[string]func(*testing.T) []*plain{
	"single":       singleServer,
	"cluster":      threeServers,
	"leaf":         hubAndLeaf,
	"supercluster": twoClusters,
}

// TestRealServersSayWhatIsRecorded reads servers of the version that is built in, and compares the metrics with those of the
// recorded ones: which there are, and with which labels.
func TestRealServersSayWhatIsRecorded(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(situations)) {
		t.Run(name, func(t *testing.T) {
			var read []*Server
			for _, p := range situations[name](t) {
				s, err := newEmbeddedReader(p.Server, "", true, defaultLimits(), time.Now).Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defaultLimits().bound(s[0], true, map[object]int{})
				read = append(read, s...)
			}
			if *recordServers {
				keep(t, name, read)
			}
			got, want := shapes(build(t, read)), shapes(build(t, recorded(t, name)))
			for _, shape := range slices.Sorted(maps.Keys(want)) {
				if !got[shape] {
					t.Errorf("real servers do not have %s", shape)
				}
			}
			for _, shape := range slices.Sorted(maps.Keys(got)) {
				if !want[shape] {
					t.Errorf("recorded servers do not have %s", shape)
				}
			}
		})
	}
}

// shapes are the names of metrics with the names of their labels, but for what takes servers a moment to find out.
func shapes(families []*dto.MetricFamily) map[string]bool {
	soon := regexp.MustCompile("_(rtt|last_seen)_seconds$|_meta_snapshot_")
	all := map[string]bool{}
	for _, f := range families {
		if soon.MatchString(f.GetName()) {
			continue
		}
		for _, m := range f.Metric {
			shape := f.GetName()
			for _, l := range m.Label {
				shape += " " + l.GetName()
			}
			all[shape] = true
		}
	}
	return all
}

// keep writes what servers said, as testdata.
func keep(t *testing.T, name string, read []*Server) {
	t.Helper()
	slices.SortFunc(read, func(a, b *Server) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range read { // whose directories were of this test
		for _, j := range []*server.JetStreamConfig{&s.JetStream.Config, s.Varz.JetStream.Config} {
			if j != nil && j.StoreDir != "" {
				j.StoreDir = "/data/jetstream"
			}
		}
	}
	text, err := json.MarshalIndent(read, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// singleServer has a stream with consumers of all sorts, one that mirrors it and one that sources it twice.
func singleServer(t *testing.T) []*plain {
	p := startPlain(t, "single", fmt.Sprintf("jetstream {store_dir: %q, domain: main}\n", t.TempDir())+`
		http: "127.0.0.1:-1"
		max_connections: 1000
		websocket {listen: "127.0.0.1:-1", no_tls: true}
	`)
	js := p.jetStream(t)
	fillStream(t, js, 1)
	return []*plain{p}
}

// threeServers have the same in a cluster, with three copies each.
func threeServers(t *testing.T) []*plain {
	servers := startCluster(t, "east", "")
	fillStream(t, servers[0].jetStream(t), 3)
	r := readSystem(t, len(servers), servers[0])
	awaitSeries(t, r, newHistory(), map[string]float64{ // for leaders are believed after a while
		`nats_stream_consumers{account="APP",cluster="east",stream="ORDERS"}`: 5,
	})
	return servers
}

// fillStream makes streams and consumers of all sorts.
func fillStream(t *testing.T, js jetstream.JetStream, replicas int) {
	t.Helper()
	ctx := t.Context()
	stream := func(c jetstream.StreamConfig) jetstream.Stream {
		c.Replicas = replicas
		var s jetstream.Stream
		var err error
		bustest.WaitFor(t, "a stream", func() bool { // a young cluster may not know all its servers yet
			s, err = js.CreateStream(ctx, c)
			return err == nil
		})
		return s
	}
	orders := stream(jetstream.StreamConfig{
		Name: "ORDERS", Subjects: []string{"orders.>"}, MaxMsgs: 1000, MaxBytes: 1 << 20, MaxAge: time.Hour,
		Discard: jetstream.DiscardNew,
	})
	mirror := stream(jetstream.StreamConfig{Name: "ORDERS-COPY", Mirror: &jetstream.StreamSource{Name: "ORDERS"}})
	all := stream(jetstream.StreamConfig{Name: "ALL", Sources: []*jetstream.StreamSource{
		{Name: "ORDERS", FilterSubject: "orders.new"},
		{Name: "ORDERS", FilterSubject: "orders.paid"},
	}})
	for i := range 20 {
		if _, err := js.Publish(ctx, []string{"orders.new", "orders.paid"}[i%2], []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if err := orders.DeleteMsg(ctx, 7); err != nil {
		t.Fatal(err)
	}
	for _, s := range []jetstream.Stream{mirror, all} {
		bustest.WaitFor(t, "a copy", func() bool {
			info, err := s.Info(ctx)
			return err == nil && info.State.Msgs >= 19
		})
	}
	makeConsumers(t, orders)
}

func makeConsumers(t *testing.T, orders jetstream.Stream) {
	t.Helper()
	ctx := t.Context()
	consumer := func(c jetstream.ConsumerConfig) jetstream.Consumer {
		made, err := orders.CreateConsumer(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	billing := consumer(jetstream.ConsumerConfig{Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 100})
	batch, err := billing.Fetch(5)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for m := range batch.Messages() { // two are acknowledged, one is delivered again
		switch i++; i {
		case 1, 2:
			err = m.DoubleAck(ctx)
		case 3:
			err = m.Nak()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bustest.WaitFor(t, "a message that is delivered again", func() bool {
		batch, err := billing.Fetch(1, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			if meta, err := m.Metadata(); err == nil && meta.NumDelivered > 1 {
				return true
			}
		}
		return false
	})
	consumer(jetstream.ConsumerConfig{Durable: "pinned", PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"one"}, PinnedTTL: time.Minute})
	until := time.Now().Add(time.Hour)
	consumer(jetstream.ConsumerConfig{Durable: "paused", PauseUntil: &until})
	if _, err := orders.CreatePushConsumer(ctx, jetstream.ConsumerConfig{Durable: "pushed", DeliverSubject: "nobody.listens"}); err != nil {
		t.Fatal(err)
	}
	consumer(jetstream.ConsumerConfig{InactiveThreshold: time.Hour})
}

// hubAndLeaf are two servers, of which one is a leaf of the other.
func hubAndLeaf(t *testing.T) []*plain {
	listen := freeAddrs(t, 1)[0]
	hub := startPlain(t, "hub", fmt.Sprintf("leafnodes {listen: %q}", listen))
	leaf := startPlain(t, "leaf", fmt.Sprintf("leafnodes {remotes: [{url: %q, account: APP}]}", "nats://app:secret@"+listen))
	bustest.WaitFor(t, "a leaf connection", func() bool { return hub.NumLeafNodes() == 1 && leaf.NumLeafNodes() == 1 })
	carry(t, hub, leaf)
	return []*plain{hub, leaf}
}

// twoClusters are two servers, each a cluster of its own, with gateways to each other.
func twoClusters(t *testing.T) []*plain {
	listen := freeAddrs(t, 2)
	gateways := fmt.Sprintf("gateways: [{name: west, url: %q}, {name: south, url: %q}]}", "nats://"+listen[0], "nats://"+listen[1])
	west := startPlain(t, "west-0", fmt.Sprintf("gateway {name: west, listen: %q, %s", listen[0], gateways))
	south := startPlain(t, "south-0", fmt.Sprintf("gateway {name: south, listen: %q, %s", listen[1], gateways))
	bustest.WaitFor(t, "gateways", func() bool {
		return west.NumOutboundGateways() == 1 && south.NumOutboundGateways() == 1
	})
	carry(t, west, south)
	return []*plain{west, south}
}

// carry has a message go from one server to the other.
func carry(t *testing.T, from, to *plain) {
	t.Helper()
	out, in := clientOf(t, from), clientOf(t, to)
	sub, err := in.SubscribeSync("news")
	if err == nil {
		err = in.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	bustest.WaitFor(t, "a message from server to server", func() bool {
		if err := out.Publish("news", []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		_, err := sub.NextMsg(100 * time.Millisecond)
		return err == nil
	})
}

func clientOf(t *testing.T, p *plain) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(p.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
