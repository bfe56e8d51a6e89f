package scrape

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	promscrape "github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"

	"github.com/thalweg/thalweg/internal/series"
)

const (
	cases         = 300
	bodiesPerCase = 5
)

// TestLikePrometheus lets Prometheus' own scrape manager and ours scrape the same targets. Every client gets the same
// answers in the same order; what comes of the n-th answer is compared: values of all kinds, times, exemplars, start
// timestamps, metadata, and which series are alive afterwards.
func TestLikePrometheus(t *testing.T) {
	t.Parallel() // it spends its time waiting
	s := &script{next: map[string]int{}}
	var yaml [2]string // protobuf, the others
	for seed := range uint64(cases) {
		job, format := s.add(rand.New(rand.NewPCG(seed, 7)), seed)
		yaml[min(protobuf-format, 1)] += job
	}
	addr := serve(t, s.serve)
	theirs, ours := newObserver(), newObserver()
	for i := range yaml {
		yaml[i] = strings.ReplaceAll(yaml[i], "ADDRESS", addr)
		// We carry start timestamps from where they cost nothing. Prometheus has one switch for all formats, off by
		// default, which hides the _created series of OpenMetrics.
		runPrometheus(t, yaml[i], theirs, i == 0)
	}
	runOurs(t, yaml[0]+yaml[1], ours)
	for job := range s.answers {
		name := fmt.Sprint("case", job)
		eventually(t, "all scrapes of "+name, func() bool {
			return len(theirs.scrapes(name)) >= bodiesPerCase && len(ours.scrapes(name)) > bodiesPerCase
		})
		s.compare(t, job, theirs.scrapes(name), ours.scrapes(name))
	}
}

// outcome is what one scrape came to.
type outcome struct {
	samples map[string]string // labels to value and, if it is the sample's own, time
	about   map[string]string // labels to metadata
	alive   map[string]bool   // series that have not ended after it
}

// observer turns samples in the order of their arrival into outcomes, by job.
type observer struct {
	mu   sync.Mutex
	last map[string]map[string]seen // the newest sample by job and labels
	jobs map[string][]outcome
	ends map[string]int // how often series ended, by labels
}

func newObserver() *observer {
	return &observer{last: map[string]map[string]seen{}, jobs: map[string][]outcome{}, ends: map[string]int{}}
}

func (o *observer) scrapes(job string) []outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.jobs[job]
}

// seen is one sample.
type seen struct {
	labels string
	t      int64
	value  string
	more   string // exemplars and start timestamp
	about  string // metadata
	stale  bool
}

func newSeen(l labels.Labels, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram) seen {
	s := seen{labels: l.String(), t: t, value: fmt.Sprintf("%x", math.Float64bits(v)), stale: value.IsStaleNaN(v)}
	switch {
	case h != nil:
		s.value, s.stale = fmt.Sprintf("%s of schema %d, %d %v", h, h.Schema, h.CounterResetHint, h.CustomValues), value.IsStaleNaN(h.Sum)
	case fh != nil:
		s.value, s.stale = fmt.Sprintf("%s of schema %d, %d %v", fh, fh.Schema, fh.CounterResetHint, fh.CustomValues), value.IsStaleNaN(fh.Sum)
	}
	return s
}

// describe adds what goes with the sample. An exemplar without a time of its own has that of the sample.
func (s *seen) describe(start int64, exemplars []exemplar.Exemplar, family string, m metadata.Metadata) {
	if family != "" {
		// Prometheus tells its own families from those of the target by a byte at the end.
		s.about = fmt.Sprintf("%s %s %q %q", strings.TrimSuffix(family, "\xff"), m.Type, m.Help, m.Unit)
	}
	s.more = fmt.Sprintf(" start %d", start)
	for _, e := range exemplars {
		if !e.HasTs {
			e.Ts -= s.t
		}
		s.more += fmt.Sprintf(" # %s %v %d", e.Labels, e.Value, e.Ts)
	}
}

// accepts reports what a TSDB says to a sample before it is committed.
func (o *observer) accepts(job string, s seen) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, ok := o.last[job][s.labels]
	switch {
	case !ok || s.t > last.t:
		return nil
	case s.t < last.t:
		return storage.ErrOutOfOrderSample
	case s.value != last.value:
		return storage.ErrDuplicateSampleForTimestamp
	}
	return nil
}

// scrape takes the samples of a scrape at t. As in a TSDB, only a newer sample than the last one of a series counts.
func (o *observer) scrape(job string, t int64, samples []seen) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := outcome{samples: map[string]string{}, about: map[string]string{}, alive: map[string]bool{}}
	if all := o.jobs[job]; len(all) > 0 {
		out.alive = maps.Clone(all[len(all)-1].alive)
	}
	last := o.last[job]
	if last == nil {
		last = map[string]seen{}
		o.last[job] = last
	}
	for _, s := range samples {
		if before, ok := last[s.labels]; ok && s.t <= before.t {
			continue
		}
		last[s.labels] = s
		if s.stale {
			if out.alive[s.labels] {
				o.ends[s.labels]++
			}
			delete(out.alive, s.labels)
			continue
		}
		out.alive[s.labels] = true
		text := s.value + s.more
		if s.t != t {
			text += fmt.Sprint(" at ", s.t)
		}
		out.samples[s.labels] = text
		out.about[s.labels] = s.about
	}
	o.jobs[job] = append(o.jobs[job], out)
}

// peer is Prometheus' manager while it runs.
type peer struct {
	t       *testing.T
	manager *promscrape.Manager
	updates chan map[string][]*targetgroup.Group
}

// runPrometheus starts Prometheus' manager with targets from static_configs.
func runPrometheus(t *testing.T, yaml string, o *observer, parseST bool) *peer {
	t.Helper()
	m, err := promscrape.NewManager(&promscrape.Options{
		DiscoveryReloadOnStartup: true, DiscoveryReloadInterval: model.Duration(10 * time.Millisecond),
		ParseST: parseST, PassMetadataInContext: true, AppendMetadata: true,
	}, slog.New(slog.DiscardHandler), nil, nil, &appendable{o: o, refs: map[string]storage.SeriesRef{}}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t, m, make(chan map[string][]*targetgroup.Group, 1)}
	p.apply(yaml)
	done := make(chan struct{})
	go func() { defer close(done); m.Run(p.updates) }()
	t.Cleanup(func() { m.Stop(); <-done })
	return p
}

// apply gives the manager a configuration and its targets.
func (p *peer) apply(yaml string) {
	p.t.Helper()
	c, err := promconfig.Load("scrape_configs:\n"+yaml, slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.manager.ApplyConfig(c); err != nil {
		p.t.Fatal(err)
	}
	sets := map[string][]*targetgroup.Group{}
	for _, cfg := range c.ScrapeConfigs {
		sets[cfg.JobName] = nil
		for _, sd := range cfg.ServiceDiscoveryConfigs {
			sets[cfg.JobName] = sd.(discovery.StaticConfig)
		}
	}
	p.updates <- sets
}

// appendable is the storage that Prometheus' manager writes to.
type appendable struct {
	o    *observer
	mu   sync.Mutex
	refs map[string]storage.SeriesRef
}

func (a *appendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	target, _ := promscrape.TargetFromContext(ctx)
	return &appender{a: a, job: target.GetValue("job")}
}

type appender struct {
	a       *appendable
	job     string
	t       int64 // of up
	samples []seen
}

func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram,
	fh *histogram.FloatHistogram, o storage.AOptions,
) (storage.SeriesRef, error) {
	if ls.Get(model.MetricNameLabel) == "up" {
		a.t = t
	}
	sample := newSeen(ls, t, v, h, fh)
	err := a.a.o.accepts(a.job, sample)
	switch {
	case err == nil && h != nil:
		err = h.Validate()
	case err == nil && fh != nil:
		err = fh.Validate()
	}
	if err != nil {
		return 0, err
	}
	sample.describe(st, o.Exemplars, o.MetricFamilyName, o.Metadata)
	a.samples = append(a.samples, sample)
	a.a.mu.Lock()
	defer a.a.mu.Unlock()
	ref := a.a.refs[ls.String()]
	if ref == 0 {
		ref = storage.SeriesRef(len(a.a.refs) + 1)
		a.a.refs[ls.String()] = ref
	}
	return ref, nil
}

func (a *appender) Commit() error {
	a.a.o.scrape(a.job, a.t, a.samples)
	return nil
}

func (a *appender) Rollback() error { return nil }

func runOurs(t *testing.T, yaml string, o *observer) *Manager {
	t.Helper()
	var (
		mu      sync.Mutex
		pending = map[string][]seen{} // by job: the scrape whose rows may not be complete
		times   = map[string]int64{}
		present = map[string]map[string]bool{} // by source: series that have not ended
	)
	sink := func(r *series.Row) error {
		mu.Lock()
		defer mu.Unlock()
		job := strings.Split(r.Source.Key, "/")[1] // labels are those of other jobs where series have timestamps
		if r.Whole() {
			if samples := pending[job]; samples != nil {
				o.scrape(job, times[job], samples)
			}
			pending[job], times[job] = []seen{}, r.T
		}
		if r.End {
			for l := range present[r.Source.Key] {
				pending[job] = append(pending[job], seen{labels: l, t: r.T, value: "stale", stale: true})
			}
			o.scrape(job, r.T, pending[job])
			pending[job] = nil
			delete(present, r.Source.Key)
			return nil
		}
		now := map[string]bool{}
		if !r.Whole() && present[r.Source.Key] != nil {
			now = present[r.Source.Key]
		}
		b := labels.NewBuilder(labels.EmptyLabels())
		for i, v := range r.Values {
			column := i
			if !r.Whole() {
				column = int(r.Columns[i])
			} else if !r.Has(i) {
				continue
			}
			sample := sampleOf(r, b, uint32(column), v)
			pending[job] = append(pending[job], sample)
			if now[sample.labels] = true; sample.stale {
				delete(now, sample.labels)
			}
		}
		if r.Whole() {
			for l := range present[r.Source.Key] {
				if !now[l] {
					pending[job] = append(pending[job], seen{labels: l, t: r.T, value: "stale", stale: true})
				}
			}
		}
		present[r.Source.Key] = now
		return nil
	}
	m, err := New(Options{
		Site: "s", Align: true, Immediate: true, Catalog: series.NewCatalog(), Sink: sink, Logger: slog.New(slog.DiscardHandler),
	}, configs(t, yaml))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// sampleOf is the sample in a column of a row.
func sampleOf(r *series.Row, b *labels.Builder, column uint32, v float64) seen {
	c := r.Schema.Column(int(column))
	var h series.HistogramAt
	for i := range r.Histograms {
		if r.Histograms[i].Column == column {
			h = r.Histograms[i]
		}
	}
	var exemplars []exemplar.Exemplar
	for _, e := range r.Exemplars {
		if e.Column == column {
			exemplars = append(exemplars, e.Exemplar)
		}
	}
	var start int64
	for _, s := range r.Starts {
		if s.Column == column {
			start = s.Ms
		}
	}
	s := newSeen(r.Source.SeriesLabels(b, c), r.T, v, h.H, h.FH)
	s.describe(start, exemplars, c.Family.Name, metadata.Metadata{Type: c.Family.Type, Unit: c.Family.Unit, Help: c.Family.Help})
	return s
}

// script is what the targets answer.
type script struct {
	answers [][]answer // by case
	tracks  []bool     // track_timestamps_staleness, by case
	mu      sync.Mutex
	next    map[string]int // by client and path
}

type answer struct {
	status      int
	contentType string
	body        string
	broken      bool // it fails after some samples
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	client, _, _ := strings.Cut(r.UserAgent(), "/")
	var n int
	fmt.Sscanf(r.URL.Path, "/case%d", &n)
	s.mu.Lock()
	i := min(s.next[client+r.URL.Path], bodiesPerCase-1)
	s.next[client+r.URL.Path]++
	a := s.answers[n][i]
	s.mu.Unlock()
	w.Header().Set("Content-Type", a.contentType)
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

// add generates a case and returns its scrape config.
func (s *script) add(rnd *rand.Rand, seed uint64) (yaml string, f format) {
	maybe := func(text string, chance float64) string {
		if rnd.Float64() < chance {
			return text
		}
		return ""
	}
	g := newBodies(rnd)
	var all []answer
	for range bodiesPerCase {
		a := answer{status: 200, contentType: g.format.contentType()}
		a.body, a.broken = g.next()
		switch rnd.IntN(14) {
		case 0:
			a = answer{status: 500, contentType: "text/plain"}
		case 1:
			a = answer{status: 200, contentType: "text/plain"}
		case 2:
			a.contentType, a.broken = "text/html", true
		}
		all = append(all, a)
	}
	tracking := maybe("  track_timestamps_staleness: true\n", 0.5)
	s.answers = append(s.answers, all)
	s.tracks = append(s.tracks, tracking != "")
	return fmt.Sprintf("- job_name: case%d\n  metrics_path: /case%d\n  scrape_interval: 8s\n  static_configs: [{targets: [ADDRESS]}]\n", seed, seed) +
		tracking +
		maybe("  honor_labels: true\n", 0.5) +
		maybe("  honor_timestamps: false\n", 0.25) +
		maybe("  extra_scrape_metrics: true\n", 0.25) +
		maybe("  fallback_scrape_protocol: PrometheusText0.0.4\n", 0.25) +
		maybe("  sample_limit: 6\n", 0.2) +
		maybe("  label_value_length_limit: 15\n", 0.2) +
		maybe("  metric_name_validation_scheme: legacy\n  metric_name_escaping_scheme: underscores\n", 0.2) +
		maybe("  scrape_native_histograms: true\n", 0.7) +
		maybe("  convert_classic_histograms_to_nhcb: true\n", 0.3) +
		maybe("  always_scrape_classic_histograms: true\n", 0.3) +
		maybe("  native_histogram_bucket_limit: 3\n", 0.2) +
		maybe("  native_histogram_min_bucket_factor: 1.5\n", 0.2) +
		maybe("  metric_relabel_configs: [{source_labels: [__name__], regex: 'drop.*', action: drop}, {regex: x, action: labeldrop}]\n", 0.3), g.format
}

// compare checks the outcomes of a case. After a failed scrape it does not ask which series have ended: those that
// Prometheus saw before the error get no marker, ours have ended. Both agree again after the next good scrape, except
// about what was added in between, and except where staleness of timestamps is tracked: Prometheus gives markers to
// series that it saw for the first time in the failed body, and then refuses their samples.
func (s *script) compare(t *testing.T, n int, theirs, ours []outcome) {
	t.Helper()
	failed := false
	for i, a := range s.answers[n] {
		their, our := clean(theirs[i].samples, failed), clean(ours[i].samples, failed)
		if !maps.Equal(their, our) {
			t.Errorf("case %d, scrape %d, answer %+v:\n theirs %v\n   ours %v", n, i, a, diff(their, our), diff(our, their))
			return
		}
		for l, about := range theirs[i].about {
			// After a series that does not belong to the family, Prometheus has no metadata for those below it either.
			if ours := ours[i].about[l]; about != "" && about != ours {
				t.Errorf("case %d, scrape %d: %s is described as %s, want %s", n, i, l, ours, about)
				return
			}
		}
		up := theirs[i].samples[nameOf(theirs[i].samples, "up")]
		if good := up == fmt.Sprintf("%x", math.Float64bits(1)); !good {
			if failed = true; s.tracks[n] {
				return
			}
		} else if !maps.Equal(theirs[i].alive, ours[i].alive) {
			t.Errorf("case %d, scrape %d, answer %+v: alive\n theirs %v\n   ours %v", n, i, a,
				diff(theirs[i].alive, ours[i].alive), diff(ours[i].alive, theirs[i].alive))
			return
		}
	}
}

// clean removes what is bound to differ: durations, and, after a failure, how many series are new.
func clean(samples map[string]string, failed bool) map[string]string {
	m := maps.Clone(samples)
	delete(m, nameOf(m, "scrape_duration_seconds"))
	if failed {
		delete(m, nameOf(m, "scrape_series_added"))
	}
	return m
}

func nameOf(samples map[string]string, name string) string {
	for l := range samples {
		if strings.Contains(l, fmt.Sprintf("{__name__=%q, ", name)) {
			return l
		}
	}
	return ""
}

func diff[V comparable](a, b map[string]V) map[string]V {
	d := map[string]V{}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			d[k] = v
		}
	}
	return d
}
