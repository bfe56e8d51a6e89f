package natsmon

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// BenchmarkNATSMetrics scrapes a server with 10,000 connections and 1,000 consumers: in this process, and through its
// monitoring port or a system account, of which this process then bears both ends.
func BenchmarkNATSMetrics(b *testing.B) {
	s := startServer(b, storeOf(b)+"system_account: SYS\n"+accountsText)
	connectRaw(b, s, 10_000)
	js, err := jetstream.New(connect(b, s, 1)[0])
	if err != nil {
		b.Fatal(err)
	}
	for i := range 10 {
		stream, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: fmt.Sprintf("STREAM-%d", i), Subjects: []string{fmt.Sprintf("s%d", i)}})
		if err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if _, err := stream.CreateConsumer(b.Context(), jetstream.ConsumerConfig{Durable: fmt.Sprintf("consumer-%d", j)}); err != nil {
				b.Fatal(err)
			}
		}
	}
	system := exporterFor(b, nil, Config{System: []SystemConfig{{
		URLs: []string{s.ClientURL()}, Username: "system", PasswordFile: passwordFile(b), Expect: 1,
	}}})
	bustest.WaitFor(b, "a connection of the system account", func() bool {
		families, err := system.Gather(b.Context(), defaultTimeout)
		return err == nil && valuesOf(families)[`nats_server_up{server="test"}`] == 1
	})
	for name, handler := range map[string]http.Handler{
		"embedded": exporterFor(b, s, Config{Embedded: true}).Handler(),
		"http":     exporterFor(b, nil, Config{Servers: []ServerConfig{{URL: monitorURL(s)}}}).Handler(),
		"system":   system.Handler(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if w.Code != http.StatusOK || w.Body.Len() < 1000 {
					b.Fatalf("status %d, %d bytes", w.Code, w.Body.Len())
				}
			}
		})
	}
}

// connectRaw opens connections of clients that say no more than they have to. Every other one is a pipe, of which reading
// costs the same: a process may not have as many files as both ends of them all are.
func connectRaw(b *testing.B, s *server.Server, n int) {
	b.Helper()
	for i := range n {
		dial := s.InProcessConn
		if i%2 == 0 {
			dial = func() (net.Conn, error) { return net.Dial("tcp", s.Addr().String()) }
		}
		c, err := dial()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		go func() { _, _ = io.Copy(io.Discard, c) }() // a pipe holds nothing
		if _, err := c.Write([]byte(`CONNECT {"verbose":false,"name":"some-client","lang":"go","version":"1.55.0"}` + "\r\n")); err != nil {
			b.Fatal(err)
		}
	}
	bustest.WaitFor(b, "all clients are there", func() bool { return s.NumClients() >= n })
}
