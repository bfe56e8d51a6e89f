package remotewrite

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// TestOrder sends the rows of many sources over many shards to a receiver that fails now and then: every sample arrives
// once, and those of a series in their order.
func TestOrder(t *testing.T) {
	for _, config := range []string{"", "protobuf_message: io.prometheus.write.v2.Request\n"} {
		var mu sync.Mutex
		var taken []peerSample
		p := newPeer(t, func(_ int, r *peerRequest, w http.ResponseWriter) {
			if rand.IntN(4) == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			mu.Lock()
			taken = append(taken, r.samples...)
			mu.Unlock()
			take(r, w)
		})
		o := newOut(t, p.url, config+"queue_config: {min_backoff: 1ms, max_backoff: 2ms, max_shards: 4, max_samples_per_send: 7}")
		s := o.NewSender(false)
		const sources, rows, batches = 20, 3, 5
		at := int64(sendStart)
		for range batches {
			for range rows {
				at += 1000
				for k := range sources {
					s.Row("a", o.row(fmt.Sprint("k", k), at, float64(k), 2, 3))
				}
			}
			expect(t, "full", s.Full(), true)
			expect(t, "lost", len(o.flush(s)), 0)
			expect(t, "full", s.Full(), false)
		}
		expect(t, "taken", len(taken), sources*rows*batches*3)
		newest := map[string]int64{}
		for _, x := range taken {
			if x.t <= newest[x.labels] {
				t.Errorf("%s: %d comes after %d", x.labels, x.t, newest[x.labels])
			}
			newest[x.labels] = x.t
		}
		expect(t, "series", len(newest), sources*3)
		for _, r := range p.all() {
			if len(r.samples) > 7 {
				t.Errorf("a request has %d samples", len(r.samples))
			}
		}
		expect(t, "samples", o.value("thalweg_remote_write_samples_total", "lane", "live"), sources*rows*batches*3)
		expect(t, "shards", o.value("thalweg_remote_write_shards"), 4)
	}
}

// TestFull has a batch become full by samples, and by bytes.
func TestFull(t *testing.T) {
	p := newPeer(t, nil)
	o := newOut(t, p.url, "queue_config: {max_shards: 2, max_samples_per_send: 10}")
	s := o.NewSender(false)
	expect(t, "full", s.Full(), false)
	s.Row("a", o.row("k", sendStart, make([]float64, 19)...))
	expect(t, "full", s.Full(), false)
	s.Row("a", o.row("k", sendStart+1, 1))
	expect(t, "full", s.Full(), true)
	o.flush(s)
	expect(t, "full", s.Full(), false)

	o = newOut(t, p.url, "queue_config: {max_samples_per_send: 1000000000}")
	s = o.NewSender(false)
	for i := 0; !s.Full(); i++ {
		if i == maxBatchRows {
			t.Fatal("it is never full")
		}
		row := o.row("k", sendStart+int64(i), rand.Float64(), rand.Float64())
		row.Source.Labels = labels.FromStrings("instance", fmt.Sprint(i), "long", strings.Repeat(fmt.Sprint(rand.Uint64()), 5000))
		s.Row("a", row)
	}
}

// TestTooLarge has a receiver that takes small requests only.
func TestTooLarge(t *testing.T) {
	p := newPeer(t, func(_ int, r *peerRequest, w http.ResponseWriter) {
		if len(r.samples) > 10 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		take(r, w)
	})
	for _, config := range []string{"", "protobuf_message: io.prometheus.write.v2.Request\n"} {
		o := newOut(t, p.url, config+"queue_config: {max_shards: 1}")
		s := o.NewSender(false)
		for k := range 20 {
			s.Row("a", o.row(fmt.Sprint("k", k), sendStart+int64(k), 1, 2))
		}
		expect(t, "lost", len(o.flush(s)), 0)
		expect(t, "sent", o.value("thalweg_remote_write_samples_total", "lane", "live"), 40)
	}
}

// TestPartialWrites believes a receiver of 2.0 that says how much it took.
func TestPartialWrites(t *testing.T) {
	p := newPeer(t, func(_ int, _ *peerRequest, w http.ResponseWriter) {
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "7")
		w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", "0")
		w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", "0")
		http.Error(w, "three of them are bad", http.StatusBadRequest)
	})
	o := newOut(t, p.url, v2)
	s := o.NewSender(false)
	for i := range 5 {
		s.Row("a", o.row("k", sendStart+int64(i), 1, 2))
	}
	expect(t, "lost", fmt.Sprint(o.flush(s)), "[{0 2 three of them are bad} {1 1 three of them are bad}]")
	expect(t, "requests", len(p.all()), 1)
	expect(t, "sent", o.value("thalweg_remote_write_samples_total", "lane", "live"), 7)
	expect(t, "failed", o.value("thalweg_remote_write_failed_samples_total", "lane", "live", "reason", "refused"), 3)
}

// TestWroteLess believes it also when it comes with a 2xx.
func TestWroteLess(t *testing.T) {
	p := newPeer(t, func(_ int, _ *peerRequest, w http.ResponseWriter) {
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "3")
		w.WriteHeader(http.StatusNoContent)
	})
	o := newOut(t, p.url, v2)
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1, 2))
	s.Row("a", o.row("k", sendStart+1, 1, 2))
	expect(t, "lost", fmt.Sprint(o.flush(s)), "[{0 1 answered 204, and wrote less than it was sent}]")
	expect(t, "requests", len(p.all()), 1)
	expect(t, "sent", o.value("thalweg_remote_write_samples_total", "lane", "live"), 3)
}

// TestFallback meets receivers that do not know 2.0: one says so, the other takes a request of 2.0 for an empty one.
// Nothing is lost, and 2.0 is tried again after an hour.
func TestFallback(t *testing.T) {
	for _, silent := range []bool{false, true} {
		learned := false
		p := newPeer(t, func(_ int, r *peerRequest, w http.ResponseWriter) {
			switch {
			case !r.v2 || learned:
				take(r, w)
			case silent:
				w.WriteHeader(http.StatusOK)
			default:
				w.WriteHeader(http.StatusUnsupportedMediaType)
			}
		})
		o := newOut(t, p.url, "protobuf_message: io.prometheus.write.v2.Request\nqueue_config: {max_shards: 1, max_samples_per_send: 4}")
		live, backfill := o.NewSender(false), o.NewSender(true)
		send := func(s *Sender, at int64) (messages string) {
			t.Helper()
			before := len(p.all())
			s.Row("a", o.row("k", at, 1, 2, 3))
			s.Row("b", o.row("k", at, 4, 5, 6))
			expect(t, "lost", len(o.flush(s)), 0)
			for _, r := range p.all()[before:] {
				messages += map[bool]string{true: "2", false: "1"}[r.v2]
			}
			return messages
		}
		expect(t, "messages", send(live, sendStart), "211")
		expect(t, "fallback", o.value("thalweg_remote_write_fallback"), 1)
		expect(t, "status", o.Status().Fallback, true)
		expect(t, "message", o.Status().Message, "1.0")
		expect(t, "messages", send(live, sendStart+1), "11")
		expect(t, "messages", send(backfill, sendStart-1000), "11")
		o.add(fallbackFor)
		expect(t, "messages", send(live, sendStart+2), "211")
		o.add(fallbackFor)
		learned = true
		expect(t, "messages", send(live, sendStart+3), "22")
		expect(t, "fallback", o.value("thalweg_remote_write_fallback"), 0)
		expect(t, "message", o.Status().Message, "2.0")
		var got []peerSample
		for _, r := range p.all() {
			if !r.v2 || r.header.Get("Retry-Attempt") != "" {
				expect(t, "Retry-Attempt", r.header.Get("Retry-Attempt"), "")
				got = append(got, r.samples...)
			}
		}
		expect(t, "samples of 1.0", len(got), 4*6)
		expect(t, "samples", o.value("thalweg_remote_write_samples_total", "lane", "live"), 4*6)
	}
}

// TestNotSent covers rows that need not be sent.
func TestNotSent(t *testing.T) {
	p := newPeer(t, nil)
	f := func(config string, backfill bool, rules store.Config, row *series.Row, reason Loss) {
		t.Helper()
		o := newOut(t, p.url, config)
		if err := o.Apply(o.config(p.url, config), external, rules); err != nil {
			t.Fatal(err)
		}
		before := len(p.all())
		s := o.NewSender(backfill)
		s.Row("a", row)
		lost := o.flush(s)
		if reason == "" {
			expect(t, "lost", len(lost), 0)
			expect(t, "requests", len(p.all())-before, 1)
			return
		}
		expect(t, "requests", len(p.all())-before, 0)
		if len(lost) != 1 || lost[0].row != 0 || lost[0].samples != 2 || lost[0].why == "" {
			t.Errorf("lost: %v", lost)
		}
		lane := map[bool]string{false: "live", true: "backfill"}[backfill]
		expect(t, "failed", o.value("thalweg_remote_write_failed_samples_total", "lane", lane, "reason", string(reason)), 2)
	}
	o := newOut(t, p.url, "")
	row, rules := o.row("k", sendStart, 1, 2), store.DefaultConfig()
	f("out_of_order: drop", true, rules, row, LossDropped)
	f("out_of_order: drop", false, rules, row, "")
	f("out_of_order: send", true, rules, row, "")
	f("queue_config: {sample_age_limit: 1m}", false, rules, o.row("k", sendStart-60_001, 1, 2), LossTooOld)
	f("queue_config: {sample_age_limit: 1m}", false, rules, o.row("k", sendStart-60_000, 1, 2), "")
	conflict := o.row("k", sendStart, 1, 2)
	conflict.Source.Labels = labels.FromStrings("job", "j", "site", "other")
	f("", false, rules, conflict, "")
	rules.OnConflict = store.Reject
	f("", false, rules, conflict, LossSiteLabel)
	f("", false, rules, row, "")
}

// TestTooOldToRetry gives a request up when it has become too old.
func TestTooOldToRetry(t *testing.T) {
	var o *out
	p := newPeer(t, func(_ int, _ *peerRequest, w http.ResponseWriter) {
		o.add(time.Minute)
		w.WriteHeader(http.StatusInternalServerError)
	})
	o = newOut(t, p.url, "queue_config: {min_backoff: 1ms, sample_age_limit: 150s}")
	s := o.NewSender(false)
	s.Row("a", o.row("k", sendStart, 1, 2))
	expect(t, "lost", fmt.Sprint(o.flush(s)), "[{0 2 older than sample_age_limit}]")
	expect(t, "requests", len(p.all()), 3)
	expect(t, "failed", o.value("thalweg_remote_write_failed_samples_total", "lane", "live", "reason", "too_old"), 2)
}

// TestLabels compares what the receiver sees with what the rules say.
func TestLabels(t *testing.T) {
	p := newPeer(t, nil)
	f := func(config string, rules store.Config, source labels.Labels, want string) {
		t.Helper()
		before := len(p.all())
		o := newOut(t, p.url, config)
		if err := o.Apply(o.config(p.url, config), external, rules); err != nil {
			t.Fatal(err)
		}
		s := o.NewSender(false)
		row := o.row("k", sendStart, 1)
		row.Source.Labels = source
		s.Row("ams-1", row)
		o.flush(s)
		got := ""
		for _, r := range p.all()[before:] {
			for _, x := range r.samples {
				got += x.labels
			}
		}
		expect(t, "labels", got, want)
	}
	d := store.DefaultConfig()
	f("", d, labels.FromStrings("job", "j"), `{__name__="x", hub="core", i="0", job="j", site="ams-1"}`)
	f("", d, labels.FromStrings("hub", "own", "job", "j"), `{__name__="x", hub="own", i="0", job="j", site="ams-1"}`)
	f("", d, labels.FromStrings("job", "j", "site", "s"), `{__name__="x", exported_site="s", hub="core", i="0", job="j", site="ams-1"}`)
	f("", store.Config{SiteLabel: "place", OnConflict: store.Drop, Lookback: d.Lookback}, labels.FromStrings("job", "j"),
		`{__name__="x", hub="core", i="0", job="j", place="ams-1"}`)
	f("", store.Config{SiteLabel: "job", OnConflict: store.Drop, Lookback: d.Lookback}, labels.FromStrings("job", "j"), "")
	f(`write_relabel_configs: [{regex: hub|i, action: labeldrop}, {source_labels: [site], target_label: cluster}]`, d, labels.FromStrings("job", "j"),
		`{__name__="x", cluster="ams-1", job="j", site="ams-1"}`)
	f(`write_relabel_configs: [{source_labels: [hub], regex: core, action: drop}]`, d, labels.FromStrings("job", "j"), "")
	f(`write_relabel_configs: [{regex: __name__, action: labeldrop}]`, d, labels.FromStrings("job", "j"), "")
}

// TestMetadata sends type, help and unit of each family now and then, with 1.0 and live rows only.
func TestMetadata(t *testing.T) {
	count := func(config string, backfill bool) (n int) {
		p := newPeer(t, nil)
		o := newOut(t, p.url, "")
		c := o.config(p.url, config)
		c.Prometheus.MetadataConfig.Send = true
		o.apply(c)
		s := o.NewSender(backfill)
		for i := range 4 {
			s.Row("a", o.row("k", sendStart+int64(i), 1, 2))
			o.flush(s)
			o.add(20 * time.Second)
		}
		for _, r := range p.all() {
			n += r.metadata
		}
		expect(t, "metadata", o.value("thalweg_remote_write_metadata_total"), float64(n))
		return n
	}
	expect(t, "live", count("", false), 2)
	expect(t, "backfill", count("", true), 0)
	expect(t, "2.0", count(v2, false), 0)
}
