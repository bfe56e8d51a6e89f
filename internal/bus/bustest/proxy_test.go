package bustest_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// pair is a connection through the proxy, from both its ends.
func pair(t *testing.T, listener net.Listener, p *bustest.Proxy) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	io.WriteString(client, "!") // the proxy knows the connection when it has carried something
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A bad link is slow and does not change what it carries.
func TestProxyCarries(t *testing.T) {
	listener := listen(t)
	p := bustest.NewProxy(t, listener.Addr().String())
	p.SetRate(1 << 20)
	p.SetLatency(20 * time.Millisecond)
	p.SetLoss(0.005)
	client, server := pair(t, listener, p)
	for _, direction := range []struct{ from, to net.Conn }{{client, server}, {server, client}} {
		sent := make([]byte, 300<<10)
		rand.Read(sent)
		go direction.from.Write(sent)
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(direction.to, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes, equal %v, %v", len(got), bytes.Equal(got, sent), err)
		}
	}
	client.Close()
	if n, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
}

// silent reports whether nothing, not even an end, comes out of the connection. It can only err by saying so of a link
// that is slow.
func silent(t *testing.T, c net.Conn) bool {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	defer c.SetReadDeadline(time.Time{})
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

func TestProxyStalls(t *testing.T) {
	listener := listen(t)
	p := bustest.NewProxy(t, listener.Addr().String())
	client, server := pair(t, listener, p)
	p.Stall(true)
	io.WriteString(client, "held")
	client.Close()
	if !silent(t, server) {
		t.Error("something came through a stalled link")
	}
	p.Stall(false)
	if got, err := io.ReadAll(server); string(got) != "held" || err != nil {
		t.Errorf("after the stall: %q, %v", got, err)
	}
}

func TestProxyForgets(t *testing.T) {
	listener := listen(t)
	p := bustest.NewProxy(t, listener.Addr().String())
	client, server := pair(t, listener, p)
	p.Forget()
	io.WriteString(server, "lost")
	if !silent(t, client) {
		t.Error("something came through a forgotten connection")
	}
	client.Close()
	if !silent(t, server) {
		t.Error("the end came through a forgotten connection")
	}
	client, server = pair(t, listener, p)
	io.WriteString(client, "new")
	got := make([]byte, 3)
	if _, err := io.ReadFull(server, got); string(got) != "new" || err != nil {
		t.Errorf("on a new connection: %q, %v", got, err)
	}
	p.Cut()
	if _, err := server.Read(got); err == nil {
		t.Error("cut connection goes on")
	}
}
