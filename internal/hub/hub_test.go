package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// logs keeps what is logged and hands it on.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
	next io.Writer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	return l.next.Write(p)
}

// count counts the lines that have all the words.
func (l *logs) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.SplitSeq(l.text.String(), "\n") {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// center is a running hub.
type center struct {
	*Hub
	logs  *logs
	store *store.Store
}

// startHub runs a hub until the test ends.
func startHub(t testing.TB, conn *bus.Conn, change ...func(*Config)) *center {
	t.Helper()
	c := newHub(t, conn, change...)
	runHub(t, c)
	return c
}

func runHub(t testing.TB, c *center) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func newHub(t testing.TB, conn *bus.Conn, change ...func(*Config)) *center {
	t.Helper()
	cfg := DefaultConfig()
	for _, f := range change {
		f(&cfg)
	}
	st, err := store.New(store.Options{Config: cfg.Store})
	if err != nil {
		t.Fatal(err)
	}
	c := &center{logs: &logs{next: t.Output()}, store: st}
	logger := slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c.Hub, err = New(Options{Config: cfg, Name: "hub", Conn: conn, Store: st, Catalog: series.NewCatalog(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// site returns what the hub knows of a site.
func (c *center) site(name string) SiteStatus {
	for _, s := range c.Sites() {
		if s.Name == name {
			return s
		}
	}
	return SiteStatus{}
}

// series counts those in the store.
func (c *center) series() (n int) {
	for _, s := range c.store.Sites() {
		n += s.Series
	}
	return n
}

// rows waits until the hub has so many rows of a site.
func (c *center) rows(t *testing.T, site string, n uint64) {
	t.Helper()
	bustest.WaitFor(t, fmt.Sprintf("%d rows of %s", n, site), func() bool { return c.site(site).Rows == n })
}

// writer makes the frames of a site by hand and publishes them with its credential.
type writer struct {
	t       *testing.T
	name    string
	conn    *bus.Conn
	encoder *frame.Encoder
	schema  *series.Schema
	source  *series.Source
	last    map[bus.Lane]uint64 // sequences
	tick    int64
	absent  uint64 // columns that rows lack, as bits
}

func newWriter(t *testing.T, url, name string, epoch frame.Epoch, columns int) *writer {
	t.Helper()
	catalog := series.NewCatalog()
	var list []series.Column
	for i := range columns {
		list = append(list, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
	}
	return &writer{
		t: t, name: name, encoder: frame.NewEncoder(frame.EncoderConfig{Epoch: epoch}), schema: catalog.Extend(catalog.Empty(), list),
		conn:   bustest.Connected(t, bus.Options{Config: bustest.Config(url), Site: name}),
		source: &series.Source{Key: "static/" + name, Labels: labels.FromStrings("instance", name, "job", "j"), Interval: time.Second},
		last:   map[bus.Lane]uint64{},
		tick:   time.Now().UnixMilli(),
	}
}

// frame returns a frame with one row, the newest.
func (w *writer) frame() []byte {
	w.t.Helper()
	w.tick++
	row := series.Row{Source: w.source, Schema: w.schema, T: w.tick, Values: make([]float64, w.schema.Len())}
	for i := range row.Values {
		row.Values[i] = float64(w.tick) * float64(i+1) / 3
	}
	if w.absent != 0 {
		row.Present = []uint64{(1<<len(row.Values) - 1) &^ w.absent}
	}
	frames, err := w.encoder.Append(nil, &row, w.tick)
	if err != nil {
		w.t.Fatal(err)
	}
	return bytes.Join(w.encoder.Close(frames, w.tick), nil)
}

// publish puts a message on a lane.
func (w *writer) publish(l bus.Lane, payload []byte) {
	w.t.Helper()
	sequence, err := w.conn.Publish(w.t.Context(), w.conn.Root().Lane(w.name, l), payload, w.last[l])
	if err != nil {
		w.t.Fatal(err)
	}
	w.last[l] = sequence
}

func (w *writer) live(n int) {
	w.t.Helper()
	for range n {
		w.publish(bus.Live, w.frame())
	}
}

// What a site with a valid credential may send to do harm: one line, a counter, and no effect on another site.
func TestHostileFrames(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	changed := func(f func([]byte)) func(*writer) []byte {
		return func(w *writer) []byte {
			b := w.frame()
			f(b)
			return b
		}
	}
	lying := func(change func(*frame.Header)) func(*writer) []byte {
		return func(w *writer) []byte {
			b := w.frame()
			h, err := frame.ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			body := b[frame.HeaderSize:]
			if h.Flags&frame.FlagFirst != 0 {
				body = b[frame.HeaderSize+frame.PredecessorSize:]
			}
			change(&h)
			return frame.Seal(nil, h, body)
		}
	}
	f := func(name string, reason lane.Reason, columns int, make func(*writer) []byte) {
		t.Run(name, func(t *testing.T) {
			c := startHub(t, conn, func(c *Config) {
				c.Limits.FrameBytes = 64 << 10
				c.Limits.Series = 1000
			})
			tag := strings.ReplaceAll(name, " ", "-")
			evil := newWriter(t, server.URL(), "evil-"+tag, 1, columns)
			good := newWriter(t, server.URL(), "good-"+tag, 2, 5)
			good.live(1)
			c.rows(t, good.name, 1)
			for range 5 {
				evil.publish(bus.Live, make(evil))
				good.live(1)
			}
			c.rows(t, good.name, 6)
			if n := testutil.ToFloat64(c.metrics.problems.WithLabelValues(string(reason))); n < 5 {
				t.Errorf("%v problems of reason %s are counted, want 5", n, reason)
			}
			if n := c.logs.count("frame was not taken", "site="+evil.name, "reason="+string(reason)); n != 1 {
				t.Errorf("%d lines, want 1", n)
			}
			if n := c.logs.count("frame was not taken", "site="+good.name); n != 0 {
				t.Errorf("%d lines about the other site", n)
			}
			if s := c.site(good.name); s.Missing.Total() != 0 || s.Waiting {
				t.Errorf("the other site: %+v", s)
			}
		})
	}
	f("garbage", lane.ReasonCorrupt, 5, func(*writer) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") })
	f("bit changed", lane.ReasonCorrupt, 5, changed(func(b []byte) { b[len(b)-1] ^= 1 }))
	f("future", lane.ReasonVersion, 5, changed(func(b []byte) { b[3] = frame.Version + 1 }))
	f("truncated", lane.ReasonCorrupt, 5, func(w *writer) []byte { b := w.frame(); return b[:len(b)-1] })
	f("header only", lane.ReasonCorrupt, 5, func(w *writer) []byte { return w.frame()[:20] })
	f("lies about its size", lane.ReasonCorrupt, 5, changed(func(b []byte) { b[10] = 0xff }))
	f("lies about its rows", lane.ReasonCorrupt, 5, lying(func(h *frame.Header) {
		h.Rows, h.Kind, h.Base, h.Number, h.Flags = 7, frame.Keyframe, 0, h.Number+1, h.Flags&^frame.FlagFirst
	}))
	f("deltas to nothing", lane.ReasonMismatch, 5, func(w *writer) []byte {
		if w.encoder.Last().Number == 0 {
			w.frame() // the keyframe never comes
		}
		return w.frame()
	})
	f("larger than the limit", lane.ReasonLimit, 9000, func(w *writer) []byte {
		w.encoder.RequestKeyframe()
		return w.frame()
	})
}

func TestHubAsksForKeyframe(t *testing.T) {
	server := bustest.NewServer(t)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	c := startHub(t, bustest.Hub(t, server))
	requests := make(chan lane.Control, 10)
	control := w.conn.Root().NewControl(w.name)
	stop, err := w.conn.Serve(control, func(_ string, data []byte) []byte {
		var r lane.Control
		if err := json.Unmarshal(data, &r); err != nil {
			t.Error(err)
		}
		requests <- r
		return []byte(`{"done": true}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	hello := func(control string) (lane.Welcome, error) {
		data, err := json.Marshal(lane.Hello{Site: w.name, Control: control, NowMs: time.Now().Add(-time.Minute).UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		answer, err := w.conn.Request(ctx, w.conn.Root().Hello(w.name), data)
		var welcome lane.Welcome
		if err == nil {
			err = json.Unmarshal(answer, &welcome)
		}
		return welcome, err
	}
	if _, err := hello(w.conn.Root().NewControl("ams-2")); err == nil {
		t.Error("a hello that names another site's control subject was answered")
	}
	bustest.WaitFor(t, "welcome", func() bool {
		welcome, err := hello(control)
		return err == nil && welcome.Hub == "hub" && welcome.FrameVersion == frame.Version && welcome.NowMs != 0
	})
	<-c.CaughtUp() // what was there before may be the rest of what an earlier hub took
	w.frame()      // the keyframe is lost
	w.live(3)
	if r := <-requests; r.Op != lane.OpKeyframe || r.Hub != "hub" {
		t.Errorf("request %+v", r)
	}
	bustest.WaitFor(t, "the answer", func() bool {
		return testutil.ToFloat64(c.metrics.keyframeRequests.WithLabelValues("granted")) == 1
	})
	if !c.site(w.name).Waiting {
		t.Error("the site is not shown as waiting")
	}
	if skew := c.site(w.name).Skew; skew > -50*time.Second || skew < -70*time.Second {
		t.Errorf("skew %s, want a minute behind", skew)
	}
	w.encoder.RequestKeyframe()
	w.live(2)
	c.rows(t, w.name, 2)
	if c.site(w.name).Waiting {
		t.Error("the site is shown as waiting after a keyframe")
	}
	c.wantGaps(t, "ams-1 1/3-4:2 undecodable")
	if n := len(requests); n != 0 {
		t.Errorf("%d further requests within 30 s", n)
	}
}

func TestHubAdmission(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	c := startHub(t, conn, func(c *Config) {
		c.StrictSites = true
		c.Sites = map[string]Site{"ams-1": {Expected: true}, "ams-9": {Expected: true}}
	})
	listed, stranger := newWriter(t, server.URL(), "ams-1", 1, 5), newWriter(t, server.URL(), "ams-2", 2, 5)
	listed.live(2)
	stranger.live(2)
	c.rows(t, "ams-1", 2)
	bustest.WaitFor(t, "the refusal", func() bool {
		return testutil.ToFloat64(c.metrics.problems.WithLabelValues(string(lane.ReasonRefused))) == 2
	})
	if n := c.logs.count("frame was not taken", "site=ams-2", "reason=refused"); n != 1 {
		t.Errorf("%d lines about the stranger, want 1", n)
	}
	if s := c.site("ams-2"); s.Name != "" {
		t.Errorf("the stranger is listed: %+v", s)
	}
	if s := c.site("ams-9"); !s.Expected {
		t.Error("an expected site that did not come is not listed")
	}
	cfg := DefaultConfig()
	cfg.StrictSites, cfg.Sites = true, map[string]Site{"ams-2": {Expected: true}}
	if err := c.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	stranger.encoder.RequestKeyframe()
	stranger.live(1)
	listed.live(1)
	c.rows(t, "ams-2", 1)
	bustest.WaitFor(t, "the refusal of who was let in before", func() bool {
		return c.logs.count("frame was not taken", "site=ams-1", "reason=refused") == 1
	})
	cfg.Sites = map[string]Site{"ams-1": {Expected: true}}
	if err := c.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	listed.encoder.RequestKeyframe()
	listed.live(1)
	c.rows(t, "ams-1", 3)
	if gaps := c.Gaps(10); len(gaps) != 1 || gaps[0].Rows != 1 || gaps[0].Site != "ams-1" {
		t.Errorf("gaps %+v, want the row that was refused", gaps)
	}
}

// A hub that takes some parts reads only those.
func TestHubParts(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	mine, other := newWriter(t, server.URL(), "ams-1", 1, 5), newWriter(t, server.URL(), "ams-2", 2, 5)
	if bus.PartOf(mine.name) == bus.PartOf(other.name) {
		t.Fatal("the names of the test have one part")
	}
	c := startHub(t, conn, func(c *Config) { c.Parts = 1 << bus.PartOf(mine.name) })
	other.live(3)
	mine.live(3)
	c.rows(t, mine.name, 3)
	if s := c.site(other.name); s.Messages != 0 {
		t.Errorf("the hub reads a part that is not its own: %+v", s)
	}
}

// A hub that starts has what the stream held, and says when.
func TestHubCatchesUp(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	w.live(20)
	for range 2 {
		c := startHub(t, conn)
		<-c.CaughtUp()
		if s := c.site("ams-1"); s.Rows != 20 || s.Missing.Total() != 0 {
			t.Errorf("caught up with %+v", s)
		}
		if n := c.series(); n != 5 {
			t.Errorf("store has %d series, want 5", n)
		}
	}
}

// The stream of a running hub is deleted and made anew: it goes on from keyframes, and nothing counts twice.
func TestHubFollowsAnotherStream(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	c := startHub(t, conn)
	w := newWriter(t, server.URL(), "ams-1", 1, 5)
	first := w.frame()
	w.publish(bus.Live, first)
	w.live(2)
	c.rows(t, "ams-1", 3)
	if _, err := conn.Request(t.Context(), "$JS.API.STREAM.DELETE."+bustest.StreamConfig().Name, nil); err != nil {
		t.Fatal(err)
	}
	bustest.EnsureStream(t, conn)
	w.last = map[bus.Lane]uint64{}
	w.publish(bus.Live, first) // the edge sends again
	w.encoder.RequestKeyframe()
	w.live(2)
	c.rows(t, "ams-1", 5)
	if s := c.site("ams-1"); s.Missing.Total() != 0 || s.Repeated != 1 {
		t.Errorf("%+v, want one repeated frame and no row missing", s)
	}
	if r := c.LastReset(); r.Reason != bus.StreamRecreated || r.At.IsZero() {
		t.Errorf("the last reset is %+v", r)
	}
}

// Only what match selects reaches store and outputs; up and scrape_* always do.
func TestGuard(t *testing.T) {
	server := bustest.NewServer(t)
	conn := bustest.Hub(t, server)
	c := startHub(t, conn, func(c *Config) {
		c.Match = []string{`{__name__=~"metric_[0-3]"}`}
		c.Sites = map[string]Site{"ams-1": {Match: []string{`metric_2`, `metric_7`}}}
	})
	d := newCollector()
	startOutput(t, c, t.TempDir(), d, true)
	w := newWriter(t, server.URL(), "ams-1", 1, 9)
	other := newWriter(t, server.URL(), "ams-2", 2, 9)
	w.live(2)
	other.live(2)
	d.wait(t, 4)
	c.rows(t, "ams-1", 2)
	c.rows(t, "ams-2", 2)
	if n := c.series(); n != 5 {
		t.Errorf("store has %d series, want 1 of one site and 4 of the other", n)
	}
	if got := d.names("ams-1"); !slices.Equal(got, []string{"metric_2"}) {
		t.Errorf("output got %q of ams-1", got)
	}
	if got := d.names("ams-2"); !slices.Equal(got, []string{"metric_0", "metric_1", "metric_2", "metric_3"}) {
		t.Errorf("output got %q of ams-2", got)
	}
	// 5 and then 3 of one site, 5 of the other; what outputs refuse once more is not counted.
	if n := testutil.ToFloat64(c.metrics.refused.WithLabelValues("match")); n != 13 {
		t.Errorf("%v refused series are counted, want 13", n)
	}
}

// A site that is gone leaves nothing behind, in the hub and in its outputs, and may come back.
func TestSilentSitesAreForgotten(t *testing.T) {
	server := bustest.NewServer(t)
	c := newHub(t, bustest.Hub(t, server))
	var ahead atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	c.retention = 48 * time.Hour
	runHub(t, c)
	d := newCollector()
	o, _ := openOutput(t, c, t.TempDir(), d, true)
	gone, stays := newWriter(t, server.URL(), "ams-1", 1, 5), newWriter(t, server.URL(), "ams-2", 2, 5)
	data, err := json.Marshal(lane.Hello{Site: gone.name, Control: gone.conn.Root().NewControl(gone.name)})
	if err != nil {
		t.Fatal(err)
	}
	if c.control.welcome(gone.conn.Root().Hello(gone.name), data) == nil {
		t.Fatal("the hello was refused")
	}
	rows := 0
	round := func(w *writer, sites, ledgers int) {
		t.Helper()
		w.encoder.RequestKeyframe()
		w.live(2)
		rows += 2
		d.wait(t, rows)
		bustest.WaitFor(t, "the hub to read the rows", func() bool {
			last, err := w.conn.Last(t.Context(), w.conn.Root().Lane(w.name, bus.Live))
			return err == nil && c.site(w.name).LastSequence == last.Sequence
		})
		c.forgetSites()
		if n := len(c.ledgers.names()); c.receiver.Len() != sites || n != ledgers || len(c.Sites()) != ledgers {
			t.Errorf("the hub lists %d sites, its reader remembers %d, its ledgers %d, want %d, %d and %d", len(c.Sites()), c.receiver.Len(), n, ledgers, sites, ledgers)
		}
		if n := o.receiver.Len(); n != sites {
			t.Errorf("the output remembers %d sites, want %d", n, sites)
		}
	}
	gone.live(1)
	gone.frame() // is lost
	rows++
	round(gone, 1, 1)
	round(stays, 2, 2)
	ahead.Add(int64(25 * time.Hour))
	round(stays, 2, 2)
	if n := c.site(gone.name).Sources; n != 0 {
		t.Errorf("decoders with %d sources are held of a silent site", n)
	}
	if n := len(c.control.edges); n != 0 {
		t.Errorf("%d control subjects are held", n)
	}
	ahead.Add(int64(24 * time.Hour))
	round(stays, 1, 2)
	// What is missing of it is told as long as that of others.
	c.wantGaps(t, "ams-1 1/2-2:1 not_arrived")
	if len(c.lastRow) != 1 || len(c.guards.sites) != 1 || len(o.guards.sites) != 1 {
		t.Errorf("%d times of rows, %d and %d guards are held, want 1 of each", len(c.lastRow), len(c.guards.sites), len(o.guards.sites))
	}
	round(gone, 2, 2)
	c.wantGaps(t, "ams-1 1/2-2:1 not_arrived")
	ahead.Add(int64(gapsKept))
	round(stays, 1, 1)
}

// A hello of a site that is not let in is answered, and not remembered.
func TestHellosOfStrangers(t *testing.T) {
	c := newHub(t, bustest.Hub(t, bustest.NewServer(t)), func(c *Config) {
		c.StrictSites, c.Sites = true, map[string]Site{"ams-1": {}}
	})
	for _, site := range []string{"ams-1", "ams-2"} {
		data, err := json.Marshal(lane.Hello{Site: site, Control: c.conn.Root().NewControl(site)})
		if err != nil {
			t.Fatal(err)
		}
		if c.control.welcome(c.conn.Root().Hello(site), data) == nil {
			t.Errorf("%s got no answer", site)
		}
		if _, held := c.control.greeting(site); held != (site == "ams-1") {
			t.Errorf("%s is remembered: %t", site, held)
		}
	}
}
