package natsmon

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/config"
)

// TestMonitoringPortWithTLS reads a server whose monitoring port speaks TLS, with its authority known and unknown.
func TestMonitoringPortWithTLS(t *testing.T) {
	cert, key := certificateFiles(t)
	s := startServer(t, fmt.Sprintf(`https: "127.0.0.1:-1", tls { cert_file: %q, key_file: %q }`, cert, key))
	url := "https://" + s.MonitorAddr().String()

	trusting := ServerConfig{URL: url, TLSConfig: config.TLSConfig{CAFile: cert}}
	got := scrape(t, exporterFor(t, nil, Config{Servers: []ServerConfig{trusting}}).Handler())
	expectLines(t, got, `nats_up{target="`+url+`"} 1`, `nats_server_clients 0`)

	if _, err := httpOf(t, ServerConfig{URL: url}).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error without the authority: %v", err)
	}
}

// TestBasicAuth reads a server behind a proxy that asks for a password.
func TestBasicAuth(t *testing.T) {
	s := startServer(t, "")
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "monitor" || password != "right" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		s.HTTPHandler().ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	readOne(t, httpOf(t, ServerConfig{URL: proxy.URL, BasicAuth: &config.BasicAuth{Username: "monitor", PasswordFile: password}}))

	for name, auth := range map[string]*config.BasicAuth{"none": nil, "wrong": {Username: "monitor", Password: "wrong"}} {
		_, err := httpOf(t, ServerConfig{URL: proxy.URL, BasicAuth: auth}).Read(t.Context())
		if err == nil || !strings.Contains(err.Error(), "401 Unauthorized: who are you?") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("password %s: error %v", name, err)
		}
	}
}

// certificateFiles are a certificate for loopback, which is its own authority, and its key.
func certificateFiles(t *testing.T) (cert, key string) {
	t.Helper()
	h := httptest.NewTLSServer(nil)
	defer h.Close()
	private, err := x509.MarshalPKCS8PrivateKey(h.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", h.Certificate().Raw), write("key.pem", "PRIVATE KEY", private)
}
