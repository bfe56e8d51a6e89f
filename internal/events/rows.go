package events

import (
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// rows makes whole rows of an aggregate. Like that it is for one goroutine at a time.
type rows struct {
	catalog *series.Catalog
	source  *series.Source

	schema *series.Schema
	placed []*member  // that have columns, in the order of these
	made   uint64     // aggregate.made when all had some
	row    series.Row // whose memory is used again
}

func newRows(catalog *series.Catalog, source *series.Source) *rows {
	return &rows{catalog: catalog, source: source, schema: catalog.Empty()}
}

// setInterval says how far apart rows are from now on.
func (r *rows) setInterval(interval time.Duration) {
	if source := *r.source; source.Interval != interval {
		source.Interval = interval
		r.source = &source // rows share the one before
	}
}

// make returns all series as they are at a time, in ms. The row is valid until the next call.
func (r *rows) make(a *aggregate, t int64) *series.Row {
	dead := 0
	for _, m := range r.placed {
		if m.dead {
			dead++
		}
	}
	if dead > 0 && dead >= len(r.placed)/4 {
		r.schema, r.placed, r.made = r.catalog.Empty(), nil, 0
		for _, f := range a.order {
			for _, m := range f.members {
				m.column = -1
			}
		}
		dead = 0
	}
	if r.made != a.made {
		r.place(a)
	}
	n := r.schema.Len()
	if cap(r.row.Values) < n {
		r.row.Values = make([]float64, n, n+n/8)
	}
	r.row = series.Row{
		Source: r.source, Schema: r.schema, T: t, Values: r.row.Values[:n], Present: series.Bitmap(r.row.Present, n),
		Histograms: r.row.Histograms[:0], Exemplars: r.row.Exemplars[:0], Starts: r.row.Starts[:0],
	}
	for _, m := range r.placed {
		if !m.dead {
			r.fill(m, t)
		}
	}
	return &r.row
}

// place gives columns to the series that have none.
func (r *rows) place(a *aggregate) {
	var grown []series.Column
	next := int32(r.schema.Len())
	for _, f := range a.order {
		for _, m := range f.members {
			if m.dead || m.column >= 0 {
				continue
			}
			m.column = next + int32(len(grown))
			r.placed = append(r.placed, m)
			grown = m.appendColumns(grown)
		}
	}
	r.schema = r.catalog.Extend(r.schema, grown)
	r.made = a.made
}

// appendColumns appends those of a series.
func (m *member) appendColumns(dst []series.Column) []series.Column {
	f := m.family
	family := series.Family{Name: f.name, Type: f.typ.model(), Help: f.help, Unit: f.unit}
	add := func(suffix, label string, at float64) {
		ls := m.labels
		if suffix != "" || label != "" {
			b := labels.NewBuilder(ls).Set(model.MetricNameLabel, f.name+suffix)
			if label != "" {
				b.Set(label, labels.FormatOpenMetricsFloat(at))
			}
			ls = b.Labels()
		}
		dst = append(dst, series.Column{Labels: ls, Family: family})
	}
	switch {
	case f.native:
		return append(dst, series.Column{Labels: m.labels, Family: family, Kind: series.Histogram})
	case f.typ == Histogram:
		for _, bound := range f.bounds {
			add("_bucket", model.BucketLabel, bound)
		}
		add("_bucket", model.BucketLabel, math.Inf(1))
	case f.typ == Summary:
		for _, o := range f.objectives {
			add("", model.QuantileLabel, o.quantile)
		}
	default:
		add("", "", 0)
		return dst
	}
	add("_sum", "", 0)
	add("_count", "", 0)
	return dst
}

// fill puts a series into the row.
func (r *rows) fill(m *member, t int64) {
	at := m.column
	put := func(v float64) {
		r.row.Values[at] = v
		series.SetBit(r.row.Present, int(at))
		if m.family.typ != Gauge {
			r.row.Starts = append(r.row.Starts, series.StartAt{Column: uint32(at), Ms: m.created})
		}
		at++
	}
	switch parts := m.parts.(type) {
	case *native:
		r.row.Histograms = append(r.row.Histograms, series.HistogramAt{Column: uint32(at), H: parts.histogram(m.sum.total())})
		put(0)
	case *classic:
		cumulative := uint64(0)
		for i, k := range parts.counts {
			cumulative += k
			if parts.exemplars != nil && parts.exemplars[i] != nil {
				r.row.Exemplars = append(r.row.Exemplars, series.ExemplarAt{Column: uint32(at), Exemplar: *parts.exemplars[i]})
			}
			put(float64(cumulative))
		}
		put(m.sum.total())
		put(float64(cumulative))
	case *summary:
		var buf [maxObjectives]float64
		for _, v := range parts.appendQuantiles(buf[:0]) {
			put(v)
		}
		put(m.sum.total())
		put(float64(parts.observed))
	default:
		if m.family.typ == Gauge {
			put(m.valueAt(t))
		} else {
			put(m.sum.total())
		}
	}
	if m.exemplar != nil {
		r.row.Exemplars = append(r.row.Exemplars, series.ExemplarAt{Column: uint32(m.column), Exemplar: *m.exemplar})
	}
}
