package receive

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/exporter-toolkit/web"
)

func logger(to *strings.Builder) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

func TestValidate(t *testing.T) {
	f := func(role Role, want string, c Config) {
		t.Helper()
		got := ""
		if err := c.Validate("receive.", role); err != nil {
			got = err.Error()
		}
		if want != "" {
			want = "receive." + want
		}
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s %+v: got %q, want %q", role, c, got, want)
		}
	}
	f(Edge, "", Config{})
	f(Hub, "", Config{})
	f(Edge, "", Config{RemoteWrite: true, Pushgateway: true})
	f(Hub, "tokens_file: nobody could say", Config{Pushgateway: true})
	f(Hub, "", Config{Pushgateway: true, TokensFile: "x", ListenAddress: ":9091"})
	f(Hub, "allow_anonymous: a hub", Config{Pushgateway: true, AllowAnonymous: true})
	f(Edge, "allow_anonymous: would make", Config{RemoteWrite: true, AllowAnonymous: true, TokensFile: "x"})
	f(Edge, "listen_address: \"9091\" is not HOST:PORT", Config{RemoteWrite: true, ListenAddress: "9091"})
	f(Edge, "listen_address: nothing is received", Config{ListenAddress: ":9091"})
	f(Edge, "listen_address: \":9091\" is not loopback and nobody would need a credential", Config{RemoteWrite: true, ListenAddress: ":9091"})
	f(Edge, "", Config{RemoteWrite: true, ListenAddress: "127.0.0.1:9091"})
	f(Edge, "", Config{RemoteWrite: true, ListenAddress: "[::1]:9091"})
	f(Edge, "", Config{RemoteWrite: true, ListenAddress: ":9091", AllowAnonymous: true})
	f(Edge, "", Config{RemoteWrite: true, ListenAddress: ":9091", TokensFile: "x"})
	secured := web.TLSConfig{TLSCertPath: "c", TLSKeyPath: "k", ClientAuth: "RequireAndVerifyClientCert"}
	f(Edge, "", Config{RemoteWrite: true, ListenAddress: ":9091", TLSServerConfig: secured})
	f(Edge, "tls_server_config: is for listen_address", Config{RemoteWrite: true, TLSServerConfig: secured})
	c := Config{Pushgateway: true}
	c.Gateway.TTL = model.Duration(1)
	f(Edge, "pushgateway_ttl:", c)
}
