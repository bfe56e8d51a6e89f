package natsmon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// plain is a nats-server as an operator would run it: from the text of a file, without a monitoring port.
type plain struct {
	*server.Server
	name, text string
}

// accountsText has the accounts of most servers. APP has JetStream if the server has; who says nothing is its user.
const accountsText = `
	accounts {
		SYS { users: [{user: system, password: secret}] }
		APP { jetstream: enabled, users: [{user: app, password: secret}] }
	}
	no_auth_user: app
`

// startPlain starts a server on a free port of loopback, with the account SYS as that of the system. It has the accounts
// above unless the text has others.
func startPlain(t *testing.T, name, text string) *plain {
	t.Helper()
	if !strings.Contains(text, "accounts") {
		text += accountsText
	}
	p := &plain{name: name, text: fmt.Sprintf("server_name: %s\nlisten: %q\nsystem_account: SYS\n%s", name, freeAddrs(t, 1)[0], text)}
	p.start(t)
	t.Cleanup(p.stop)
	return p
}

// start starts a server, or one that was stopped, with its store.
func (p *plain) start(t *testing.T) {
	t.Helper()
	o := &server.Options{}
	if err := o.ProcessConfigString(p.text); err != nil {
		t.Fatal(err)
	}
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatalf("server %s is not ready", p.name)
	}
	p.Server = s
}

func (p *plain) stop() {
	p.Shutdown()
	p.WaitForShutdown()
}

// jetStream connects as a client of this server alone.
func (p *plain) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(p.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// freeAddrs are addresses of loopback on which nobody listens.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are known
		addrs[i] = l.Addr().String()
	}
	return addrs
}

// storeText turns JetStream on, with a store of the test.
func storeText(t *testing.T) string { return fmt.Sprintf("jetstream {store_dir: %q}\n", t.TempDir()) }

// startCluster starts three servers with JetStream, named after the cluster, and waits until they can make streams. Text
// is for each of them.
func startCluster(t *testing.T, cluster, text string) []*plain {
	t.Helper()
	routes := freeAddrs(t, 3)
	servers := make([]*plain, len(routes))
	for i, listen := range routes {
		servers[i] = startPlain(t, fmt.Sprintf("%s-%d", cluster, i), storeText(t)+text+fmt.Sprintf(
			"cluster {name: %s, listen: %q, routes: [%s]}", cluster, listen, "nats://"+strings.Join(routes, ", nats://")))
	}
	bustest.WaitFor(t, "a cluster", func() bool {
		return slices.ContainsFunc(servers, func(p *plain) bool { return p.JetStreamIsLeader() }) &&
			!slices.ContainsFunc(servers, func(p *plain) bool { return !p.JetStreamIsCurrent() || p.NumRoutes() == 0 })
	})
	return servers
}

// readSystem returns a reader that runs, of the cluster of the servers given.
func readSystem(t *testing.T, expect int, servers ...*plain) *systemReader {
	t.Helper()
	c := SystemConfig{Username: "system", PasswordFile: passwordFile(t), Expect: expect}
	for _, p := range servers {
		c.URLs = append(c.URLs, p.ClientURL())
	}
	return runSystem(t, c)
}

// passwordFile has the password of the user system.
func passwordFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// runSystem returns a reader that runs until the test ends.
func runSystem(t *testing.T, c SystemConfig) *systemReader {
	t.Helper()
	r := newSystemReader(c, false, defaultLimits(), slog.New(slog.NewTextHandler(t.Output(), nil)), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// readAll reads until the servers of those names, no more and no less, answer everything, and returns them by name.
func readAll(t *testing.T, r *systemReader, names ...string) map[string]*Server {
	t.Helper()
	slices.Sort(names)
	var servers map[string]*Server
	last := ""
	missing := func(why string) bool {
		if why != last {
			t.Log(why)
		}
		last = why
		return false
	}
	bustest.WaitFor(t, fmt.Sprintf("%v, whole", names), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		read, err := r.Read(ctx)
		if err != nil {
			return missing(err.Error())
		}
		servers = map[string]*Server{}
		for _, s := range read {
			if len(s.Errors) > 0 {
				return missing(fmt.Sprint(s.Name, s.Errors))
			}
			servers[s.Name] = s
		}
		return len(read) == len(names) && slices.Equal(slices.Sorted(maps.Keys(servers)), names)
	})
	return servers
}
