package natsmon

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// subscribeRaw subscribes without ever reading, unless the test does.
func subscribeRaw(t *testing.T, s *server.Server, subject string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "CONNECT {\"verbose\":false}\r\nSUB %s 1\r\nPING\r\n", subject); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReaderSize(c, 1) // takes nothing after the answer
	for line := ""; line != "PONG\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func number(t *testing.T, lines map[string]string, name string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(lines[name], 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// TestSlowConsumer has a client that subscribes and does not read until the server gives it up.
func TestSlowConsumer(t *testing.T) {
	s := startServer(t, "max_payload: 64KB, max_pending: 256KB, write_deadline: 100ms")
	ways := bothWays(t, s)
	for _, h := range ways {
		expectLines(t, scrape(t, h), `nats_server_slow_consumers 0`,
			`nats_server_slow_consumers_total{kind="client",server="test"} 0`)
	}
	subscribeRaw(t, s, "flood")
	producer := connect(t, s, 1)[0]
	body := make([]byte, 64<<10)
	bustest.WaitFor(t, "the server gave the slow consumer up", func() bool {
		for range 100 {
			if err := producer.Publish("flood", body); err != nil {
				t.Fatal(err)
			}
		}
		if err := producer.Flush(); err != nil {
			t.Fatal(err)
		}
		return s.NumSlowConsumers() > 0 && s.NumClients() == 1
	})
	slow := strconv.FormatInt(s.NumSlowConsumers(), 10)
	for way, h := range ways {
		t.Log(way)
		expectLines(t, scrape(t, h), `nats_server_slow_consumers `+slow,
			`nats_server_slow_consumers_total{kind="client",server="test"} `+slow,
			`nats_server_clients 1`, `nats_server_total_connections 2`)
	}
}

// TestStalledProducer has a consumer that does not read: before the server gives it up, it makes the producer wait.
func TestStalledProducer(t *testing.T) {
	s := startServer(t, `max_pending: 1MB`)
	ways := bothWays(t, s)
	const stalls = `nats_server_producer_stalls_total{server="test"}`
	for _, h := range ways {
		expectLines(t, scrape(t, h), stalls+` 0`)
	}
	subscribeRaw(t, s, "flood")
	producer := connect(t, s, 1)[0]
	body := make([]byte, 64<<10)
	bustest.WaitFor(t, "the producer to be made to wait", func() bool {
		// One at a time: it is made to wait when three quarters of max_pending wait for the consumer.
		if err := producer.Publish("flood", body); err != nil {
			t.Fatal(err)
		}
		if err := producer.Flush(); err != nil {
			t.Fatal(err)
		}
		return number(t, scrape(t, ways["embedded"]), stalls) > 0
	})
	for way, h := range ways {
		if got := scrape(t, h); number(t, got, stalls) == 0 || number(t, got, "nats_server_slow_consumers") != 0 {
			t.Errorf("%s: %s stalls, %s slow consumers", way, got[stalls], got["nats_server_slow_consumers"])
		}
	}
}
