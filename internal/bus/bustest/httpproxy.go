package bustest

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// HTTPProxy makes tunnels for those who ask with CONNECT and the right credential.
type HTTPProxy struct {
	listener net.Listener
	wait     sync.WaitGroup
	user     string

	mu      sync.Mutex
	captive bool
	tunnels int
	open    map[net.Conn]struct{}
}

// loginPage is what a captive proxy has to say to everything.
const loginPage = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 49\r\n\r\n" +
	"<html><body>Please accept our terms</body></html>"

// NewHTTPProxy admits one user, given as "name:password".
func NewHTTPProxy(t testing.TB, user string) *HTTPProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &HTTPProxy{listener: listener, user: user, open: map[net.Conn]struct{}{}}
	p.wait.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is the host and port the proxy listens on.
func (p *HTTPProxy) Addr() string { return p.listener.Addr().String() }

// URL is for proxy_url, with the credential "name:password" in it.
func (p *HTTPProxy) URL(user string) string { return "http://" + user + "@" + p.Addr() }

// Tunnels counts the connections made through the proxy.
func (p *HTTPProxy) Tunnels() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tunnels
}

// Captive lets the proxy answer everything with status 200 and a page, as those of hotels and airports do.
func (p *HTTPProxy) Captive(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.captive = on
}

// Cut closes all connections there are.
func (p *HTTPProxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *HTTPProxy) close() {
	p.listener.Close()
	p.Cut()
	p.wait.Wait()
}

func (p *HTTPProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.open[client] = struct{}{}
		p.mu.Unlock()
		p.wait.Go(func() {
			p.serve(client)
			client.Close()
			p.mu.Lock()
			delete(p.open, client)
			p.mu.Unlock()
		})
	}
}

func (p *HTTPProxy) serve(client net.Conn) {
	reader := bufio.NewReader(client)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return
	}
	p.mu.Lock()
	captive := p.captive
	p.mu.Unlock()
	if captive {
		io.WriteString(client, loginPage)
		io.Copy(io.Discard, reader) // it keeps the connection, as HTTP/1.1 does
		return
	}
	credential := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user))
	if request.Method != http.MethodConnect || request.Header.Get("Proxy-Authorization") != credential {
		io.WriteString(client, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return
	}
	server, err := net.Dial("tcp", request.Host)
	if err != nil {
		io.WriteString(client, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.tunnels++
	p.mu.Unlock()
	io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	p.wait.Go(func() {
		io.Copy(server, reader)
		server.Close()
	})
	io.Copy(client, server)
}
