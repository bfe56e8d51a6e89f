package natsmon

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// TestBothWaysAgree reads one server in the process and through its monitoring port.
func TestBothWaysAgree(t *testing.T) {
	s := startServer(t, storeOf(t)+`
		accounts {
			SYS { users: [{user: system, password: secret}] }
			APP { jetstream: enabled, users: [{user: app, password: secret}] }
		}
		system_account: SYS
		no_auth_user: app
		websocket { listen: "127.0.0.1:-1", no_tls: true }
	`)
	clients := connect(t, s, 3)
	if _, err := clients[0].Subscribe("a.>", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ws, err := nats.Connect(s.WebsocketURL())
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	js, err := jetstream.New(clients[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ONE", "TWO"} {
		stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}, MaxMsgs: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), name, []byte("body")); err != nil {
			t.Fatal(err)
		}
		for _, c := range []jetstream.ConsumerConfig{{Durable: "durable"}, {Name: "ephemeral", InactiveThreshold: time.Hour}} {
			if _, err := stream.CreateConsumer(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
	}

	for _, compat := range []bool{false, true} {
		in := newEmbeddedReader(s, "", compat, defaultLimits(), time.Now)
		over, err := newHTTPReader(ServerConfig{URL: monitorURL(s)}, compat, defaultLimits(), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(over.client.CloseIdleConnections)
		var answers [2]string
		bustest.WaitFor(t, "both readings agree", func() bool { // activity of the server itself may come between them
			answers = [2]string{lasting(t, readOne(t, in)), lasting(t, readOne(t, over))}
			return answers[0] == answers[1]
		})
		if !strings.Contains(answers[0], `"Name": "test"`) || strings.Count(answers[0], `"durable_name"`) != 2 {
			t.Errorf("compat %v: not everything is in the answer:\n%s", compat, answers[0])
		}
	}
}

// lasting is what of s is the same when it is read again, as JSON.
func lasting(t *testing.T, s *Server) string {
	t.Helper()
	s.Address = ""
	s.At, s.Varz.Now, s.Varz.HTTPReqStats, s.Varz.Uptime = time.Time{}, time.Time{}, nil, ""
	s.Varz.Mem, s.Varz.CPU = 0, 0
	s.Routes.Now, s.Gateways.Now, s.Leafs.Now, s.Subscriptions.Now, s.Accounts.Now = s.At, s.At, s.At, s.At, s.At
	s.JetStream.Now = s.At
	for _, h := range s.Health {
		h.StatusCode = 0 // is that of HTTP
	}
	s.Varz.JetStream.Stats = nil
	defaultLimits().bound(s, true, map[object]int{})
	for _, a := range s.JetStream.AccountDetails {
		for _, stream := range a.Streams {
			for _, c := range stream.Consumer {
				c.TimeStamp = s.At
			}
		}
	}
	text, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestConnectionsInPages puts several pages of connections together.
func TestConnectionsInPages(t *testing.T) {
	s := startServer(t, "")
	connect(t, s, 20)
	for _, perPage := range []int{1, 3, 10, 20, 21} {
		r := httpOf(t, ServerConfig{URL: monitorURL(s)})
		r.connectionsPerPage = perPage
		c := readOne(t, r).Connections
		if c.Total != 20 || c.ByKind[Client] != 20 {
			t.Errorf("%d per page: %d of %d", perPage, c.ByKind[Client], c.Total)
		}
	}
}

// answering serves the monitoring port of a server, but for one endpoint.
func answering(t *testing.T, endpoint Endpoint, answer http.HandlerFunc) ServerConfig {
	t.Helper()
	s := startServer(t, "")
	mux := http.NewServeMux()
	mux.HandleFunc("/"+string(endpoint), answer)
	mux.Handle("/", s.HTTPHandler())
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return ServerConfig{URL: h.URL}
}

// TestBadAnswersCostTheirEndpoint has a server answer nonsense to each question.
func TestBadAnswersCostTheirEndpoint(t *testing.T) {
	for name, answer := range map[string]string{
		"empty":     "",
		"no JSON":   "<html>",
		"truncated": `{"server_id": "N1", "connections": [{"cid": 1`,
		"types":     `{"server_id": 1, "connections": 1, "total": "x", "account_details": 1, "now": 1, "status": {}, "routes": 1, "leafs": 1, "accounts": 1, "account_statz": 1, "outbound_gateways": 1, "num_subscriptions": "x"}`,
		"too long":  `{"x": "` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		for _, endpoint := range endpoints(true)[1:] {
			r, err := newHTTPReader(answering(t, endpoint, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(answer))
			}), true, defaultLimits(), time.Now)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.client.CloseIdleConnections)
			r.limits.responseBytes = 256 << 10
			servers, err := r.Read(t.Context())
			if err != nil {
				t.Fatalf("%s for %s: %v", name, endpoint, err)
			}
			if got := servers[0].Errors; len(got) != 1 || got[endpoint] == nil {
				t.Errorf("%s for %s: errors %v", name, endpoint, got)
			}
			if name == "too long" && !errors.Is(servers[0].Errors[endpoint], errTooLong) {
				t.Errorf("%s for %s: %v", name, endpoint, servers[0].Errors[endpoint])
			}
		}
	}
}

// TestNullsAreNoPanic has a server answer null where lists hold something.
func TestNullsAreNoPanic(t *testing.T) {
	for endpoint, answer := range map[Endpoint]string{
		Connz:    `{"total": 1, "connections": [null]}`,
		Routez:   `{"routes": [null]}`,
		Leafz:    `{"leafs": [null]}`,
		Gatewayz: `{"outbound_gateways": {"a": null}, "inbound_gateways": {"b": [null], "c": null}}`,
		Accstatz: `{"account_statz": [null]}`,
		Jsz:      `{"total": 2, "meta_cluster": {"replicas": [null]}, "account_details": [null, {"stream_detail": [{"cluster": {"replicas": [null]}, "sources": [null], "consumer_detail": [null]}]}]}`,
		Healthz:  `null`,
		Subsz:    `null`,
	} {
		c := answering(t, endpoint, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
		got := scrape(t, exporterFor(t, nil, Config{Servers: []ServerConfig{c}}).Handler())
		expectLines(t, got, `nats_up{target="`+c.URL+`"} 1`, `nats_server_clients 0`)
	}
}

// TestRequestsAtATime to one server are few, and the connections to it are kept.
func TestRequestsAtATime(t *testing.T) {
	s := startServer(t, storeOf(t))
	var mu sync.Mutex
	now, most := 0, 0
	opened := 0
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		defer func() {
			mu.Lock()
			now--
			mu.Unlock()
		}()
		s.HTTPHandler().ServeHTTP(w, r)
	}))
	h.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateNew {
			opened++
		}
	}
	h.Start()
	t.Cleanup(h.Close)
	r := httpOf(t, ServerConfig{URL: h.URL})
	for range 5 {
		readOne(t, r)
	}
	mu.Lock()
	defer mu.Unlock()
	// A request may dial, and then be served by a connection that has become free.
	if most > httpParallel || opened > 3*httpParallel {
		t.Errorf("%d requests at a time, %d connections", most, opened)
	}
}

func TestNotANATSServer(t *testing.T) {
	for answer, want := range map[string]string{
		`{}`:     "not a NATS server",
		`<html>`: "read answer of",
	} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(h.Close)
		if _, err := httpOf(t, ServerConfig{URL: h.URL}).Read(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", answer, err, want)
		}
	}
	h := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	t.Cleanup(h.Close)
	if _, err := httpOf(t, ServerConfig{URL: h.URL}).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "302 Found") {
		t.Errorf("redirect: %v", err)
	}
}

// TestNoPasswordInErrors nor in the name of a target.
func TestNoPasswordInErrors(t *testing.T) {
	r := httpOf(t, ServerConfig{URL: "http://user:secret@127.0.0.1:1/path"})
	if name := r.Name(); name != "http://127.0.0.1:1/path" {
		t.Errorf("name %q", name)
	}
	if _, err := r.Read(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error: %v", err)
	}
}
