package natsmon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// jetStreamOf connects a client.
func jetStreamOf(t *testing.T, s *server.Server) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(connect(t, s, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func streamOf(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	stream, err := js.CreateStream(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func publishTo(t *testing.T, js jetstream.JetStream, subject string, n, size int) {
	t.Helper()
	for range n {
		if _, err := js.Publish(t.Context(), subject, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
}

func fetch(t *testing.T, c jetstream.Consumer, n int) []jetstream.Msg {
	t.Helper()
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var all []jetstream.Msg
	for m := range batch.Messages() {
		all = append(all, m)
	}
	if err := batch.Error(); err != nil || len(all) != n {
		t.Fatalf("%d of %d messages, %v", len(all), n, err)
	}
	return all
}

// TestConsumerLag grows, drains, and is made of messages that come again.
func TestConsumerLag(t *testing.T) {
	s := startServer(t, storeOf(t))
	ways := bothWays(t, s)
	js := jetStreamOf(t, s)
	consumer, err := streamOf(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders"}}).CreateConsumer(t.Context(),
		jetstream.ConsumerConfig{Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, pending, ackPending, redelivered string) {
		t.Helper()
		for way, h := range ways {
			var got map[string]string
			// An acknowledgement is on its way when Ack returns.
			bustest.WaitFor(t, what+", "+way, func() bool {
				got = scrape(t, h)
				return only(got, "nats_consumer_pending") == pending && only(got, "nats_consumer_ack_pending") == ackPending &&
					only(got, "nats_consumer_redelivered") == redelivered
			})
			if n := only(got, "nats_stream_messages"); n != "10" && n != "0" {
				t.Errorf("%s: %s messages in the stream", way, n)
			}
		}
	}
	check("nothing", "0", "0", "0")
	publishTo(t, js, "orders", 10, 100)
	check("lag", "10", "0", "0")
	first := fetch(t, consumer, 4)
	check("half way", "6", "4", "0")
	rest := fetch(t, consumer, 6)
	check("all under way", "0", "10", "0")
	for _, m := range first[:3] {
		if err := m.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	again := fetch(t, consumer, 3)
	check("three once more", "0", "10", "3")
	for _, m := range slices.Concat(first[3:], rest, again) {
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	check("drained", "0", "0", "0")
}

// only is the value of a metric that has one series, or what is wrong.
func only(lines map[string]string, name string) string {
	value := "absent"
	for line, v := range lines {
		if strings.HasPrefix(line, name+"{") || line == name {
			if value != "absent" {
				return "more than one"
			}
			value = v
		}
	}
	return value
}

// TestStreamAtItsLimit refuses what is more.
func TestStreamAtItsLimit(t *testing.T) {
	s := startServer(t, storeOf(t))
	ways := bothWays(t, s)
	js := jetStreamOf(t, s)
	streamOf(t, js, jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, MaxBytes: 64 << 10, Discard: jetstream.DiscardNew})
	fill(t, js, "small", 1<<10)
	for way, h := range ways {
		got := scrape(t, h)
		if limit := only(got, "nats_stream_storage_limit_bytes"); limit != "65536" {
			t.Errorf("%s: limit %s", way, limit)
		}
		bytes := number(t, got, series(t, got, "nats_stream_bytes"))
		if bytes > 64<<10 || bytes < 62<<10 {
			t.Errorf("%s: %v bytes", way, bytes)
		}
	}
}

// TestStoreAtItsLimit has a server that may store no more.
func TestStoreAtItsLimit(t *testing.T) {
	s := startServer(t, strings.Replace(storeOf(t), "{", "{max_file_store: 1MB, ", 1))
	ways := bothWays(t, s)
	js := jetStreamOf(t, s)
	streamOf(t, js, jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large"}})
	fill(t, js, "large", 10<<10)
	for way, h := range ways {
		got := scrape(t, h)
		limit := number(t, got, series(t, got, "nats_jetstream_storage_limit_bytes"))
		used := number(t, got, series(t, got, "nats_jetstream_storage_used_bytes"))
		if limit != 1<<20 || used < 1<<20-20<<10 {
			t.Errorf("%s: %v of %v bytes", way, used, limit)
		}
	}
}

// series is the one of a metric.
func series(t *testing.T, lines map[string]string, name string) string {
	t.Helper()
	for line := range lines {
		if strings.HasPrefix(line, name+"{") || line == name {
			return line
		}
	}
	t.Fatalf("there is no %s", name)
	return ""
}

// fill publishes until that is refused.
func fill(t *testing.T, js jetstream.JetStream, subject string, size int) {
	t.Helper()
	for range 10_000 {
		if _, err := js.Publish(t.Context(), subject, make([]byte, size), jetstream.WithRetryAttempts(0)); err != nil {
			t.Logf("refused: %v", err)
			return
		}
	}
	t.Fatal("everything is taken")
}

// TestKindsOfConnections come apart, and are all clients.
func TestKindsOfConnections(t *testing.T) {
	s := startServer(t, `websocket { listen: "127.0.0.1:-1", no_tls: true }`)
	ways := bothWays(t, s)
	connect(t, s, 3)
	for range 2 {
		nc, err := nats.Connect(s.WebsocketURL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
	}
	for way, h := range ways {
		t.Log(way)
		expectLines(t, scrape(t, h), `nats_server_clients 5`,
			`nats_server_connections{kind="client",server="test"} 3`, `nats_server_connections{kind="websocket",server="test"} 2`)
	}
}
