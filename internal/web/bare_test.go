package web

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
)

func TestBare(t *testing.T) {
	s, err := NewBare(BareOptions{
		ListenAddress: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Handlers: map[string]http.Handler{"POST /x": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f := func(method, path string, want int) {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+s.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s %s: status %d, want %d", method, path, answer.StatusCode, want)
		}
	}
	f("POST", "/x", 200)
	f("GET", "/x", 405)
	for _, path := range []string{"/", "/metrics", "/federate", "/debug/pprof/", "/-/ready", "/api/v1/thalweg/sites"} {
		f("GET", path, 404)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := NewBare(BareOptions{ListenAddress: "256.0.0.1:0"}); err == nil {
		t.Error("an address that cannot be bound is taken")
	}
	bad := BareOptions{ListenAddress: "127.0.0.1:0"}
	bad.TLS.TLSCertPath, bad.TLS.TLSKeyPath = "missing", "missing"
	if _, err := NewBare(bad); err == nil {
		t.Error("a certificate that is not there is taken")
	}
}

func TestBareWithTLS(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	o := BareOptions{
		ListenAddress: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Handlers: map[string]http.Handler{"GET /x": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})},
	}
	o.TLS.TLSCertPath, o.TLS.TLSKeyPath = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	s, err := NewBare(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	answer, err := client.Get("https://" + s.Addr().String() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer, err = http.Get("http://" + s.Addr().String() + "/x"); err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("plain text is answered")
		}
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
