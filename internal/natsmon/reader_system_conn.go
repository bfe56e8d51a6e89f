package natsmon

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/common/config"
)

// How a connection of a system account behaves: it is for ever, and whatever cannot be sent now is an error.
const (
	systemConnectTimeout = 3 * time.Second
	systemReconnectWait  = time.Second
	systemPingInterval   = 5 * time.Second
	systemPingsMax       = 2
	// systemInbox is where answers arrive. A user who may do nothing else needs to publish $SYS.REQ.> and to subscribe
	// to this.
	systemInbox = "_INBOX.thalweg-nats-exporter"
	// noConnection is the message of a log line.
	noConnection = "connect to NATS system account"
)

// run keeps the connection until ctx ends. What is wrong with the configuration may be mended meanwhile, such as a file that
// is not there yet.
func (r *systemReader) run(ctx context.Context) error {
	for {
		nc, err := r.connect(ctx)
		if err == nil {
			<-ctx.Done()
			nc.Close()
			return nil
		}
		r.onTrouble(noConnection, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(systemReconnectWait):
		}
	}
}

// connect dials until there is a connection or ctx ends, and goes on doing so when the connection is lost. The first
// round of attempts has been made when it returns.
func (r *systemReader) connect(ctx context.Context) (*nats.Conn, error) {
	c := &r.config
	o := nats.GetDefaultOptions()
	o.Servers = c.URLs
	o.Name = "thalweg nats-exporter"
	o.InboxPrefix = systemInbox + "." + rand.Text() // nobody can guess where answers arrive
	o.Timeout = systemConnectTimeout
	o.FlusherTimeout = systemConnectTimeout
	o.PingInterval = systemPingInterval
	o.MaxPingsOut = systemPingsMax
	o.RetryOnFailedConnect = true
	o.MaxReconnect = -1
	o.ReconnectWait = systemReconnectWait
	o.IgnoreAuthErrorAbort = true
	o.ReconnectBufSize = -1
	o.CustomDialer = dialerUntil{ctx}
	o.ConnectedCB = r.onConnect
	o.ReconnectedCB = r.onConnect
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) { r.onTrouble("connection to NATS system account lost", err) }
	o.ReconnectErrCB = func(_ *nats.Conn, err error) { r.onTrouble(noConnection, err) }
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		r.onTrouble("error on connection to NATS system account", err)
	}
	if t := c.TLSConfig; !reflect.ValueOf(t).IsZero() {
		var err error
		if o.TLSConfig, err = config.NewTLSConfig(&t); err != nil {
			return nil, fmt.Errorf("read tls_config: %w", err)
		}
	}
	if err := r.credentials(&o); err != nil {
		return nil, err
	}
	return o.Connect()
}

// credentials sets who this client says it is. All files are read again at each connect.
func (r *systemReader) credentials(o *nats.Options) error {
	switch c := &r.config; {
	case c.CredentialsFile != "":
		return nats.UserCredentials(c.CredentialsFile)(o)
	case c.NkeySeedFile != "":
		public, _, err := signWithSeed(c.NkeySeedFile, nil)
		if err != nil {
			return err
		}
		o.Nkey = public
		o.SignatureCB = func(nonce []byte) ([]byte, error) {
			_, signature, err := signWithSeed(c.NkeySeedFile, nonce)
			return signature, err
		}
	case c.Username != "":
		o.UserInfo = func() (string, string) {
			password, err := os.ReadFile(c.PasswordFile)
			if err != nil {
				r.onTrouble(noConnection, fmt.Errorf("read password_file: %w", err))
			}
			return c.Username, strings.TrimSpace(string(password))
		}
	}
	return nil
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

// onConnect asks who is there, so that the first scrape knows for whom to wait.
func (r *systemReader) onConnect(nc *nats.Conn) {
	r.log.Log(slog.LevelInfo, "connected", "connected to NATS system account",
		slog.String("target", r.Name()), slog.String("server", nc.ConnectedUrlRedacted()))
	r.mu.Lock()
	r.nc, r.trouble = nc, nil
	r.mu.Unlock()
	if _, err := r.discover(); err != nil {
		r.onTrouble("ask NATS servers who is there", err)
	}
}

// onTrouble keeps the error for the next reading, and logs it. Both an error of the connection and one that a server
// reports on it explain why nothing is read.
func (r *systemReader) onTrouble(message string, err error) {
	if err == nil { // closed by this side
		return
	}
	r.mu.Lock()
	r.trouble = err
	r.mu.Unlock()
	r.log.Log(slog.LevelWarn, message+err.Error(), message,
		slog.String("target", r.Name()), slog.Any("err", err))
}

// dialerUntil makes connections until a context ends: the library's own dialer would keep a process that stops waiting.
type dialerUntil struct{ ctx context.Context }

func (d dialerUntil) Dial(network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: systemConnectTimeout}
	return dialer.DialContext(d.ctx, network, address)
}
