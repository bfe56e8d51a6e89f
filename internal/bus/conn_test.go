package bus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConnectWithoutServer(t *testing.T) {
	// Addresses of the documentation range are black holes or unreachable; either way Connect does not wait for them.
	c, err := bus.Connect(bus.Options{
		Config: bustest.Config("nats://192.0.2.1:4222", "nats://192.0.2.2:4222"), Site: "a", Name: "test", Logger: bustest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	state, changed := c.Watch()
	if state.Connected || state.Reason == "" || state.Since.IsZero() {
		t.Errorf("state is %+v", state)
	}
	if _, err := c.Publish(t.Context(), c.Root().Lane("a", bus.Live), nil, 0); !errors.Is(err, bus.ErrNotStored) || !errors.Is(err, bus.ErrNotConnected) {
		t.Errorf("publish: %v", err)
	}
	if c.MaxPayload() != 0 {
		t.Errorf("max payload is %d", c.MaxPayload())
	}
	c.Close()
	<-changed
}

func TestStateTellsWhatHappens(t *testing.T) {
	server := bustest.NewServer(t)
	server.Stop()
	c := bustest.Connect(t, bus.Options{Config: bustest.Config(server.URL()), Site: "a"})
	next := func(what string, holds func(bus.State) bool) bus.State {
		t.Helper()
		timeout := time.After(30 * time.Second)
		for {
			state, changed := c.Watch()
			if holds(state) {
				return state
			}
			select {
			case <-changed:
			case <-timeout:
				t.Fatalf("state is %+v, want %s", state, what)
			}
		}
	}
	next("refused", func(s bus.State) bool { return !s.Connected && strings.Contains(s.Reason, "connection refused") })
	server.Start()
	up := next("connected", func(s bus.State) bool { return s.Connected })
	if up.Reason != "" || up.Server != server.URL() {
		t.Errorf("state is %+v", up)
	}
	server.Stop()
	down := next("down", func(s bus.State) bool { return !s.Connected })
	if down.Since.Before(up.Since) || !strings.HasPrefix(down.Reason, "connection lost: ") || strings.Contains(down.Reason, "EOF") || down.Server != server.URL() {
		t.Errorf("state is %+v", down)
	}
	server.Start()
	next("connected again", func(s bus.State) bool { return s.Connected })
}

// TestSecretsAreReadAgain: a secret that is wrong, missing or revoked is a state with a reason, and a file that is
// corrected is enough.
func TestSecretsAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	tokens, secret := filepath.Join(dir, "tokens"), filepath.Join(dir, "credential")
	write(t, tokens, "a right\n")
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.Auth.TokensFile = tokens })
	config := bustest.Config(server.URL())
	config.TokenFile = secret
	log := &lines{}
	c := bustest.Connect(t, bus.Options{Config: config, Site: "a", Logger: slog.New(slog.NewTextHandler(log, nil))})
	reason := func(part string) {
		t.Helper()
		bustest.WaitFor(t, part, func() bool {
			s := c.State()
			return !s.Connected && strings.Contains(s.Reason, part)
		})
	}
	connected := func() {
		t.Helper()
		bustest.WaitFor(t, "connection", func() bool { return c.State().Connected })
	}
	reason("read token_file: open " + secret)
	write(t, secret, "\n")
	reason("is empty")
	write(t, secret, "wrong\n")
	refused := "server refused the credential (token_file " + secret + ")"
	reason(refused)
	write(t, secret, "right\n")
	connected()
	write(t, tokens, "a other\n")
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	reason(refused)
	write(t, secret, "other")
	connected()
	if text := log.String(); strings.Count(text, refused) != 1 || strings.Contains(text, "wrong") || strings.Contains(text, "uthorization Violation") {
		t.Errorf("want one line about the refusal, and no secret:\n%s", text)
	}
}

func TestConnectRefusesBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name   string
		change func(*bus.Options)
		want   string
	}{
		{"no server", func(o *bus.Options) { o.Config.URLs = nil }, "no URL"},
		{"site", func(o *bus.Options) { o.Site = "a.b" }, `"a.b"`},
		{"no seed", func(o *bus.Options) { o.Config.NKeySeedFile = filepath.Join(dir, "absent") }, "nkey_seed_file"},
		{"bad seed", func(o *bus.Options) {
			o.Config.NKeySeedFile = filepath.Join(dir, "seed")
			write(t, o.Config.NKeySeedFile, "SUAsecret")
		}, "nkey_seed_file"},
		{"no CA", func(o *bus.Options) { o.Config.TLSConfig.CAFile = filepath.Join(dir, "absent") }, "tls_config"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := bus.Options{Config: bustest.Config("nats://127.0.0.1:1"), Site: "a", Logger: bustest.Logger(t)}
			test.change(&o)
			c, err := bus.Connect(o)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error is %q, want %q in it", err, test.want)
			}
		})
	}
}

// certificate makes files with a key and a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

// TestTransports reaches the server by each way that a site may have.
func TestTransports(t *testing.T) {
	cert, key := certificate(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	websocket := free.Addr().String()
	free.Close()
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, fmt.Sprintf("websocket {listen: %q, tls {cert_file: %q, key_file: %q}}", websocket, cert, key))
	plain := bustest.NewServer(t)
	secure := bustest.NewServer(t, func(o *natsd.Options) {
		o.Config.ConfigFile = file
		o.Config.TLSServerConfig.TLSCertPath = cert
		o.Config.TLSServerConfig.TLSKeyPath = key
	})
	proxy := bustest.NewHTTPProxy(t, "user:pass")
	for _, test := range []struct {
		name, url, proxy string
		tls              bool
	}{
		{"nats", plain.URL(), "", false},
		{"tls", "tls://" + secure.Addr(), "", true},
		{"wss", "wss://" + websocket, "", true},
		{"nats through proxy", plain.URL(), proxy.URL("user:pass"), false},
		{"tls through proxy", "tls://" + secure.Addr(), proxy.URL("user:pass"), true},
		{"wss through proxy", "wss://" + websocket, proxy.URL("user:pass"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := bustest.Config(test.url)
			config.ProxyURL = test.proxy
			if test.tls {
				config.TLSConfig.CAFile = cert
			}
			before := proxy.Tunnels()
			hub := bustest.Connected(t, bus.Options{Config: config})
			bustest.EnsureStream(t, hub)
			if _, err := hub.Last(t.Context(), hub.Root().Lane("a", bus.Live)); !errors.Is(err, bus.ErrNoMessage) {
				t.Errorf("request: %v", err)
			}
			if used := proxy.Tunnels() > before; used != (test.proxy != "") {
				t.Errorf("proxy used: %v", used)
			}
		})
	}

	config := bustest.Config(plain.URL())
	config.ProxyURL = proxy.URL("user:wrong")
	c := bustest.Connect(t, bus.Options{Config: config})
	bustest.WaitFor(t, "refusal of the proxy", func() bool { return strings.Contains(c.State().Reason, "407") })
	if s := c.State().Reason; strings.Contains(s, "wrong") {
		t.Errorf("reason %q has the password", s)
	}
	distrustful := bustest.Connect(t, bus.Options{Config: bustest.Config("tls://" + secure.Addr())})
	bustest.WaitFor(t, "refusal of the certificate", func() bool { return strings.Contains(distrustful.State().Reason, "certificate") })
}

func TestRequestAndServe(t *testing.T) {
	server := bustest.NewServer(t)
	hub := bustest.Hub(t, server)
	proxy := bustest.NewProxy(t, server.Addr())
	site := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL()), Site: "a"})
	root := hub.Root()

	if _, err := site.Request(t.Context(), root.Hello("a"), nil); !errors.Is(err, bus.ErrNoListener) {
		t.Errorf("hello without a hub: %v", err)
	}
	stop, err := hub.Serve(root.Hellos(), func(subject string, data []byte) []byte {
		name, err := root.ParseHello(subject)
		if err != nil {
			t.Error(err)
		}
		return []byte(name + " said " + string(data))
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *bus.Conn, subject, data, want string) {
		t.Helper()
		bustest.WaitFor(t, want, func() bool {
			answer, err := c.Request(t.Context(), subject, []byte(data))
			return err == nil && string(answer) == want
		})
	}
	ask(site, root.Hello("a"), "hi", "a said hi")

	control := root.NewControl("a")
	if name, err := root.ParseControl(control); err != nil || name != "a" {
		t.Errorf("control subject %q is of %q, %v", control, name, err)
	}
	var mu sync.Mutex
	calls := 0
	stopSite, err := site.Serve(control, func(subject string, data []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		calls++
		return append([]byte("got "), data...)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stopSite()
	ask(hub, control, "1", "got 1")
	proxy.Cut()
	ask(hub, control, "2", "got 2")
	server.Stop()
	server.Start()
	ask(hub, control, "3", "got 3")
	ask(site, root.Hello("a"), "again", "a said again")

	// What has no reply subject is no request.
	mu.Lock()
	before := calls
	mu.Unlock()
	nc := rawHub(t, server)
	if err := nc.Publish(control, []byte("forged")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ask(hub, control, "4", "got 4")
	mu.Lock()
	if calls != before+1 {
		t.Errorf("%d calls for one request", calls-before)
	}
	mu.Unlock()

	stop()
	bustest.WaitFor(t, "hub to be gone", func() bool {
		_, err := site.Request(t.Context(), root.Hello("a"), nil)
		return errors.Is(err, bus.ErrNoListener)
	})
}

func TestPermissionViolationsAreLoggedOnce(t *testing.T) {
	server := bustest.NewServer(t)
	bustest.Hub(t, server)
	log := &lines{}
	c := bustest.Connected(t, bus.Options{Config: bustest.Config(server.URL()), Site: "a", Logger: slog.New(slog.NewTextHandler(log, nil))})
	for range 5 {
		if _, err := c.Request(t.Context(), c.Root().Hello("b"), nil); !errors.Is(err, bus.ErrDenied) {
			t.Errorf("hello of another site: %v", err)
		}
	}
	if n := strings.Count(log.String(), "hello.b"); n != 1 {
		t.Errorf("%d lines about the violation:\n%s", n, log)
	}
}

// lines is a log that can be read while it is written.
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
