package push

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/histogram"
)

// api wraps an endpoint of the API, which pages of other origins may use.
func api(method string, f func(http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, Origin")
		h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "Date")
		h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
		switch r.Method {
		case method:
			f(w, r)
		case http.MethodOptions:
		default:
			h.Set("Allow", method+", OPTIONS")
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		}
	})
}

// wipe deletes all groups of a site.
func (g *Gateway) wipe(w http.ResponseWriter, r *http.Request) {
	if !g.settings.Load().Admin {
		http.NotFound(w, r)
		return
	}
	ender := runner{Gateway: g}
	err := ender.endAll(context.WithoutCancel(r.Context()), g.siteOf(r))
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	}
	g.answer(w, r, resultWiped, err)
}

// serveStatus says what runs here. There are no flags: the configuration is in a file that nobody else needs to see.
func (g *Gateway) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client has gone
		"status": "success",
		"data": map[string]any{
			"flags":             map[string]string{},
			"start_time":        g.started,
			"build_information": map[string]string{"version": g.options.Version, "goVersion": runtime.Version()},
		},
	})
}

// serveGroups says what is in the groups of a site, one after the other.
func (g *Gateway) serveGroups(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 64<<10)
	_, err := out.WriteString(`{"status":"success","data":[`)
	for i, c := range g.siteOf(r).contents() {
		if i > 0 {
			err = errors.Join(err, out.WriteByte(','))
		}
		encoded, bad := c.describe()
		if bad != nil {
			panic("push: BUG: " + bad.Error()) // it was decoded before
		}
		_, bad = out.Write(encoded)
		if err = errors.Join(err, bad); err != nil {
			return // the client has gone
		}
	}
	_, _ = out.WriteString("]}\n")
	_ = out.Flush()
}

// groupFamily is a family of a group in JSON, with its metrics: values are strings.
type groupFamily struct {
	Timestamp time.Time        `json:"time_stamp"`
	Type      string           `json:"type"`
	Help      string           `json:"help,omitempty"`
	Metrics   []map[string]any `json:"metrics"`
}

// describe returns a group in JSON.
func (c *content) describe() ([]byte, error) {
	by := map[string]string{}
	for _, l := range c.grouping {
		by[l.Name] = l.Value
	}
	fields := map[string]any{"labels": by}
	var success, failure float64
	for i := range c.state.families {
		f := &c.state.families[i]
		var m dto.MetricFamily
		if err := known.Unmarshal(f.data, &m); err != nil {
			return nil, fmt.Errorf("metric family %q: %w", f.name, err)
		}
		metrics := make([]map[string]any, 0, len(m.Metric))
		for _, metric := range m.Metric {
			metrics = append(metrics, describeMetric(f.typ, metric))
		}
		switch {
		case len(m.Metric) == 0:
		case f.name == pushName:
			success = valueOf(m.Metric[0])
		case f.name == failureName:
			failure = valueOf(m.Metric[0])
		}
		fields[f.name] = groupFamily{f.at, f.typ.String(), m.GetHelp(), metrics}
	}
	fields["last_push_successful"] = failure <= success
	return json.Marshal(fields)
}

func describeMetric(t dto.MetricType, m *dto.Metric) map[string]any {
	ls := map[string]string{}
	for _, l := range m.Label {
		ls[l.GetName()] = l.GetValue()
	}
	fields := map[string]any{"labels": ls}
	switch t {
	case dto.MetricType_SUMMARY:
		quantiles := map[string]string{}
		for _, q := range m.GetSummary().Quantile {
			quantiles[fmt.Sprint(q.GetQuantile())] = fmt.Sprint(q.GetValue())
		}
		fields["quantiles"] = quantiles
		fields["count"] = strconv.FormatUint(m.GetSummary().GetSampleCount(), 10)
		fields["sum"] = fmt.Sprint(m.GetSummary().GetSampleSum())
	case dto.MetricType_HISTOGRAM:
		describeHistogram(fields, m.GetHistogram())
	default:
		fields["value"] = fmt.Sprint(valueOf(m))
	}
	return fields
}

func describeHistogram(fields map[string]any, h *dto.Histogram) {
	count := strconv.FormatUint(h.GetSampleCount(), 10)
	if c := h.GetSampleCountFloat(); c > 0 {
		count = fmt.Sprint(c)
	}
	fields["count"], fields["sum"] = count, fmt.Sprint(h.GetSampleSum())
	if len(h.GetNegativeSpan())+len(h.GetPositiveSpan()) > 0 {
		fields["buckets"] = nativeBuckets(h)
		return
	}
	buckets := map[string]string{}
	for _, b := range h.Bucket {
		c := strconv.FormatUint(b.GetCumulativeCount(), 10)
		if f := b.GetCumulativeCountFloat(); f > 0 {
			c = fmt.Sprint(f)
		}
		buckets[fmt.Sprint(b.GetUpperBound())] = c
	}
	fields["buckets"] = buckets
}

// nativeBuckets lists the buckets of a native histogram that are not empty, as Prometheus' API does: which of the bounds
// belong to it, the bounds, the count.
func nativeBuckets(h *dto.Histogram) [][]any {
	var fh *histogram.FloatHistogram
	spans := func(from []*dto.BucketSpan) []histogram.Span {
		to := make([]histogram.Span, len(from))
		for i, s := range from {
			to[i] = histogram.Span{Offset: s.GetOffset(), Length: s.GetLength()}
		}
		return to
	}
	if h.GetSampleCountFloat() > 0 || h.GetZeroCountFloat() > 0 {
		fh = &histogram.FloatHistogram{
			Schema: h.GetSchema(), ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCountFloat(),
			PositiveSpans: spans(h.GetPositiveSpan()), PositiveBuckets: h.GetPositiveCount(),
			NegativeSpans: spans(h.GetNegativeSpan()), NegativeBuckets: h.GetNegativeCount(),
		}
	} else {
		fh = (&histogram.Histogram{
			Schema: h.GetSchema(), ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCount(),
			PositiveSpans: spans(h.GetPositiveSpan()), PositiveBuckets: h.GetPositiveDelta(),
			NegativeSpans: spans(h.GetNegativeSpan()), NegativeBuckets: h.GetNegativeDelta(),
		}).ToFloat(nil)
	}
	buckets := [][]any{}
	for it := fh.AllBucketIterator(); it.Next(); {
		b := it.At()
		if b.Count == 0 {
			continue
		}
		bounds := 2
		switch {
		case b.LowerInclusive && b.UpperInclusive:
			bounds = 3
		case b.LowerInclusive:
			bounds = 1
		case b.UpperInclusive:
			bounds = 0
		}
		buckets = append(buckets, []any{bounds, fmt.Sprint(b.Lower), fmt.Sprint(b.Upper), fmt.Sprint(b.Count)})
	}
	return buckets
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	}
	return m.GetUntyped().GetValue()
}
