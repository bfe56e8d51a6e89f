package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/thalweg/thalweg/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options() Options {
	return Options{
		ListenAddress: "127.0.0.1:0",
		Logger:        slog.New(slog.DiscardHandler),
		Gatherer:      prometheus.NewRegistry(),
		Health:        telemetry.NewHealth(),
	}
}

// start runs a server until the test ends, and returns its address.
func start(t *testing.T, o Options) string {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String()
}

func request(t *testing.T, client *http.Client, method, url string, header http.Header) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	return request(t, http.DefaultClient, http.MethodGet, url, nil)
}

func TestPaths(t *testing.T) {
	o := options()
	metrics := telemetry.NewMetrics(telemetry.ReadBuild("1.2.3"))
	o.Gatherer = metrics
	nats := o.Health.Condition("nats edge")
	o.Handlers = map[string]http.Handler{"/federate": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "federated")
	})}
	base := "http://" + start(t, o)
	f := func(method, path string, code int, holds string) {
		t.Helper()
		if got, body := request(t, http.DefaultClient, method, base+path, nil); got != code || !strings.Contains(body, holds) {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, got, body, code, holds)
		}
	}
	f("GET", "/", 200, "<!doctype html>")
	f("GET", "/metrics", 200, `thalweg_build_info{`)
	f("GET", "/-/healthy", 200, "healthy")
	f("GET", "/-/ready", 503, "waiting for nats edge: starting")
	nats.Ready()
	f("GET", "/-/ready", 200, "ready")
	f("GET", "/federate", 200, "federated")
	f("GET", "/debug/pprof/", 200, "goroutine")
	f("GET", "/nothing", 404, "")
	f("POST", "/metrics", 405, "")
	f("POST", "/-/reload", 404, "without a configuration file")
}

func TestReload(t *testing.T) {
	o := options()
	var result error
	calls := 0
	o.Reload = func(context.Context) error {
		calls++
		return result
	}
	url := "http://" + start(t, o) + "/-/reload"
	f := func(method string, header http.Header, code int, holds string) {
		t.Helper()
		if got, body := request(t, http.DefaultClient, method, url, header); got != code || !strings.Contains(body, holds) {
			t.Errorf("%s %v: %d %q, want %d %q", method, header, got, body, code, holds)
		}
	}
	f("GET", nil, 405, "")
	f("POST", http.Header{"Origin": {"https://elsewhere.example"}}, 403, "")
	if calls != 0 {
		t.Fatalf("%d reloads", calls)
	}
	f("POST", nil, 200, "reloaded")
	result = errors.New("line 3, column 7: site: bad")
	f("POST", nil, 500, "configuration not changed:\nline 3, column 7: site: bad")
	if calls != 2 {
		t.Errorf("%d reloads", calls)
	}
}

func TestAPI(t *testing.T) {
	o := options()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	skew := -1.5
	o.Status = Status{
		Sites: func() []Site {
			return []Site{{Name: "ams-1", State: SiteLive, Part: 7, LastRow: at, Series: 12, Epoch: "00ab"}}
		},
		Lanes: func() []Lane {
			return []Lane{
				{Role: "hub", Site: "ams-1", Lane: "live", Epoch: "00ab", Number: 7, Sequence: 12, Rows: 5, Bytes: 900, LastFrame: at, LastKeyframe: at, State: "in order"},
				{Role: "hub", Site: "ams-1", Lane: "backfill", State: "nothing came yet", Backlog: 9, SkewSeconds: &skew, LastError: "it is\nbroken", LastErrorAt: at},
			}
		},
		Gaps: func() []Gap {
			return []Gap{{Site: "ams-1", Epoch: "00ab", FirstFrame: 3, LastFrame: 4, From: at, To: at, Rows: 20, Cause: "evicted"}}
		},
		Outputs: func() []Output {
			return []Output{{Name: "p", Kind: "remote write 1.0", State: "delivers", Holder: true}}
		},
		OutputGaps: func(name string) ([]Gap, bool) {
			return []Gap{{Site: "fra", Output: "p", Cause: "refused_by_output"}}, name == "p"
		},
		Account: func() Account {
			return Account{Since: at, Complete: true, MissingRows: map[string]uint64{"evicted": 20, NotArrived: 0}}
		},
		Sources: func(site string) []Source {
			return []Source{{Site: site, Key: "scrape/node", Labels: map[string]string{"job": "node"}, IntervalSeconds: 15}}
		},
	}
	base := "http://" + start(t, o) + "/api/v1/thalweg/"
	f := func(path, want string) {
		t.Helper()
		code, body := get(t, base+path)
		var a, b any
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			t.Fatalf("%s: %d %q: %v", path, code, body, err)
		}
		if err := json.Unmarshal([]byte(want), &b); err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(a)
		wanted, _ := json.Marshal(b)
		if string(got) != string(wanted) {
			t.Errorf("%s: %s, want %s", path, got, wanted)
		}
	}
	f("sites", `{"status": "success", "data": [{"name": "ams-1", "state": "live", "part": 7, "expected": false, "epoch": "00ab",
		"version": "", "lastRow": "2026-01-02T03:04:05Z", "skewSeconds": 0, "samples": 0, "bytes": 0, "sources": 0, "series": 12, "gaps": 0, "missingRows": 0}]}`)
	f("lanes", `{"status": "success", "data": [
		{"role": "hub", "site": "ams-1", "lane": "live", "epoch": "00ab", "number": 7, "sequence": 12, "rows": 5, "bytes": 900,
			"lastFrame": "2026-01-02T03:04:05Z", "lastKeyframe": "2026-01-02T03:04:05Z", "state": "in order", "backlogRows": 0},
		{"role": "hub", "site": "ams-1", "lane": "backfill", "epoch": "", "number": 0, "sequence": 0, "rows": 0, "bytes": 0, "state": "nothing came yet",
			"backlogRows": 9, "skewSeconds": -1.5, "lastError": "it is\nbroken", "lastErrorAt": "2026-01-02T03:04:05Z"}]}`)
	f("gaps", `{"status": "success", "data": [{"site": "ams-1", "epoch": "00ab", "firstFrame": 3, "lastFrame": 4, "from": "2026-01-02T03:04:05Z",
		"to": "2026-01-02T03:04:05Z", "rows": 20, "cause": "evicted", "fillable": false}],
		"account": {"since": "2026-01-02T03:04:05Z", "complete": true, "missingRows": {"evicted": 20, "not_arrived": 0}}}`)
	f("gaps?output=p", `{"status": "success", "data": [{"site": "fra", "output": "p", "epoch": "", "firstFrame": 0, "lastFrame": 0,
		"from": "0001-01-01T00:00:00Z", "to": "0001-01-01T00:00:00Z", "rows": 0, "cause": "refused_by_output", "fillable": false}]}`)
	f("gaps?output=q", `{"status": "error", "error": "there is no output \"q\""}`)
	const feed = `{"lagSeconds": 0, "behindMessages": 0, "waitingRows": 0, "rows": 0, "samples": 0, "refusedSamples": 0}`
	f("outputs", `{"status": "success", "data": [{"name": "p", "kind": "remote write 1.0", "state": "delivers", "holder": true,
		"live": `+feed+`, "backfill": `+feed+`, "gaps": 0, "missingRows": 0, "errors": 0}]}`)
	code, text := get(t, strings.TrimSuffix(base, "/api/v1/thalweg/")+"/debug/lanes")
	lines := strings.Split(text, "\n")
	if code != 200 || len(lines) != 4 {
		t.Fatalf("/debug/lanes: %d\n%s", code, text)
	}
	for i, want := range []string{
		`^VIEW +SITE +LANE +EPOCH/FRAME +SEQUENCE +LAST FRAME +LAST KEYFRAME +BACKLOG +SKEW +STATE +LAST ERROR$`,
		`^hub +ams-1 +live +00ab/7 +12 +\d+ days ago +\d+ days ago +0 rows +- +in order +-$`,
		`^hub +ams-1 +backfill +- +0 +- +- +9 rows +-1\.5 s +nothing came yet +\d+ days ago: it is broken$`,
	} {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("/debug/lanes line %d is %q, want %s", i+1, lines[i], want)
		}
	}
	f("sources?site=fra", `{"status": "success", "data": [{"site": "fra", "key": "scrape/node", "labels": {"job": "node"},
		"series": 0, "intervalSeconds": 15}]}`)
}

func TestOwnMetrics(t *testing.T) {
	o := options()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := prometheus.NewRegistry()
	r.MustRegister(s.Metrics()...)
	for range 2 {
		s.http.Handler.ServeHTTP(&discard{}, mustRequest(t, "/-/ready"))
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "thalweg_http_requests_total" {
			if m := f.Metric; len(m) != 1 || m[0].Counter.GetValue() != 2 || m[0].Label[1].GetValue() != "/-/ready" {
				t.Errorf("requests are %v", m)
			}
			return
		}
	}
	t.Errorf("no requests in %v", families)
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}

func mustRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestErrorsOfNew(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := options()
	o.ListenAddress = taken.Addr().String()
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "bind web listener") {
		t.Errorf("taken port: %v", err)
	}
	o = options()
	o.ConfigFile = filepath.Join(t.TempDir(), "none.yml")
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "none.yml") {
		t.Errorf("web configuration that is not there: %v", err)
	}
}

// A request in flight when Run is told to end is answered before Run returns.
func TestDrain(t *testing.T) {
	o := options()
	entered, leave := make(chan struct{}), make(chan struct{})
	o.Handlers = map[string]http.Handler{"/slow": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "done")
	})}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	body := make(chan string, 1)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	go func() {
		answer, err := client.Get("http://" + s.Addr().String() + "/slow")
		if err != nil {
			body <- err.Error()
			return
		}
		defer answer.Body.Close()
		b, _ := io.ReadAll(answer.Body)
		body <- string(b)
	}()
	<-entered
	cancel()
	close(leave)
	if got := <-body; got != "done" {
		t.Errorf("answer is %q", got)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", s.Addr().String()); err == nil {
		t.Error("somebody still listens")
	}
}

func TestTLSAndUsers(t *testing.T) {
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	file := filepath.Join(dir, "web.yml")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	config := "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n" +
		"basic_auth_users: {alice: " + string(hash) + "}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.ConfigFile = file
	o.Outer = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/open" {
				next.ServeHTTP(w, r)
			}
		})
	}
	address := start(t, o)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	if code, _ := request(t, client, "GET", "https://"+address+"/open", nil); code != http.StatusOK {
		t.Errorf("what stands outside, without a user: %d", code)
	}
	if code, _ := request(t, client, "GET", "https://"+address+"/-/healthy", nil); code != http.StatusUnauthorized {
		t.Errorf("without a user: %d", code)
	}
	user := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))}}
	if code, _ := request(t, client, "GET", "https://"+address+"/-/healthy", user); code != http.StatusOK {
		t.Errorf("with user and password: %d", code)
	}
	if code, _ := get(t, "http://"+address+"/-/healthy"); code != http.StatusBadRequest {
		t.Errorf("without TLS: %d", code)
	}
}

// writeCertificate writes cert.pem and key.pem for 127.0.0.1.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) {
		t.Fatal("certificate not taken")
	}
	return pool
}
