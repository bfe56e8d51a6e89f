package scrape

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	commonconfig "github.com/prometheus/common/config"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// settings are everything about a target that may change while it is scraped. They are immutable.
type settings struct {
	cfg      *promconfig.ScrapeConfig
	target   *target
	fetcher  *fetcher
	grid     grid
	forced   error        // every scrape fails with it
	failures *slog.Logger // takes failed scrapes; nil if there is no scrape_failure_log_file
}

// sameSeries reports whether a body gives the same series under both settings, so that a parser can go on with what it
// knows.
func (s *settings) sameSeries(o *settings) bool {
	if s.cfg != o.cfg && !reflect.DeepEqual(seriesConfig(s.cfg), seriesConfig(o.cfg)) {
		return false
	}
	a, b := s.target, o.target
	return labels.Equal(a.source.Labels, b.source.Labels) &&
		a.native == b.native && a.classic == b.classic && a.convert == b.convert
}

// seriesConfig is cfg without what has no influence on the series of a target.
func seriesConfig(cfg *promconfig.ScrapeConfig) *promconfig.ScrapeConfig {
	c := *cfg
	c.ScrapeInterval, c.ScrapeTimeout = 0, 0
	c.BodySizeLimit, c.SampleLimit, c.TargetLimit = 0, 0, 0
	c.HTTPClientConfig = commonconfig.HTTPClientConfig{}
	c.ServiceDiscoveryConfigs, c.RelabelConfigs = nil, nil
	c.ScrapeFailureLogFile = ""
	return &c
}

// loop scrapes one target. run is its goroutine; the methods of the first group are for the manager.
type loop struct {
	shared *shared
	key    string // of the source
	slot   int
	done   chan struct{} // closed when run has returned
	alarm  alarm         // run waits for it; an interrupt says that it has to look again

	// Of Manager.Run:
	job    string
	synced int // as of its job, if the job still has the target

	mu       sync.Mutex
	settings *settings
	leaving  bool // discovery does not have the target any more
	ended    bool // too late for the target to come back
	status   Target

	// Of run:
	parser     *expo.Parser
	parsedFor  *settings
	extra      bool // the parser has the columns of extra_scrape_metrics
	failures   int  // in a row
	complained bool // one of them was logged
	logged     map[reason]time.Time
}

// shared is what the loops of a manager share.
type shared struct {
	Options
	memory  *memory
	scripts *expo.Scripts
	metrics *metrics
	logs    *limitedLog
}

func newLoop(with *shared, slot int, s *settings) *loop {
	l := &loop{
		shared: with,
		key:    s.target.source.Key,
		slot:   slot,
		done:   make(chan struct{}),
		alarm:  newAlarm(),
		logged: map[reason]time.Time{},
	}
	l.update(s)
	return l
}

// update gives the loop new settings, and takes back a leave. It reports false if the target has ended.
func (l *loop) update(s *settings) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.settings, l.leaving = s, false
	l.status.describe(s)
	l.alarm.interrupt()
	return true
}

// has reports whether the loop goes on with these very settings, so that it need not be disturbed.
func (l *loop) has(cfg *promconfig.ScrapeConfig, t *target, forced error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.settings
	return !l.ended && !l.leaving && s.cfg == cfg && s.target.equal(t) &&
		(s.forced == nil) == (forced == nil) && (forced == nil || s.forced.Error() == forced.Error())
}

// leave lets the target end, unless update comes in time.
func (l *loop) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leaving {
		l.leaving = true
		l.alarm.interrupt()
	}
}

// snapshot returns the state for status pages, and whether the target is still wanted.
func (l *loop) snapshot() (Target, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, !l.leaving && !l.ended
}

func (l *loop) state() (s *settings, leaving bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settings, l.leaving
}

// retire makes the end of a leaving target final.
func (l *loop) retire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = l.leaving
	return l.ended
}

// run scrapes until ctx is done or the target has ended. It begins when after is closed.
//
// A target that leaves ends at the time of the first scrape that it misses, but only when the time of the next one has
// passed without the target having come back: Prometheus waits as long.
func (l *loop) run(ctx context.Context, after <-chan struct{}) {
	defer close(l.done)
	defer l.alarm.close()
	defer context.AfterFunc(ctx, l.alarm.interrupt)()
	if after != nil {
		select {
		case <-after:
		case <-ctx.Done():
			return
		}
	}
	var (
		last   time.Time // instant of the previous scrape
		missed time.Time // instant of the first one that did not take place
	)
	for ctx.Err() == nil {
		s, leaving := l.state()
		due := s.grid.next(last, wallClock())
		switch {
		case !leaving:
			missed = time.Time{}
			if last.IsZero() && l.shared.Immediate {
				due = wallClock()
			}
		case last.IsZero():
			if l.retire() {
				return // there is nothing that could end
			}
			continue
		default:
			if missed.IsZero() {
				missed = due
			}
			due = missed.Add(s.grid.interval + s.grid.interval/10)
		}
		if !l.alarm.wait(time.Until(due)) {
			continue
		}
		if !leaving {
			l.scrape(ctx, s, s.grid.rowTime(due, wallClock()))
			last = due
		} else if l.retire() {
			l.end(missed)
			return
		}
	}
}

// wallClock is the time without the monotonic reading: instants are compared and subtracted as wall clock times.
func wallClock() time.Time { return time.Now().Round(0) }

// scrape makes one scrape with the time at, and hands on its rows.
func (l *loop) scrape(ctx context.Context, s *settings, at time.Time) {
	start := time.Now()
	l.prepare(s)
	result, size, err := l.result(ctx, s, at.UnixMilli())
	if err != nil && ctx.Err() != nil {
		return // it was cut short by the end of the process, and says nothing about the target
	}
	r := report{
		up:          err == nil,
		duration:    time.Since(start),
		scraped:     result.Samples,
		kept:        result.Kept,
		added:       result.Added,
		timeout:     s.target.timeout,
		sampleLimit: s.cfg.SampleLimit,
		bodyBytes:   size,
	}
	if f := (*fetchError)(nil); errors.As(err, &f) && f.reason == bodySize {
		r.bodyBytes = -1
	}
	r.fill(result.Whole.Values, l.extra)

	l.deliver(result.Whole)
	for i := range result.Stamped {
		l.deliver(&result.Stamped[i])
	}
	l.account(s, at, &r, &result.Stats, err)
}

// prepare sees to it that the parser is right for the settings.
func (l *loop) prepare(s *settings) {
	switch before := l.parsedFor; {
	case before == s:
		return
	case before == nil:
		l.parser = expo.NewParser(l.parserOptions(s))
	case s.sameSeries(before):
		l.parser.Adjust(l.parserOptions(s))
	default:
		l.parser.Change(l.parserOptions(s))
	}
	l.parsedFor, l.extra = s, s.cfg.ExtraScrapeMetricsEnabled()
}

// silence is how long a source of a federated target has to be absent, at least, before it ends: the lookback.
const silence = 5 * time.Minute

func (l *loop) parserOptions(s *settings) expo.Options {
	cfg, t := s.cfg, s.target
	o := expo.Options{
		Catalog: l.shared.Catalog,
		Scripts: l.shared.scripts,
		Source:  t.source,
		Map:     newMapper(cfg, t.source.Labels).column,
		Lead:    reportColumns(cfg.ExtraScrapeMetricsEnabled()),

		EndAfter:         max(3, int(silence/t.interval)),
		IgnoreTimestamps: !cfg.HonorTimestamps,
		TrackStaleness:   cfg.TrackTimestampsStaleness || strings.HasSuffix(t.url.Path, "/federate"),
		NativeHistograms: t.native,
		KeepClassic:      t.classic,
		ConvertClassic:   t.convert,
		SampleLimit:      int(cfg.SampleLimit),
		BucketLimit:      int(cfg.NativeHistogramBucketLimit),
		MinBucketFactor:  cfg.NativeHistogramMinBucketFactor,
	}
	if cfg.ScrapeFallbackProtocol != "" {
		o.FallbackContentType = cfg.ScrapeFallbackProtocol.HeaderMediaType()
	}
	if l.shared.KeyframeInterval > 0 {
		o.CompactAfter = max(1, int(l.shared.KeyframeInterval/t.interval))
	}
	return o
}

// result fetches the body and parses it. size is that of the body, 0 if there is none. The result is valid also after an
// error.
func (l *loop) result(ctx context.Context, s *settings, t int64) (result *expo.Result, size int, err error) {
	if s.forced != nil {
		return l.parser.Fail(t), 0, s.forced
	}
	body, contentType, err := s.fetcher.fetch(ctx)
	if err != nil {
		return l.parser.Fail(t), 0, err
	}
	defer l.shared.memory.release(body) // before the rows go on their way, which may be long
	result, err = l.parser.Parse(body.Bytes(), contentType, t)
	if result.Fallback != nil {
		l.shared.Logger.Debug("content type replaced by fallback_scrape_protocol",
			"job", s.cfg.JobName, "target", s.target.url.Redacted(), "err", result.Fallback)
	}
	return result, body.Len(), err
}

func (l *loop) deliver(r *series.Row) {
	if err := l.shared.Sink(r); err != nil {
		l.shared.metrics.refusedRows.Inc()
		l.shared.logs.warn("scraped row not accepted", "source", r.Source.Key, "err", err)
	}
}

// end tells that all series of the target ended at t.
func (l *loop) end(t time.Time) {
	rows := l.parser.End(t.UnixMilli())
	for i := range rows {
		l.deliver(&rows[i])
	}
}

// account counts, logs and shows what came of a scrape.
func (l *loop) account(s *settings, at time.Time, r *report, stats *expo.Stats, err error) {
	m := l.shared.metrics
	m.scrapes.Inc()
	m.samples.Add(float64(stats.Samples))
	if r.bodyBytes > 0 {
		m.bodyBytes.Add(float64(r.bodyBytes))
	}
	if err == nil {
		m.drop(stats)
	} else {
		m.failures.WithLabelValues(string(reasonOf(err))).Inc()
		if s.failures != nil {
			s.failures.Error(err.Error())
		}
	}
	l.log(s, err, time.Now())

	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.LastScrape, l.status.Duration, l.status.Samples = at, r.duration, stats.Samples
	l.status.Health, l.status.Err = Up, err
	if err != nil {
		l.status.Health = Down
	}
}

// logAgain is how often a target that goes on failing, or goes on and off, is logged with the same reason.
const logAgain = 5 * time.Minute

func (l *loop) log(s *settings, err error, now time.Time) {
	attrs := []any{"job", s.cfg.JobName, "target", s.target.url.Redacted()}
	if err == nil {
		if l.complained {
			l.shared.logs.info("scrape works again", append(attrs, "failures", l.failures)...)
		}
		l.failures, l.complained = 0, false
		return
	}
	l.failures++
	r := reasonOf(err)
	if last, ok := l.logged[r]; ok && now.Sub(last) < logAgain {
		return
	}
	l.logged[r] = now
	l.complained = true
	l.shared.logs.warn("scrape failed", append(attrs, "reason", string(r), "failures", l.failures, "err", err)...)
}
