package telemeter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/klauspost/compress/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// lanes keeps the rows of each site, and fails when it is told to.
type lanes struct {
	mu   sync.Mutex
	now  func() time.Time
	rows map[string][]string // "name{labels} value" of the newest
	at   map[string]time.Time
	err  error
	last *series.Row
}

func (l *lanes) Ready(_ context.Context, site string, spacing time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready(site, spacing)
}

func (l *lanes) ready(site string, spacing time.Duration) error {
	if wait := spacing - l.now().Sub(l.at[site]); l.err == nil && wait > 0 {
		return &EarlyError{Wait: wait}
	}
	return l.err
}

func (l *lanes) Store(_ context.Context, site string, spacing time.Duration, row *series.Row) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(site, spacing); err != nil {
		return err
	}
	l.rows[site], l.at[site], l.last = show(row), l.now(), row
	return nil
}

// show lists the series of a row.
func show(row *series.Row) []string {
	var all []string
	b := labels.NewBuilder(labels.EmptyLabels())
	histograms := map[int]string{}
	for _, at := range row.Histograms {
		histograms[int(at.Column)] = at.H.String()
	}
	for i := range row.Schema.Columns() {
		if !row.Has(i) {
			continue
		}
		ls := row.Source.SeriesLabels(b, row.Schema.Column(i))
		if h, ok := histograms[i]; ok {
			all = append(all, fmt.Sprintf("%s %s", ls, h))
			continue
		}
		all = append(all, fmt.Sprintf("%s %v", ls, row.Values[i]))
	}
	return all
}

// hub is a server with everything around it.
type hub struct {
	*Server
	t     *testing.T
	lanes *lanes
	clock time.Time
	url   string
	key   *Key
}

func newHub(t *testing.T, change func(*Config, *HubConfig)) *hub {
	t.Helper()
	h := &hub{t: t, clock: time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)}
	h.lanes = &lanes{now: func() time.Time { return h.clock }, rows: map[string][]string{}, at: map[string]time.Time{}}
	c := DefaultConfig()
	c.TokensFile = filepath.Join(t.TempDir(), "tokens")
	h.write(c.TokensFile, "# clients\ncluster-1 secret-1 # east\ncluster-1 secret-1b\ncluster/2 secret-2\n")
	outer := HubConfig{SiteLabel: "site"}
	if change != nil {
		change(&c, &outer)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.key, err = NewKey(); err != nil {
		t.Fatal(err)
	}
	h.Server, err = New(Options{
		Config: c, Hub: outer, Lanes: h.lanes, Key: func() *Key { return h.key }, Catalog: series.NewCatalog(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return h.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, handler := range h.Handlers() {
		mux.Handle(pattern, handler)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	h.url = server.URL
	return h
}

func (h *hub) write(path, content string) {
	h.t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// do sends a request as telemeter clients do: on a connection of its own, of a length that is not known.
func (h *hub) do(method, path, token string, header map[string]string, body []byte) (*http.Response, string) {
	h.t.Helper()
	var content io.Reader
	if body != nil {
		content = io.MultiReader(bytes.NewReader(body))
	}
	r, err := http.NewRequest(method, h.url+path, content)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Close = true
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer, string(text)
}

// token authorises a client.
func (h *hub) token(id, secret string) string {
	h.t.Helper()
	answer, text := h.do("POST", "/authorize?id="+url.QueryEscape(id), secret, nil, nil)
	var a authorization
	if err := json.Unmarshal([]byte(text), &a); err != nil || answer.StatusCode != http.StatusOK {
		h.t.Fatalf("authorize %q: status %d, %v: %s", id, answer.StatusCode, err, text)
	}
	return a.Token
}

// asClients are the headers of a push of a telemeter client.
var asClients = map[string]string{
	"Content-Type":     "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
	"Content-Encoding": "snappy",
}

var asText = map[string]string{"Content-Type": "text/plain; version=0.0.4"}

// pack makes what a client sends of an exposition.
func pack(t testing.TB, text string) []byte {
	t.Helper()
	families, err := decodeText([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return packFamilies(t, families)
}

func packFamilies(t testing.TB, families []*dto.MetricFamily) []byte {
	t.Helper()
	return compress(t, delimit(t, families))
}

func delimit(t testing.TB, families []*dto.MetricFamily) []byte {
	t.Helper()
	var b bytes.Buffer
	encoder := expfmt.NewEncoder(&b, delimited)
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func compress(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := snappy.NewBufferedWriter(&b)
	_, err := w.Write(body)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A client of 2019 and one of today do just this.
func TestExchange(t *testing.T) {
	h := newHub(t, func(c *Config, hub *HubConfig) {
		c.PathPrefix = "/metrics/telemeter"
		hub.RequiredLabels = map[string]string{"tenant": "east"}
	})
	answer, text := h.do("POST", "/metrics/telemeter/authorize?id=cluster-1", "secret-1", nil, nil)
	var a authorization
	if err := json.Unmarshal([]byte(text), &a); err != nil || answer.StatusCode != 200 {
		t.Fatalf("status %d: %v: %s", answer.StatusCode, err, text)
	}
	if a.Version != 1 || a.Token == "" || a.ExpiresIn != 86400 || len(a.Labels) != 2 || a.Labels["_id"] != "cluster-1" || a.Labels["tenant"] != "east" {
		t.Errorf("answer: %s", text)
	}
	body := pack(t, `# TYPE alerts gauge
alerts{severity="critical",_id="cluster-1",tenant="east"} 2 1772366390000
# TYPE up untyped
up{job="api",_id="cluster-1",tenant="east"} 1 1772366395000
up{job="web",_id="cluster-1",tenant="east"} 0 1772366396000
`)
	if !bytes.HasPrefix(body, []byte("\xff\x06\x00\x00sNaPpY")) {
		t.Fatalf("the body begins with % x", body[:10])
	}
	answer, text = h.do("POST", "/metrics/telemeter/upload", a.Token, asClients, body)
	if answer.StatusCode != 200 || text != `{"accepted":3,"refused":0}`+"\n" {
		t.Fatalf("status %d: %s", answer.StatusCode, text)
	}
	want := `{__name__="alerts", _id="cluster-1", severity="critical", tenant="east"} 2
{__name__="up", _id="cluster-1", job="api", tenant="east"} 1
{__name__="up", _id="cluster-1", job="web", tenant="east"} 0`
	if got := strings.Join(h.lanes.rows["cluster-1"], "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	row := h.lanes.last
	if row.T != h.clock.Truncate(time.Second).UnixMilli() || !row.Whole() || row.Source.Labels.String() != `{_id="cluster-1"}` || row.Source.Interval*3 != 10*time.Minute {
		t.Errorf("row at %d of %+v", row.T, row.Source)
	}
	if f := row.Schema.Column(0).Family; f.Name != "alerts" || f.Type != model.MetricTypeGauge {
		t.Errorf("family %+v", f)
	}
}

func TestAuthorize(t *testing.T) {
	h := newHub(t, nil)
	f := func(name, method, query, header string, body string, want int) {
		t.Helper()
		extra := map[string]string{}
		if header != "" {
			extra["Authorization"] = header
		}
		var content []byte
		if body != "" {
			content = []byte(body)
			extra["Content-Type"] = "application/x-www-form-urlencoded"
		}
		answer, text := h.do(method, "/authorize"+query, "", extra, content)
		if answer.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", name, answer.StatusCode, want, text)
		}
		if challenge := answer.Header.Get("WWW-Authenticate"); (challenge != "") != (want == 401) {
			t.Errorf("%s: challenge %q", name, challenge)
		}
		if strings.Contains(text, "secret") {
			t.Errorf("%s: the answer quotes a token: %s", name, text)
		}
	}
	f("a client", "POST", "?id=cluster-1", "Bearer secret-1", "", 200)
	f("its other token, any case", "POST", "?id=cluster-1", "bEARER  secret-1b", "", 200)
	f("an id that is no name", "POST", "?id=cluster%2F2", "Bearer secret-2", "", 200)
	f("id in the form", "POST", "", "Bearer secret-1", "id=cluster-1", 200)
	f("a form without end", "POST", "", "Bearer secret-1", "id=cluster-1&x="+strings.Repeat("x", maxForm), 400)
	f("no id", "POST", "", "Bearer secret-1", "", 400)
	f("a long id", "POST", "?id="+strings.Repeat("x", 256), "Bearer secret-1", "", 400)
	f("an id that is no UTF-8", "POST", "?id=%ff", "Bearer secret-1", "", 400)
	f("no token", "POST", "?id=cluster-1", "", "", 401)
	f("an empty token", "POST", "?id=cluster-1", "Bearer ", "", 401)
	f("another scheme", "POST", "?id=cluster-1", "Basic secret-1", "", 401)
	f("another's token", "POST", "?id=cluster-1", "Bearer secret-2", "", 401)
	f("an unknown id", "POST", "?id=cluster-9", "Bearer secret-1", "", 401)
	f("another method", "GET", "?id=cluster-1", "Bearer secret-1", "", 405)
	h.key = nil
	f("without a key", "POST", "?id=cluster-1", "Bearer secret-1", "", 503)
}

func TestAuthorizeUpstream(t *testing.T) {
	var code int
	var contentType, content, asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.Header.Get("Content-Type") + " " + string(b)
		w.Header().Set("Content-Type", contentType)
		if code == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, content)
	}))
	defer server.Close()
	h := newHub(t, func(c *Config, _ *HubConfig) { c.TokensFile, c.AuthorizeURL = "", server.URL })
	f := func(status int, media, body string, want int) {
		t.Helper()
		code, contentType, content = status, media, body
		answer, text := h.do("POST", "/authorize?id=c", "tok", nil, nil)
		if answer.StatusCode != want {
			t.Errorf("%d %s %q: status %d, want %d: %s", status, media, body, answer.StatusCode, want, text)
		}
		if after := answer.Header.Get("Retry-After"); (after == "300") != (want == 429) {
			t.Errorf("%d: Retry-After %q", status, after)
		}
	}
	const account = `{"account_id":"42"}`
	f(200, "application/json", account, 200)
	f(201, "application/json; charset=utf-8", account, 200)
	if want := `POST application/json {"authorization_token":"tok","cluster_id":"c","account_id":""}`; asked != want {
		t.Errorf("asked %s\nwant  %s", asked, want)
	}
	for _, c := range []int{400, 401, 403, 404, 409, 410, 429} {
		f(c, "text/plain", "no", c)
	}
	f(500, "text/plain", "", 500)
	f(302, "text/plain", "", 500)
	f(204, "application/json", "", 500)
	f(200, "text/plain", account, 500)
	f(200, "application/json", `{}`, 500)
	f(200, "application/json", `{"account_id":`, 500)
	f(200, "application/json", `{"account_id":"`+strings.Repeat("x", maxUpstream)+`"}`, 500)
	server.Close()
	f(200, "application/json", account, 500)
}

// upload pushes as cluster-1.
func (h *hub) upload(header map[string]string, body []byte) (int, report, *http.Response) {
	h.t.Helper()
	answer, text := h.do("POST", "/upload", h.token("cluster-1", "secret-1"), header, body)
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		h.t.Fatalf("status %d: %v: %s", answer.StatusCode, err, text)
	}
	return answer.StatusCode, r, answer
}

func TestRefusedPushes(t *testing.T) {
	h := newHub(t, func(c *Config, _ *HubConfig) { c.RateLimit, c.LimitBytes = 0, 728 })
	const good = `up{_id="cluster-1"} 1` + "\n"
	f := func(name string, header map[string]string, body []byte, want int) {
		t.Helper()
		h.lanes.rows = map[string][]string{}
		code, r, _ := h.upload(header, body)
		if code != want || (want == 200) != (len(h.lanes.rows) > 0) || (r.Error == "") != (want == 200) {
			t.Errorf("%s: status %d, want %d, %d rows: %+v", name, code, want, len(h.lanes.rows), r)
		}
	}
	with := func(header map[string]string, key, value string) map[string]string {
		changed := map[string]string{}
		for k, v := range header {
			changed[k] = v
		}
		changed[key] = value
		return changed
	}
	sized := func(n int) []byte { return []byte(good + "# HELP up " + strings.Repeat("x", n-len(good)-11) + "\n") }
	f("text", asText, []byte(good), 200)
	f("text, compressed", with(asText, "Content-Encoding", "SNAPPY"), compress(t, []byte(good)), 200)
	f("smaller than the limit", asText, sized(727), 200)
	f("of just the limit", asText, sized(728), 413)
	f("beyond the limit when it is decompressed", with(asText, "Content-Encoding", "snappy"), compress(t, bytes.Repeat([]byte("#\n"), 1<<20)), 413)
	f("padding without end", asClients, append(pack(t, good)[:10:10], bytes.Repeat([]byte("\xfe\xff\xff\x00"+strings.Repeat("\x00", 0xffff)), 4)...), 413)
	f("snappy in one block", asClients, snappy.Encode(nil, []byte(good)), 400)
	f("snappy cut short", asClients, pack(t, good)[:30], 400)
	f("gzip", with(asText, "Content-Encoding", "gzip"), []byte(good), 415)
	f("no content type", with(asText, "Content-Type", ""), []byte(good), 400)
	f("another content type", with(asText, "Content-Type", "application/json"), []byte(good), 415)
	f("OpenMetrics", with(asText, "Content-Type", "application/openmetrics-text; version=1.0.0"), []byte(good), 415)
	f("protobuf in text", with(asText, "Content-Type", asClients["Content-Type"]), []byte(good), 400)
	f("no text", asText, []byte("up{"), 400)
	f("a length that lies", with(asClients, "Content-Encoding", ""), []byte("\xff\xff\xff\xff\x0f1234"), 400)
	f("somebody else's", asText, []byte(good+`up{_id="cluster-2"} 1`+"\n"), 403)
	f("twice the id", asText, []byte(`up{_id="cluster-1",_id="cluster-2"} 1`+"\n"), 400)
	f("nobody's", asText, []byte(good+"down 1\n"), 400)
	f("an empty id", asText, []byte(`up{_id=""} 1`+"\n"), 400)
	f("only old ones", asText, []byte(`up{_id="cluster-1"} 1 1000`+"\n"), 400)
	h.lanes.err = fmt.Errorf("store: %w", ErrTaken)
	f("as an edge", asText, []byte(good), 409)
	h.lanes.err = fmt.Errorf("store: %w", ErrNotAdmitted)
	f("as a site that is not listed", asText, []byte(good), 403)
	h.lanes.err = fmt.Errorf("store: %w", ErrTooLarge)
	f("too large for a message", asText, []byte(good), 413)
	h.lanes.err = io.ErrUnexpectedEOF
	f("without a server", asText, []byte(good), 503)
}

// What is wrong with a series is that series' business.
func TestVerdicts(t *testing.T) {
	h := newHub(t, func(c *Config, hub *HubConfig) {
		c.RateLimit = 0
		c.LimitBytes = 1 * units.MiB
		c.Match = []string{`{__name__=~"good.*|bad.*|part.*"}`, `{__name__="hist_bucket"}`}
		hub.RequiredLabels = map[string]string{"tenant": "east"}
		hub.Limits.LabelValueLength = 30
	})
	pair := func(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }
	metric := func(extra ...*dto.LabelPair) *dto.Metric {
		return &dto.Metric{Label: append(extra, pair("_id", "cluster-1"), pair("tenant", "east")), Gauge: &dto.Gauge{Value: new(1.0)}}
	}
	family := func(name string, metrics ...*dto.Metric) *dto.MetricFamily {
		return &dto.MetricFamily{Name: &name, Type: dto.MetricType_GAUGE.Enum(), Metric: metrics}
	}
	counter := family("bad_type", metric(pair("a", "1")))
	counter.Type = dto.MetricType_COUNTER.Enum()
	unit := family("good_unit", metric())
	unit.Unit = new("parsecs")
	old := metric()
	old.TimestampMs = new(h.clock.Add(-25 * time.Hour).UnixMilli())
	recent := metric(pair("a", "1"))
	recent.TimestampMs = new(h.clock.Add(time.Hour).UnixMilli())
	tenant := metric()
	tenant.Label[1] = pair("tenant", "west")
	native := func(spans uint32) *dto.MetricFamily {
		m := metric(pair("spans", fmt.Sprint(spans)))
		m.Gauge, m.Histogram = nil, &dto.Histogram{
			SampleCount: new(uint64(3)), SampleSum: new(2.5), Schema: new(int32(0)), ZeroThreshold: new(0.001),
			PositiveSpan: []*dto.BucketSpan{{Offset: new(int32(0)), Length: &spans}}, PositiveDelta: []int64{1, 1},
		}
		f := family(fmt.Sprintf("good_native_%d", spans), m)
		f.Type = dto.MetricType_HISTOGRAM.Enum()
		return f
	}
	classic := metric()
	classic.Gauge, classic.Histogram = nil, &dto.Histogram{
		SampleCount: new(uint64(3)), SampleSum: new(2.5),
		Bucket: []*dto.Bucket{{UpperBound: new(1.0), CumulativeCount: new(uint64(2))}},
	}
	histogram := family("hist", classic)
	histogram.Type = dto.MetricType_HISTOGRAM.Enum()
	summary := metric()
	summary.Gauge, summary.Summary = nil, &dto.Summary{
		SampleCount: new(uint64(7)), SampleSum: new(1.5), Quantile: []*dto.Quantile{{Quantile: new(0.5), Value: new(0.25)}},
	}
	part := family("part", summary)
	part.Type = dto.MetricType_SUMMARY.Enum()
	code, r, _ := h.upload(asClients, packFamilies(t, []*dto.MetricFamily{
		family("good", metric(), recent, metric()), unit, counter, part, histogram, native(2), native(1 << 30),
		family("bad_labels", metric(pair("a", "1"), pair("a", "1")), metric(pair("site", "x")), metric(pair("__name__", "x")), metric(pair("", "x")),
			metric(pair("x", strings.Repeat("x", 256)))),
		family("bad_long", metric(pair("x", strings.Repeat("x", 31)))),
		family("bad_old", old), family("bad_tenant", tenant), family("unwanted", metric()), family("part_sum", metric()),
		family("", metric()), family("bad_"+strings.Repeat("x", 255), metric()),
	}))
	if code != 200 {
		t.Fatalf("status %d: %+v", code, r)
	}
	want := `{__name__="good", _id="cluster-1", tenant="east"} 1
{__name__="good", _id="cluster-1", a="1", tenant="east"} 1
{__name__="good_unit", _id="cluster-1", tenant="east"} 1
{__name__="part_count", _id="cluster-1", tenant="east"} 7
{__name__="part_sum", _id="cluster-1", tenant="east"} 1.5
{__name__="part", _id="cluster-1", quantile="0.5", tenant="east"} 0.25
{__name__="hist_bucket", _id="cluster-1", le="1.0", tenant="east"} 2
{__name__="hist_bucket", _id="cluster-1", le="+Inf", tenant="east"} 3
{__name__="good_native_2", _id="cluster-1", spans="2", tenant="east"} {count:3, sum:2.5, (0.5,1]:1, (1,2]:2}`
	if got := strings.Join(h.lanes.rows["cluster-1"], "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got := map[string]string{}
	for _, v := range r.Families {
		got[v.Family] = fmt.Sprint(v.Refused)
	}
	for name, want := range map[string]string{
		"good": "map[collision:1]", "bad_type": "map[type:1]", "hist": "map[match:2]", "good_native_1073741824": "map[histogram:1]",
		"bad_labels": "map[labels:5]", "bad_long": "map[label_value_length:1]", "bad_old": "map[old:1]", "bad_tenant": "map[required_label:1]",
		"unwanted": "map[match:1]", "": "map[collision:1 name:1]", "bad_" + strings.Repeat("x", shown-4) + "...": "map[name:1]",
	} {
		if got[name] != want {
			t.Errorf("family %q: %s, want %s", name, got[name], want)
		}
		delete(got, name)
	}
	if len(got) > 0 || r.Refused != 17 || r.Accepted != 9 {
		t.Errorf("also refused: %v; %d refused, %d accepted", got, r.Refused, r.Accepted)
	}
	if code, r, _ = h.upload(asText, []byte(`unwanted{_id="cluster-1",tenant="east"} 1`+"\n")); code != 200 || r.Accepted != 0 || r.Refused != 1 {
		t.Errorf("nothing that is wanted: status %d: %+v", code, r)
	}
	if code, r, _ = h.upload(asText, nil); code != 200 || r.Accepted != 0 {
		t.Errorf("nothing: status %d: %+v", code, r)
	}
}
