package web

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	toolkit "github.com/prometheus/exporter-toolkit/web"
)

// BareOptions of NewBare. All are required but TLS.
type BareOptions struct {
	// ListenAddress is HOST:PORT. Port 0 takes a free one; see Server.Addr.
	ListenAddress string
	// TLS of the listener; without a certificate it is plain text.
	TLS    toolkit.TLSConfig
	Logger *slog.Logger
	// Handlers of all paths by pattern of http.ServeMux. They ask for credentials themselves.
	Handlers map[string]http.Handler
}

// NewBare binds a listener for strangers: there is nothing behind it but the handlers, neither pages nor metrics nor
// profiles. It has the limits and timeouts of every Server, and no Metrics of its own.
func NewBare(o BareOptions) (*Server, error) {
	var secured *tls.Config
	if o.TLS.IsEnabled() {
		var err error
		if secured, err = toolkit.ConfigToTLSConfig(&o.TLS); err != nil {
			return nil, fmt.Errorf("set up TLS of listener %s: %w", o.ListenAddress, err)
		}
	}
	l, err := net.Listen("tcp", o.ListenAddress)
	if err != nil {
		return nil, fmt.Errorf("bind listener: %w", err)
	}
	if secured != nil {
		l = tls.NewListener(l, secured)
	}
	mux := http.NewServeMux()
	for pattern, h := range o.Handlers {
		mux.Handle(pattern, h)
	}
	return &Server{listener: l, log: o.Logger, http: newHTTP(mux, o.Logger)}, nil
}
