package bus

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/common/config"
)

// natsOptions translates the configuration for the client library.
func (c *Conn) natsOptions() (*nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Servers = c.options.Config.URLs
	o.Name = c.options.Name
	o.Timeout = connectTimeout
	o.PingInterval = pingInterval
	o.MaxPingsOut = pingsOutstanding
	o.FlusherTimeout = connectTimeout
	o.RetryOnFailedConnect = true
	o.AllowReconnect = true
	o.MaxReconnect = -1
	o.IgnoreAuthErrorAbort = true
	// What cannot be sent now is an error, not a surprise for later.
	o.ReconnectBufSize = -1
	// A cluster tells addresses that may mean nothing from here; those of the configuration do.
	o.IgnoreDiscoveredServers = true
	o.CustomReconnectDelayCB = c.reconnectDelay
	o.ConnectedCB = c.onConnect
	o.ReconnectedCB = c.onConnect
	o.DisconnectedErrCB = c.onDisconnect
	o.ReconnectErrCB = c.onAttempt
	o.AsyncErrorCB = c.onError
	o.ClosedCB = c.onClose
	if site := c.options.Site; site != "" {
		if err := ValidSite(site); err != nil {
			return nil, err
		}
		// The answer to a ping waits behind the frame that is on its way, so no frame may take longer than the pings go
		// on. That nobody is there any more an edge learns from its publishes, and sooner.
		o.MaxPingsOut = int(publishTime(largestFrame)/pingInterval) + 1
		prefix := cmp.Or(c.options.Inbox, InboxPrefix(site))
		o.InboxPrefix = prefix + "." + rand.Text() // nobody can guess where answers arrive
	}
	dialer := &dialer{conn: c, net: net.Dialer{Timeout: connectTimeout, KeepAlive: -1}}
	o.CustomDialer = dialer
	if local := c.options.InProcess; local != nil {
		o.Servers = nil
		o.InProcessServer = dialer
		o.User, o.Password = local.User, local.Password
		return &o, nil
	}
	if len(o.Servers) == 0 {
		return nil, errors.New("no URL given")
	}
	if proxy := c.options.Config.ProxyURL; proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil {
			return nil, fmt.Errorf("parse proxy_url: %w", err)
		}
		dialer.proxy = u
		o.SkipHostLookup = true // the proxy resolves names
	}
	if t := c.options.Config.TLS(); c.options.TLS != nil {
		o.TLSConfig = c.options.TLS
	} else if !reflect.ValueOf(t).IsZero() {
		var err error
		if o.TLSConfig, err = config.NewTLSConfig(&t); err != nil {
			return nil, fmt.Errorf("read tls_config: %w", err)
		}
	}
	return &o, c.credentials(&o)
}

// credentials sets who this client says it is. All files are read again at each connect.
func (c *Conn) credentials(o *nats.Options) error {
	switch cfg := &c.options.Config; {
	case c.options.Login != nil:
		c.logins(o)
	case cfg.TokenFile != "":
		o.User = c.options.Site // the server compares it with the token's
		o.TokenHandler = func() string { return c.readSecret("token_file", cfg.TokenFile) }
	case cfg.Username != "":
		o.UserInfo = func() (string, string) {
			return cfg.Username, c.readSecret("password_file", cfg.PasswordFile)
		}
	case cfg.CredentialsFile != "":
		return nats.UserCredentials(cfg.CredentialsFile)(o)
	case cfg.NKeySeedFile != "":
		public, _, err := signWithSeed(cfg.NKeySeedFile, nil)
		if err != nil {
			return err
		}
		o.Nkey = public
		o.SignatureCB = func(nonce []byte) ([]byte, error) {
			now, signature, err := signWithSeed(cfg.NKeySeedFile, nonce)
			if err == nil && now != public {
				err = fmt.Errorf("nkey_seed_file %q holds another key than at start; restart to use it", cfg.NKeySeedFile)
			}
			return signature, err
		}
	case c.options.Site != "":
		o.User = c.options.Site
	default:
		o.User = coreUser
	}
	return nil
}

// logins sets a login that is asked for anew at each connect.
func (c *Conn) logins(o *nats.Options) {
	var login Login // of the attempt under way; the library asks for its parts in this order
	o.User = c.options.Site
	o.UserJWT = func() (string, error) { // unlike Options.Nkey it may change
		var err error
		if login, err = c.options.Login(); err != nil {
			c.setSecret(err)
			return "", err
		}
		return login.Key, nil
	}
	o.SignatureCB = func(nonce []byte) ([]byte, error) { return login.Sign(nonce) }
	o.TokenHandler = func() string { return login.Token }
}

// refusal says of a refused login which credential it was, in the same words wherever the library reports it. It is
// nil for other errors.
func (c *Conn) refusal(err error) error {
	for _, refusal := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
	} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("server refused the credential (%s): %w", c.credentialSource(), refusal)
		}
	}
	return nil
}

// credentialSource names the setting and the file, not what is in it.
func (c *Conn) credentialSource() string {
	switch cfg := &c.options.Config; {
	case c.options.InProcess != nil:
		return "of this process"
	case c.options.Login != nil:
		return c.options.LoginSource
	case cfg.TokenFile != "":
		return "token_file " + cfg.TokenFile
	case cfg.Username != "":
		return fmt.Sprintf("username %s, password_file %s", cfg.Username, cfg.PasswordFile)
	case cfg.CredentialsFile != "":
		return "credentials_file " + cfg.CredentialsFile
	case cfg.NKeySeedFile != "":
		return "nkey_seed_file " + cfg.NKeySeedFile
	}
	return "none is configured"
}

// readSecret returns "" if the file cannot be read: the server then refuses the client, and the state says why.
func (c *Conn) readSecret(key, file string) string {
	b, err := os.ReadFile(file)
	secret := strings.TrimSpace(string(b))
	if err == nil && secret == "" {
		err = fmt.Errorf("%q is empty", file)
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", key, err)
	}
	c.setSecret(err)
	return secret
}

// setSecret keeps why this client cannot say who it is, nil if it can.
func (c *Conn) setSecret(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secret = err
}

func signWithSeed(file string, nonce []byte) (public string, signature []byte, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", nil, fmt.Errorf("read nkey_seed_file: %w", err)
	}
	defer clear(b)
	key, err := nkeys.ParseDecoratedNKey(b)
	if err != nil {
		return "", nil, fmt.Errorf("read nkey_seed_file %q: %w", file, err)
	}
	defer key.Wipe()
	if public, err = key.PublicKey(); err != nil {
		return "", nil, fmt.Errorf("read nkey_seed_file %q: %w", file, err)
	}
	signature, err = key.Sign(nonce)
	return public, signature, err
}

// reconnectDelay is asked for a pause each time that all servers have been tried. Its jitter keeps a fleet from coming
// back at once. It grows only where an attempt is work for a server: a link that returns is to be found within a second.
func (c *Conn) reconnectDelay(rounds int) time.Duration {
	c.mu.Lock()
	dialed, limit := c.dialed, reconnectQuick
	if c.reached {
		limit = reconnectMax
	}
	c.mu.Unlock()
	if !dialed {
		return time.Millisecond
	}
	if err := c.nc.LastError(); err != nil { // a refused login, for which the library has no callback
		c.onAttempt(c.nc, err)
	}
	limit = min(reconnectMin<<min(rounds, 10), limit)
	return reconnectMin + mathrand.N(limit-reconnectMin)
}

// errNotYet keeps nats.Connect, which dials before it returns, from blocking: the first real attempt is made by the
// library's reconnect loop.
var errNotYet = errors.New("not yet")

// dialer makes the connections: in process, directly or through a proxy.
type dialer struct {
	conn  *Conn
	net   net.Dialer
	proxy *url.URL
}

func (d *dialer) admit() error {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	if !d.conn.dialable {
		return errNotYet
	}
	d.conn.dialed = true
	d.conn.secret = nil
	return nil
}

// InProcessConn implements nats.InProcessConnProvider.
func (d *dialer) InProcessConn() (net.Conn, error) {
	if err := d.admit(); err != nil {
		return nil, err
	}
	return d.conn.options.InProcess.Dial()
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	if err := d.admit(); err != nil {
		return nil, err
	}
	if d.proxy == nil {
		return d.dial(network, address)
	}
	conn, err := d.dialProxy(network, address)
	if err != nil {
		return nil, fmt.Errorf("reach %s through proxy %s: %w", address, d.proxy.Redacted(), err)
	}
	return conn, nil
}

// dial makes a connection. It begins anew every dialEvery, and the first attempt that succeeds counts: the system itself
// repeats a lost packet after 1, 3 and 7 seconds, in which a link may have returned long since.
func (d *dialer) dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	attempt := func() {
		conn, err := d.net.DialContext(ctx, network, address)
		select {
		case results <- result{conn, err}:
		case <-ctx.Done():
			if conn != nil {
				conn.Close()
			}
		}
	}
	anew := time.NewTicker(dialEvery)
	defer anew.Stop()
	go attempt() // ends with ctx at the latest, as the others do
	for {
		select {
		case r := <-results:
			d.reached(r.err == nil)
			return r.conn, r.err
		case <-anew.C:
			go attempt()
		case <-ctx.Done():
			d.reached(false)
			return nil, fmt.Errorf("dial %s %s: %w", network, address, os.ErrDeadlineExceeded)
		}
	}
}

// reached notes whether something answered.
func (d *dialer) reached(yes bool) {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	d.conn.reached = yes
}

// dialProxy asks an HTTP proxy for a tunnel.
func (d *dialer) dialProxy(network, address string) (_ net.Conn, err error) {
	host := d.proxy.Host
	if d.proxy.Port() == "" {
		host = net.JoinHostPort(d.proxy.Hostname(), map[string]string{"http": "80", "https": "443"}[d.proxy.Scheme])
	}
	conn, err := d.dial(network, host)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if d.proxy.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: d.proxy.Hostname()})
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secure
	}
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return nil, err
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := d.proxy.User; user != nil {
		password, _ := user.Password()
		credential := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+credential)
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	// The server speaks first on a NATS connection, so its bytes can follow the answer's at once.
	buffered := bufio.NewReader(conn)
	response, err := http.ReadResponse(buffered, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("proxy answers %s", response.Status)
	}
	if length := response.Header.Get("Content-Length"); length != "" && length != "0" {
		return nil, fmt.Errorf("proxy answers with a page (%s) instead of a tunnel; it may want a login", response.Header.Get("Content-Type"))
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &tunnel{Conn: conn, buffered: buffered}, nil
}

// tunnel is a connection of which some bytes have been read already.
type tunnel struct {
	net.Conn
	buffered *bufio.Reader
}

func (t *tunnel) Read(b []byte) (int, error) { return t.buffered.Read(b) }
