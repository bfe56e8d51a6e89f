package scrape

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
)

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// All ways of Prometheus to prove who scrapes, against servers that refuse everybody else.
func TestAuthentication(t *testing.T) {
	header := func(name, want string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get(name); got != want {
				http.Error(w, fmt.Sprintf("%s is %q", name, got), http.StatusUnauthorized)
				return
			}
			text(w, "a 1\n")
		}
	}
	basic := func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		text(w, "a 1\n")
	}
	tokens := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "client" || password != "s3cret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "metrics" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token": "issued", "token_type": "Bearer", "expires_in": 3600}`)
	})
	f := func(name string, server http.HandlerFunc, settings ...string) {
		t.Run(name, func(t *testing.T) {
			good, bad := jobYAML("good", serve(t, server), settings...), jobYAML("bad", serve(t, server))
			_, rec, _ := run(t, good+bad)
			of := func(job string) func(*got) bool {
				return func(g *got) bool { return strings.HasPrefix(g.key, "scrape/"+job+"/") }
			}
			rec.wait(t, 0, "a scrape that is let in", func(g *got) bool { return of("good")(g) && g.has("a", 1) })
			if row, _ := rec.wait(t, 0, "a scrape without credentials", of("bad")); row.up() != 0 {
				t.Errorf("let in without credentials: %v", row.values)
			}
		})
	}
	f("basic_auth", basic, "  basic_auth: {username: u, password: p}")
	f("basic_auth files", basic, "  basic_auth:", "    username_file: "+writeFile(t, "u", "u"), "    password_file: "+writeFile(t, "p", "p\n"))
	f("authorization", header("Authorization", "Bearer token"), "  authorization: {credentials: token}")
	f("authorization type", header("Authorization", "Custom token"), "  authorization: {type: Custom, credentials: token}")
	f("authorization file", header("Authorization", "Bearer token"),
		"  authorization:", "    credentials_file: "+writeFile(t, "token", "token\n"))
	f("bearer_token", header("Authorization", "Bearer token"), "  bearer_token: token")
	f("bearer_token_file", header("Authorization", "Bearer token"), "  bearer_token_file: "+writeFile(t, "token", "token"))
	f("oauth2", header("Authorization", "Bearer issued"),
		"  oauth2: {client_id: client, client_secret: s3cret, scopes: [metrics], token_url: 'http://"+tokens+"/token'}")
	f("http_headers", header("X-Scope", "tenant"), "  http_headers: {X-Scope: {values: [tenant]}}")
	f("http_headers secrets", header("X-Scope", "tenant"), "  http_headers: {X-Scope: {secrets: [tenant]}}")
}

// A password file that changes is read again without a reload.
func TestPasswordFileIsReadAgain(t *testing.T) {
	var wanted atomic.Value
	wanted.Store("old")
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != wanted.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		text(w, "a 1\n")
	})
	file := writeFile(t, "password", "old")
	_, rec, _ := run(t, jobYAML("node", addr, "  basic_auth:", "    username: u", "    password_file: "+file))
	_, n := rec.wait(t, 0, "the old password", func(g *got) bool { return g.has("a", 1) })
	wanted.Store("new")
	_, n = rec.wait(t, n, "the old password refused", func(g *got) bool { return g.up() == 0 })
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	rec.wait(t, n, "the new password", func(g *got) bool { return g.has("a", 1) })
}

// clientCertificate makes a certificate that signs itself, and returns its files.
func clientCertificate(t *testing.T) (cert *x509.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pemFile(t, "CERTIFICATE", der), pemFile(t, "PRIVATE KEY", private)
}

func pemFile(t *testing.T, typ string, der []byte) string {
	t.Helper()
	return writeFile(t, "pem", string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})))
}

func TestTLS(t *testing.T) {
	cert, certFile, keyFile := clientCertificate(t)
	known := x509.NewCertPool()
	known.AddCert(cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") }))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of each refused certificate
	server.StartTLS()
	t.Cleanup(server.Close)
	addr := strings.TrimPrefix(server.URL, "https://")
	ca := pemFile(t, "CERTIFICATE", server.Certificate().Raw)

	client := ", cert_file: " + certFile + ", key_file: " + keyFile
	f := func(name, tlsConfig string, up float64, reason string) {
		t.Run(name, func(t *testing.T) {
			m, rec, _ := run(t, jobYAML("node", addr, "  scheme: https", "  tls_config: {"+tlsConfig+"}"))
			rec.wait(t, 0, fmt.Sprintf("up %v", up), func(row *got) bool { return row.up() == up })
			eventually(t, "the reason "+reason, func() bool {
				targets := m.Targets()
				return len(targets) == 1 && (up == 1 || targets[0].Err != nil && strings.Contains(targets[0].Err.Error(), reason))
			})
		})
	}
	f("all right", "ca_file: "+ca+", server_name: example.com"+client, 1, "")
	f("unchecked", "insecure_skip_verify: true"+client, 1, "")
	f("unknown authority", "server_name: example.com"+client, 0, "unknown authority")
	f("other name", "ca_file: "+ca+", server_name: example.net"+client, 0, "not example.net")
	f("no certificate", "ca_file: "+ca+", server_name: example.com", 0, "certificate required")
}

// A proxy sees the requests of the jobs that name it, and of no others.
func TestProxy(t *testing.T) {
	through := make(chan *http.Request, 100)
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		through <- r.Clone(r.Context())
		text(w, "from_proxy 1\n")
	})
	direct := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "direct 1\n") })
	_, rec, _ := run(t, jobYAML("proxied", "target.example:80", "  proxy_url: http://user:pass@"+proxy)+
		jobYAML("direct", direct, "  proxy_url: http://"+proxy, "  no_proxy: 127.0.0.1"))
	rec.wait(t, 0, "an answer of the proxy", func(g *got) bool { return g.has("from_proxy", 1) })
	rec.wait(t, 0, "a direct answer", func(g *got) bool { return g.has("direct", 1) })
	r := <-through
	if r.URL.String() != "http://target.example:80/metrics" || r.Header.Get("Proxy-Authorization") != "Basic dXNlcjpwYXNz" {
		t.Errorf("the proxy was asked for %s with %v", r.URL, r.Header)
	}
}

// Credentials are for the target, not for where it sends us.
func TestRedirect(t *testing.T) {
	seen := make(chan string, 100)
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		text(w, "a 1\n")
	})
	_, port, _ := strings.Cut(other, ":")
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://localhost:"+port, http.StatusFound) // another host than 127.0.0.1
	})
	_, rec, _ := run(t, jobYAML("follows", target, "  authorization: {credentials: token}")+
		jobYAML("stays", target, "  follow_redirects: false"))
	rec.wait(t, 0, "the redirected answer", func(g *got) bool { return strings.HasPrefix(g.key, "scrape/follows/") && g.has("a", 1) })
	rec.wait(t, 0, "a refused redirect", func(g *got) bool { return strings.HasPrefix(g.key, "scrape/stays/") && g.up() == 0 })
	if got := <-seen; got != "" {
		t.Errorf("another host got %q", got)
	}
}

func TestAccept(t *testing.T) {
	f := func(settings, want string) {
		t.Helper()
		cfg := configs(t, jobYAML("node", "h:1", settings))[0]
		scheme, err := promconfig.ToEscapingScheme(cfg.MetricNameEscapingScheme, cfg.MetricNameValidationScheme)
		if err != nil {
			t.Fatal(err)
		}
		if got := accept(cfg.ScrapeProtocols, scheme); got != want {
			t.Errorf("%s:\n got %s\nwant %s", settings, got, want)
		}
	}
	f("  scrape_protocols: [PrometheusText0.0.4]", "text/plain;version=0.0.4;q=0.7,*/*;q=0.6")
	f("  scrape_protocols: [PrometheusText1.0.0, PrometheusProto]",
		"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.7,"+
			"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,*/*;q=0.5")
	f("  scrape_protocols: [OpenMetricsText1.0.0]\n  metric_name_validation_scheme: legacy",
		"application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.7,*/*;q=0.6")
	f("  scrape_protocols: [OpenMetricsText1.0.0]\n  metric_name_escaping_scheme: dots",
		"application/openmetrics-text;version=1.0.0;escaping=dots;q=0.7,*/*;q=0.6")
	f("  scrape_native_histograms: true", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"+
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"+
		"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2")
}

// The answer decides which parser it gets; fallback_scrape_protocol stands in where it does not say.
func TestContentTypes(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		io.WriteString(w, r.URL.Query().Get("body"))
	})
	job := func(name, contentType, body, more string) string {
		return jobYAML(name, addr, fmt.Sprintf("  params: {type: [%q], body: [%q]}", contentType, body), more)
	}
	fallback := "  fallback_scrape_protocol: "
	_, rec, _ := run(t, job("text", "text/plain", "a 1\n", "")+
		job("om", "application/openmetrics-text; version=1.0.0; charset=utf-8", "a 1\n# EOF\n", "")+
		job("truncated", "application/openmetrics-text", "a 1\n", "")+
		job("blank", "", "a 1\n", "")+
		job("strange", "application/x-what", "a 1\n", "")+
		job("blank-fallback", "", "a 1\n", fallback+"PrometheusText0.0.4")+
		job("strange-fallback", "application/x-what", "a 1\n# EOF\n", fallback+"OpenMetricsText1.0.0"))
	for name, up := range map[string]float64{
		"text": 1, "om": 1, "truncated": 0, "blank": 0, "strange": 0, "blank-fallback": 1, "strange-fallback": 1,
	} {
		row, _ := rec.wait(t, 0, "a scrape of "+name, func(g *got) bool { return strings.HasPrefix(g.key, "scrape/"+name+"/") })
		if row.up() != up || row.has("a", 1) != (up == 1) {
			t.Errorf("%s: %v", name, row.values)
		}
	}
}

func TestFailureLogFile(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusTeapot) })
	file := filepath.Join(t.TempDir(), "failures.json")
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { text(w, "a 1\n") })
	m, rec, _ := run(t, jobYAML("node", addr+", "+good, "  scrape_failure_log_file: "+file))
	_, n := rec.wait(t, 0, "up 0", func(g *got) bool { return g.up() == 0 })
	read := func() string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	eventually(t, "a line", func() bool { return strings.Contains(read(), "\n") })
	var line struct{ Level, Msg, Target, Job string }
	first, _, _ := strings.Cut(read(), "\n")
	if err := json.Unmarshal([]byte(strings.Replace(first, "job_name", "job", 1)), &line); err != nil {
		t.Fatal(err)
	}
	want := "server returned HTTP status 418 I'm a teapot"
	if line.Level != "ERROR" || line.Msg != want || line.Job != "node" || line.Target != "http://"+addr+"/metrics" {
		t.Errorf("line %s", first)
	}
	if strings.Contains(read(), good) {
		t.Error("a good scrape is in the file")
	}
	// Without the key the file is left alone.
	if err := m.ApplyConfig(t.Context(), configs(t, jobYAML("node", addr+", "+good))); err != nil {
		t.Fatal(err)
	}
	_, n = rec.wait(t, n, "a scrape that may be under way", func(g *got) bool { return g.up() == 0 })
	_, n = rec.wait(t, n, "one more", func(g *got) bool { return g.up() == 0 })
	before := read()
	rec.wait(t, n, "another", func(g *got) bool { return g.up() == 0 })
	if after := read(); after != before {
		t.Errorf("file grew by %q", after[len(before):])
	}
	bad := configs(t, jobYAML("node", addr, "  scrape_failure_log_file: "+t.TempDir()))
	if err := m.ApplyConfig(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "scrape_failure_log_file of job \"node\"") {
		t.Errorf("a directory as file: %v", err)
	}
}

// Labels of a target decide over its protocol, as in Prometheus.
func TestTargetSwitches(t *testing.T) {
	cfg := configs(t, jobYAML("node", "h:1", "  scrape_native_histograms: true"))[0]
	f := func(label, v string, want bool, wantErr string) {
		t.Helper()
		target, err := newTarget(cfg, model.LabelSet{"__address__": "h:1", model.LabelName(label): model.LabelValue(v)}, nil)
		if wantErr != "" {
			if err == nil || !strings.HasPrefix(err.Error(), wantErr) {
				t.Errorf("%s=%s: error %v, want %s", label, v, err, wantErr)
			}
			return
		}
		if err != nil {
			t.Errorf("%s=%s: %v", label, v, err)
		} else if got := map[string]bool{nativeLabel: target.native, classicLabel: target.classic, convertLabel: target.convert}[label]; got != want {
			t.Errorf("%s=%s is %t", label, v, got)
		}
	}
	f(nativeLabel, "", true, "")
	f(nativeLabel, "false", false, "")
	f(classicLabel, "true", true, "")
	f(convertLabel, "true", true, "")
	f(convertLabel, "perhaps", false, "label __convert_classic_histograms_to_nhcb__: ")
}
