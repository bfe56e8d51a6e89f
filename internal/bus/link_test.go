package bus_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/natsd"
)

// bad makes a link as bad as those that are still promised to work.
func bad(p *bustest.Proxy) {
	p.SetRate(256_000 / 8)
	p.SetLatency(600 * time.Millisecond)
	p.SetLoss(0.05)
}

// TestBadLink: over a slow link that loses packets each transport connects, small messages go through, and so does a
// large frame: neither is it given up before it can have arrived, nor the connection meanwhile.
func TestBadLink(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	websocket := free.Addr().String()
	free.Close()
	file := filepath.Join(t.TempDir(), "nats.conf")
	write(t, file, fmt.Sprintf("websocket {listen: %q, tls {cert_file: %q, key_file: %q}}", websocket, cert, key))
	server := bustest.NewServer(t, func(o *natsd.Options) {
		o.Config.ConfigFile = file
		o.Config.TLSServerConfig.TLSCertPath = cert
		o.Config.TLSServerConfig.TLSKeyPath = key
	})
	config := bustest.Config("tls://" + server.Addr())
	config.TLSConfig.CAFile = cert
	hub := bustest.Connected(t, bus.Options{Config: config})
	bustest.EnsureStream(t, hub)
	proxy := bustest.NewHTTPProxy(t, "user:pass")
	direct, proxied := bustest.NewProxy(t, server.Addr()), bustest.NewProxy(t, proxy.Addr())
	for _, test := range []struct {
		site, url, proxy string
		link             *bustest.Proxy
	}{
		{"direct", "tls://" + direct.Addr(), "", direct},
		{"proxied", "wss://" + websocket, "http://user:pass@" + proxied.Addr(), proxied},
	} {
		t.Run(test.site, func(t *testing.T) {
			t.Parallel()
			config := config
			config.URLs, config.ProxyURL = []string{test.url}, test.proxy
			link, site := test.link, test.site
			bad(link)
			edge := bustest.Connected(t, bus.Options{Config: config, Site: site})
			attempts := link.Accepted()
			subject := edge.Root().Lane(site, bus.Live)
			var last uint64
			for _, size := range []int{100, 4 << 10, 16 << 10, 192 << 10, 100} {
				sequence, err := edge.Publish(t.Context(), subject, make([]byte, size), last)
				if err != nil {
					t.Fatal(err)
				}
				last = sequence
			}
			if n := link.Accepted(); n != attempts {
				t.Errorf("the connection was given up %d times", n-attempts)
			}
		})
	}
}

// TestCaptiveProxy: a proxy that answers everything with a page is named as what it is, and left in peace when it is
// none any more.
func TestCaptiveProxy(t *testing.T) {
	server := bustest.NewServer(t)
	proxy := bustest.NewHTTPProxy(t, "user:pass")
	proxy.Captive(true)
	config := bustest.Config(server.URL())
	config.ProxyURL = proxy.URL("user:pass")
	edge := bustest.Connect(t, bus.Options{Config: config, Site: "ams-1"})
	bustest.WaitFor(t, "the reason", func() bool {
		reason := edge.State().Reason
		return strings.Contains(reason, "page (text/html)") && strings.Contains(reason, proxy.Addr())
	})
	if reason := edge.State().Reason; strings.Contains(reason, "pass") {
		t.Errorf("reason %q has the password", reason)
	}
	proxy.Captive(false)
	bustest.WaitFor(t, "connection", func() bool { return edge.State().Connected })

	proxy.Captive(true) // as a network that answers in the server's place
	websocket := bustest.Connect(t, bus.Options{Config: bustest.Config("ws://" + proxy.Addr()), Site: "ams-1"})
	bustest.WaitFor(t, "the reason", func() bool { return strings.Contains(websocket.State().Reason, "websocket") })
}

// TestHalfOpen: connections that a NAT forgot, without a word to either side, are replaced, by who publishes and by who
// only reads.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	server := bustest.NewServer(t)
	link := bustest.NewProxy(t, server.Addr())
	config := bustest.Config(link.URL())
	hub := bustest.Connected(t, bus.Options{Config: config})
	bustest.EnsureStream(t, hub)
	edge := bustest.Connected(t, bus.Options{Config: config, Site: "ams-1"})
	publisher, tape := newPublisher(t, edge, "ams-1", bus.Live), read(t, hub, bus.ReaderOptions{})
	tape.expect(caughtUp)
	publisher.send("before")
	tape.expect(caughtUp, "before")
	link.Forget()
	publisher.send("after")
	bustest.WaitFor(t, "the reader", func() bool { return slices.Equal(tape.payloadsOnly(), []string{"before", "after"}) })
}
