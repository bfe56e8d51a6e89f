package events

import (
	"io"
	"iter"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// exposed is a metric as it is at a moment.
type exposed struct {
	name, help, unit string
	typ              model.MetricType
	bounds           []float64
	objectives       []objective
	metrics          []exposedMetric
	// hidden start times: OpenMetrics would tell them under the name of another metric.
	hidden bool
	// shared: what OpenMetrics calls a counter, its name without _total, is the name of another metric.
	shared bool
}

// exposedMetric is one of its series, or several that belong together.
type exposedMetric struct {
	labels   labels.Labels
	value    float64 // the sum of a histogram or summary
	created  int64   // ms; 0 of a gauge
	exemplar *exemplar.Exemplar

	native    *histogram.Histogram
	buckets   []uint64 // cumulative, the infinite one included
	exemplars []*exemplar.Exemplar
	quantiles []float64
	count     uint64
}

// snapshot is the metric as it is now. It shares nothing with the one that changes.
func (f *family) snapshot(now int64) *exposed {
	x := &exposed{name: f.name, help: f.help, unit: f.unit, typ: f.typ.model(), bounds: f.bounds, objectives: f.objectives}
	x.metrics = make([]exposedMetric, 0, f.alive)
	for _, m := range f.members {
		if !m.dead {
			x.metrics = append(x.metrics, m.snapshot(now))
		}
	}
	return x
}

// exposed yields the gateway's own metrics, and those of the aggregate one after the other, each as it is when its turn
// comes: nobody waits for a whole page, and only one metric of it is in memory.
func (g *Gateway) exposed() iter.Seq[*exposed] {
	return func(yield func(*exposed) bool) {
		g.mu.Lock()
		own, order := g.meta.families(), slices.Clone(g.state.order)
		if g.standby {
			own, order = own[:1], nil // the info metric alone: the sums are those of whoever takes the events
		}
		g.mu.Unlock()
		for i := range own {
			if !yield(&own[i]) {
				return
			}
		}
		for _, f := range order {
			g.mu.Lock()
			x := f.snapshot(g.options.Now().UnixMilli())
			stem, total := strings.CutSuffix(f.name, "_total")
			x.hidden = g.state.families[stem+"_created"] != nil
			x.shared = total && f.typ == Counter && g.state.families[stem] != nil
			g.mu.Unlock()
			if len(x.metrics) > 0 && !yield(x) {
				return
			}
		}
	}
}

func (m *member) snapshot(now int64) exposedMetric {
	x := exposedMetric{labels: m.labels, created: m.created, exemplar: m.exemplar, value: m.sum.total()}
	switch parts := m.parts.(type) {
	case *native:
		x.native = parts.histogram(x.value)
		x.count = x.native.Count
	case *classic:
		x.buckets = make([]uint64, len(parts.counts))
		for i, k := range parts.counts {
			x.count += k
			x.buckets[i] = x.count
		}
		if parts.exemplars != nil {
			x.exemplars = append(x.exemplars, parts.exemplars...)
		}
	case *summary:
		x.quantiles = parts.appendQuantiles(nil)
		x.count = parts.observed
	default:
		if m.family.typ == Gauge {
			x.value, x.created = m.valueAt(now), 0
		}
	}
	return x
}

// pageBytes is how much of a page is written at a time.
const pageBytes = 64 << 10

// openMetrics001 differs from 1.0.0 in its name only.
const openMetrics001 expfmt.Format = expfmt.OpenMetricsType + "; version=" + expfmt.OpenMetricsVersion_0_0_1 + "; charset=utf-8"

// ServeMetrics serves the aggregate, and the gateway's own metrics under the names of prom-stream-gateway, without
// timestamps, in the format that the client likes best. After a crash it answers 503 until everything counts again that
// counted before, for less would look like counters that began anew.
func (g *Gateway) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	if why := g.unseen(); why != "" {
		w.Header().Set("Retry-After", "1")
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	header := r.Header
	if accept := r.URL.Query().Get("accept"); accept != "" {
		header = http.Header{"Accept": {accept}}
	}
	format := expfmt.NegotiateAccept(header, expfmt.NewFormat(expfmt.TypeOpenMetrics), openMetrics001,
		expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	p := exposition{out: w}
	switch format.FormatType() {
	case expfmt.TypeProtoDelim:
		p.writeProto(g.exposed())
	case expfmt.TypeOpenMetrics:
		p.writeOpenMetrics(g.exposed())
	default:
		p.writeText(g.exposed())
	}
	// A page that must not be seen has no end: a crash could take it back, or this process stood still meanwhile, and another
	// replica has shown more.
	if g.settle(r.Context()) != nil || g.unseen() != "" {
		panic(http.ErrAbortHandler)
	}
}

// exposition is a page on its way out. After an error of the writer, nothing more is written.
type exposition struct {
	out    io.Writer
	buf    []byte
	failed bool
	pairs  []labels.Label
}

func (p *exposition) flush(atLeast int) {
	if len(p.buf) < atLeast || p.failed {
		return
	}
	_, err := p.out.Write(p.buf)
	p.failed = err != nil
	p.buf = p.buf[:0]
}

// setPairs makes the labels of a metric those in hand, without its name.
func (p *exposition) setPairs(ls labels.Labels) {
	p.pairs = p.pairs[:0]
	ls.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel {
			p.pairs = append(p.pairs, l)
		}
	})
}

// line writes one sample of the labels in hand, and another label behind them if it has a name.
type line func(f *exposed, suffix, label string, at, v float64, e *exemplar.Exemplar)

// metric writes the lines of a metric in the order of the original: sum, count, and then the parts.
func (p *exposition) metric(f *exposed, m *exposedMetric, write line) {
	switch f.typ {
	case model.MetricTypeHistogram, model.MetricTypeSummary:
		write(f, "_sum", "", 0, m.value, nil)
		write(f, "_count", "", 0, float64(m.count), nil)
	default:
		write(f, "", "", 0, m.value, m.exemplar)
		return
	}
	for i, v := range m.quantiles {
		write(f, "", model.QuantileLabel, f.objectives[i].quantile, v, nil)
	}
	for i, k := range m.buckets {
		bound := math.Inf(1)
		if i < len(f.bounds) {
			bound = f.bounds[i]
		}
		var e *exemplar.Exemplar
		if m.exemplars != nil {
			e = m.exemplars[i]
		}
		write(f, "_bucket", model.BucketLabel, bound, float64(k), e)
	}
	if m.native != nil { // of which text has no words for the buckets
		write(f, "_bucket", model.BucketLabel, math.Inf(1), float64(m.count), m.exemplar)
	}
}

func (p *exposition) writeText(families iter.Seq[*exposed]) {
	var t expo.Text
	for f := range families {
		p.buf = t.AppendFamily(p.buf, f.name, f.typ, f.help)
		write := func(f *exposed, suffix, label string, at, v float64, _ *exemplar.Exemplar) {
			ls := p.pairs
			if label != "" {
				ls = append(ls, labels.Label{Name: label, Value: string(expo.AppendFloat(nil, at))})
			}
			p.buf = append(t.AppendSeries(p.buf, f.name, suffix, ls), ' ')
			p.buf = append(expo.AppendFloat(p.buf, v), '\n')
		}
		for j := range f.metrics {
			p.setPairs(f.metrics[j].labels)
			p.metric(f, &f.metrics[j], write)
			p.flush(pageBytes)
		}
		if p.failed {
			return
		}
	}
	p.flush(1)
}

func (p *exposition) writeOpenMetrics(families iter.Seq[*exposed]) {
	var o expo.OpenMetrics
	for f := range families {
		meta := series.Family{Name: f.name, Type: f.typ, Help: f.help, Unit: f.unit}
		if f.shared { // each family may be there once
			meta.Type = model.MetricTypeUnknown
		}
		p.buf = o.AppendFamily(p.buf, &meta)
		write := func(f *exposed, suffix, label string, at, v float64, e *exemplar.Exemplar) {
			ls := p.pairs
			if label != "" {
				ls = append(ls, labels.Label{Name: label, Value: labels.FormatOpenMetricsFloat(at)})
			}
			if f.shared { // which has none
				e = nil
			}
			p.buf = expo.Text(o).AppendSeries(p.buf, f.name, suffix, ls)
			p.buf = o.AppendSampleEnd(p.buf, f.name, suffix, v, nil, e)
		}
		for j := range f.metrics {
			m := &f.metrics[j]
			p.setPairs(m.labels)
			p.metric(f, m, write)
			if m.created != 0 && !f.hidden {
				p.buf = o.AppendCreated(p.buf, &meta, p.pairs, m.created)
			}
			p.flush(pageBytes)
		}
		if p.failed {
			return
		}
	}
	p.buf = o.AppendEnd(p.buf)
	p.flush(1)
}

func (p *exposition) writeProto(families iter.Seq[*exposed]) {
	w := expo.Proto{Untimed: true}
	var metrics []byte
	var m expo.Metric
	for f := range families {
		meta := series.Family{Name: f.name, Type: f.typ, Help: f.help, Unit: f.unit}
		metrics = metrics[:0]
		for j := range f.metrics {
			p.setPairs(f.metrics[j].labels)
			f.metrics[j].fill(&m, f)
			m.Labels = p.pairs
			metrics = w.AppendMetric(metrics, f.typ, &m)
		}
		p.buf = w.AppendDelimited(p.buf, &meta, metrics)
		if p.flush(pageBytes); p.failed {
			return
		}
	}
	p.flush(1)
}

// fill makes a metric what the protobuf writer takes.
func (x *exposedMetric) fill(m *expo.Metric, f *exposed) {
	*m = expo.Metric{
		Start: x.created, Exemplar: x.exemplar, Value: x.value, H: x.native, Count: float64(x.count), Sum: x.value, Parts: m.Parts[:0],
	}
	for i, v := range x.quantiles {
		m.Parts = append(m.Parts, expo.Part{Bound: f.objectives[i].quantile, Value: v})
	}
	for i, k := range x.buckets {
		part := expo.Part{Bound: math.Inf(1), Value: float64(k)}
		if i < len(f.bounds) {
			part.Bound = f.bounds[i]
		}
		if x.exemplars != nil {
			part.Exemplar = x.exemplars[i]
		}
		m.Parts = append(m.Parts, part)
	}
}
