package natsd_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/units"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

func options(t *testing.T) natsd.Options {
	c := natsd.DefaultConfig()
	c.Listen = "127.0.0.1:0"
	return natsd.Options{
		Config:   c,
		StoreDir: filepath.Join(t.TempDir(), "nats"),
		Root:     bus.DefaultRoot,
		Stream:   bustest.StreamConfig(),
		Logger:   bustest.Logger(t),
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStartRefuses: what cannot work, or would let strangers in, says so at once and leaves nothing running.
func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	running := bustest.NewServer(t)
	const unsafe = "set auth.enrol: true (sites join by thalweg enrol), auth.tokens_file"
	for _, test := range []struct {
		name   string
		change func(*natsd.Options)
		want   []string
	}{
		{"port taken", func(o *natsd.Options) { o.Config.Listen = taken.Addr().String() }, []string{taken.Addr().String(), "address already in use"}},
		{"store in use", func(o *natsd.Options) { o.StoreDir = running.Options.StoreDir }, []string{running.Options.StoreDir, "another server"}},
		{"store is a file", func(o *natsd.Options) { o.StoreDir = file("store", "") }, []string{"store", "not a directory"}},
		{"damaged store", func(o *natsd.Options) {
			write(t, filepath.Join(filepath.Dir(o.StoreDir), "jetstream"), "")
			o.StoreDir = filepath.Dir(o.StoreDir)
		}, []string{"storage directory", "move", "jetstream", "edges send"}},
		{"all interfaces", func(o *natsd.Options) { o.Config.Listen = "0.0.0.0:0" }, []string{`"0.0.0.0:0"`, unsafe}},
		{"any host", func(o *natsd.Options) { o.Config.Listen = ":0" }, []string{`":0"`, unsafe}},
		{"open websocket", func(o *natsd.Options) {
			o.Config.ConfigFile = file("ws.conf", "websocket {listen: \"0.0.0.0:8080\", no_tls: true}")
		}, []string{"websocket", "0.0.0.0:8080", unsafe}},
		{"unknown setting", func(o *natsd.Options) { o.Config.ConfigFile = file("typo.conf", "max_conections: 5\n") }, []string{"typo.conf", `unknown field "max_conections"`}},
		{"no config file", func(o *natsd.Options) { o.Config.ConfigFile = filepath.Join(dir, "absent.conf") }, []string{"absent.conf", "no such file"}},
		{"no tokens file", func(o *natsd.Options) { o.Config.Auth.TokensFile = filepath.Join(dir, "absent") }, []string{"tokens_file", "absent", "no such file"}},
		{"no certificate", func(o *natsd.Options) {
			o.Config.TLSServerConfig.TLSCertPath = filepath.Join(dir, "absent.pem")
			o.Config.TLSServerConfig.TLSKeyPath = filepath.Join(dir, "absent.key")
		}, []string{"tls_server_config", "absent.pem"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(t)
			test.change(&o)
			server, err := natsd.Start(o)
			if err == nil {
				server.Close()
				t.Fatal("server started")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error is %q, want %q in it", err, part)
				}
			}
		})
	}
}

func TestTokensFileErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	for _, test := range []struct{ text, want string }{
		{"ams-1", `line 1: want a name and a token, found 1 words beginning with "ams-1"`},
		{"# sites\n\nams-1 secret extra\n", `line 3: want a name and a token, found 3 words beginning with "ams-1"`},
		{"ams.1 secret\n", `line 1: site name "ams.1" has a character`},
		{"@hubs secret\n", `line 1: site name "@hubs" has a character`},
		{"a secret\nb secret\n", `line 2: the token of "b" is that of "a" too`},
		{"a 1\nb\nc\n", `line 3: want`}, // all of them, not the first only
	} {
		write(t, file, test.text)
		o := options(t)
		o.Config.Auth.TokensFile = file
		server, err := natsd.Start(o)
		if err == nil {
			server.Close()
			t.Errorf("server started with tokens %q", test.text)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error for %q is %q, want %q in it and no secret", test.text, err, test.want)
		}
	}
}

// TestWhoMayConnect goes through the credentials that a client can present.
func TestWhoMayConnect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "# NAME TOKEN\nams-1 first # of the old ship\nams-1 second\n@hub third\n")
	withTokens := func(o *natsd.Options) { o.Config.Auth.TokensFile = file }
	openToAll := func(o *natsd.Options) { o.Config.Listen = "0.0.0.0:0"; o.Config.AllowAnonymous = true }
	for _, test := range []struct {
		name    string
		change  func(*natsd.Options)
		options []nats.Option
		site    string // "" refused, "@hub" core
	}{
		{"loopback, site", nil, []nats.Option{nats.UserInfo("ams-1", "")}, "ams-1"},
		{"loopback, hub", nil, []nats.Option{nats.UserInfo("@hub", "")}, "@hub"},
		{"loopback, nobody", nil, nil, ""},
		{"loopback, bad name", nil, []nats.Option{nats.UserInfo("ams.1", "")}, ""},
		{"loopback, token", nil, []nats.Option{nats.Token("first")}, ""},
		{"loopback, password", nil, []nats.Option{nats.UserInfo("@hub", "guess")}, ""},
		{"enrolment, anonymous", withEnrol, []nats.Option{nats.UserInfo("ams-1", "")}, ""},
		{"enrolment, anonymous hub", withEnrol, []nats.Option{nats.UserInfo("@hub", "")}, ""},
		{"enrolment, guess", withEnrol, []nats.Option{nats.Token("guess"), nats.UserInfo("ams-1", "")}, ""},
		{"open, site", openToAll, []nats.Option{nats.UserInfo("ams-1", "")}, "ams-1"},
		{"open, hub", openToAll, []nats.Option{nats.UserInfo("@hub", "")}, ""},
		{"tokens, site", withTokens, []nats.Option{nats.Token("first")}, "ams-1"},
		{"tokens, second token", withTokens, []nats.Option{nats.Token("second")}, "ams-1"},
		{"tokens, named", withTokens, []nats.Option{nats.Token("first"), nats.UserInfo("ams-1", "")}, "ams-1"},
		{"tokens, misnamed", withTokens, []nats.Option{nats.Token("first"), nats.UserInfo("ams-2", "")}, ""},
		{"tokens, hub", withTokens, []nats.Option{nats.Token("third")}, "@hub"},
		{"tokens, hub by name", withTokens, []nats.Option{nats.UserInfo("@hub", "")}, ""},
		{"tokens, site as hub", withTokens, []nats.Option{nats.Token("first"), nats.UserInfo("@hub", "")}, ""},
		{"tokens, unknown", withTokens, []nats.Option{nats.Token("fourth")}, ""},
		{"tokens, anonymous", withTokens, []nats.Option{nats.UserInfo("ams-1", "")}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var change []func(*natsd.Options)
			if test.change != nil {
				change = append(change, test.change)
			}
			server := bustest.NewServer(t, change...)
			denied := make(chan error, 10)
			_, port, _ := net.SplitHostPort(server.Addr())
			nc, err := nats.Connect("nats://"+net.JoinHostPort("127.0.0.1", port),
				append(test.options, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))...)
			if test.site == "" {
				if err == nil {
					nc.Close()
					t.Fatal("connected")
				}
				if refused := collect(t, server.Metrics(), "thalweg_natsd_refused_clients_total"); refused != 1 {
					t.Errorf("%v refusals counted", refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			// A hub may subscribe to everything, a site to its own control subjects only.
			subject := bus.DefaultRoot.NewControl(test.site)
			if test.site == "@hub" {
				subject = ">"
			}
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			if test.site != "@hub" {
				if _, err := nc.SubscribeSync(bus.DefaultRoot.NewControl("other")); err != nil {
					t.Fatal(err)
				}
			}
			flush(t, nc)
			if test.site != "@hub" {
				if err := <-denied; !strings.Contains(err.Error(), ".other.") {
					t.Errorf("denied: %v", err)
				}
			}
			select {
			case err := <-denied:
				t.Errorf("denied: %v", err)
			default:
			}
		})
	}
}

// collect sums a metric over its labels.
func collect(t *testing.T, collectors []prometheus.Collector, name string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "a token-a\nb token-b\nc token-c\n@hub token-hub\n")
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.Auth.TokensFile = file })
	connect := func(token string) *nats.Conn {
		t.Helper()
		nc, err := nats.Connect(server.URL(), nats.Token(token), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	a, b, c, hub := connect("token-a"), connect("token-b"), connect("token-c"), connect("token-hub")
	local := bustest.Connected(t, bus.Options{InProcess: server.Core(), Config: bustest.Config()})

	write(t, file, "a token-a\nb\n")
	if err := server.Reload(); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("reload of a bad file: %v", err)
	}
	connect("token-b") // the old tokens hold

	write(t, file, "a token-a\nb token-b2\nd token-d\n")
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	for name, nc := range map[string]*nats.Conn{"token of b, replaced": b, "token of c, gone": c, "token of hub, gone": hub} {
		bustest.WaitFor(t, name, nc.IsClosed)
	}
	flush(t, a)
	if !local.State().Connected {
		t.Error("in-process connection was closed")
	}
	connect("token-b2")
	connect("token-d")
	if nc, err := nats.Connect(server.URL(), nats.Token("token-c")); err == nil {
		nc.Close()
		t.Error("connected with a token that is gone")
	}
}

func TestInProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "# nobody\n")
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.Auth.TokensFile = file })
	hub := bustest.Connected(t, bus.Options{InProcess: server.Core(), Config: bustest.Config()})
	bustest.EnsureStream(t, hub)
	site := bustest.Connected(t, bus.Options{InProcess: server.Site("a"), Site: "a", Config: bustest.Config()})
	lane := hub.Root().Lane("a", bus.Live)
	if _, err := site.Publish(t.Context(), lane, []byte("x"), 0); err != nil {
		t.Error(err)
	}
	if m, err := site.Last(t.Context(), lane); err != nil || string(m.Payload) != "x" {
		t.Errorf("last message: %+v, %v", m, err)
	}
	if s := site.State(); s.Server != "in-process" {
		t.Errorf("state is %+v", s)
	}

	// The credential of a does not do for b. Spoken by hand: the pipe has no buffer, and a client library that is
	// writing its next line when it is refused learns that from a timeout only.
	other := server.Site("a")
	conn, err := other.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	if info, err := answers.ReadString('\n'); err != nil || !strings.HasPrefix(info, "INFO ") {
		t.Fatalf("server begins with %q, %v", info, err)
	}
	if _, err := fmt.Fprintf(conn, "CONNECT {\"user\":\"b\",\"pass\":%q}\r\n", other.Password); err != nil {
		t.Fatal(err)
	}
	if answer, err := answers.ReadString('\n'); err != nil || !strings.Contains(answer, "Authorization Violation") {
		t.Errorf("server answers %q, %v", answer, err)
	}
	if refused := collect(t, server.Metrics(), "thalweg_natsd_refused_clients_total"); refused != 1 {
		t.Errorf("%v refusals counted", refused)
	}
}

func TestRun(t *testing.T) {
	server, err := natsd.Start(options(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run ended with %v", err)
	}
	if nc, err := nats.Connect(server.URL(), nats.UserInfo("a", "")); err == nil {
		nc.Close()
		t.Error("connected to a server that was shut down")
	}
	server.Close() // once more is nothing

	server, err = natsd.Start(options(t))
	if err != nil {
		t.Fatal(err)
	}
	go server.Close()
	if err := server.Run(t.Context()); err == nil {
		t.Error("run does not say that the server ended by itself")
	}
}

// TestConfigFile: what it says holds, except where Thalweg decides.
func TestConfigFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, `
		server_name: ship
		max_payload: 2MB
		port: 1
		authorization {user: root, password: root}
		jetstream {domain: sea}
	`)
	log := &lines{}
	server := bustest.NewServer(t, func(o *natsd.Options) {
		o.Config.ConfigFile = file
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	})
	if text := log.String(); !strings.Contains(text, `has no effect`) || !strings.Contains(text, "key=authorization") || strings.Contains(text, "key=accounts") {
		t.Errorf("log is %s", text)
	}
	if nc, err := nats.Connect(server.URL(), nats.UserInfo("root", "root")); err == nil {
		nc.Close()
		t.Error("connected with the password of the file")
	}
	config := bustest.Config(server.URL())
	config.Domain = "sea"
	hub := bustest.Connected(t, bus.Options{Config: config})
	if hub.MaxPayload() != 2_000_000 && hub.MaxPayload() != 2<<20 {
		t.Errorf("max payload is %d", hub.MaxPayload())
	}
	bustest.EnsureStream(t, hub)
	lane := hub.Root().Lane("a", bus.Live)
	last := uint64(0)
	for _, domain := range []string{"", "sea"} { // sites at this server may leave it out
		config.Domain = domain
		site := bustest.Connected(t, bus.Options{Config: config, Site: "a"})
		sequence, err := site.Publish(t.Context(), lane, []byte(domain), last)
		if err != nil {
			t.Fatalf("publish with domain %q: %v", domain, err)
		}
		if m, err := site.Last(t.Context(), lane); err != nil || m.Sequence != sequence || string(m.Payload) != domain {
			t.Errorf("direct get with domain %q: %+v, %v", domain, m, err)
		}
		last = sequence
	}
}

// lines is a log that can be read while it is written.
// TestMaxBytes: the limit of a stream can be changed in both directions over a restart.
func TestMaxBytes(t *testing.T) {
	s := bustest.NewServer(t)
	for _, limit := range []units.Base2Bytes{10 * units.GiB, 20 * units.MiB, units.TiB} {
		s.Stop()
		s.Options.Stream.MaxBytes = limit
		s.Start()
		config := bustest.Config(s.URL())
		config.Stream.MaxBytes = limit
		bustest.EnsureStream(t, bustest.Connected(t, bus.Options{Config: config}))
	}
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
