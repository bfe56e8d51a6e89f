package telemetry

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Sampler turns metrics that this process has or reads into rows of one source. It is for one goroutine.
type Sampler struct {
	gatherer prometheus.Gatherer
	catalog  *series.Catalog
	source   *series.Source

	schema  *series.Schema
	columns map[string]int // by name and labels
	sparse  int            // rows in a row of which a quarter was absent

	// Of the row being made; values and present are reused.
	row   series.Row
	grown []series.Column
	key   []byte
}

// compactAfter so many rows with a quarter of the columns absent, the schema begins anew with what is alive.
const compactAfter = 40

// NewSampler returns a Sampler. Rows of the source are expected at its interval.
func NewSampler(g prometheus.Gatherer, catalog *series.Catalog, source *series.Source) *Sampler {
	return &Sampler{gatherer: g, catalog: catalog, source: source, schema: catalog.Empty(), columns: map[string]int{}}
}

// Row returns the metrics of this moment as a whole row. The row is valid until the next call. With an error the row
// is still there if some metrics could be gathered.
func (s *Sampler) Row(at time.Time) (*series.Row, error) {
	families, err := s.gatherer.Gather()
	if err != nil {
		err = fmt.Errorf("gather metrics of %s: %w", s.source.Key, err)
		if len(families) == 0 {
			return nil, err
		}
	}
	if s.sparse >= compactAfter {
		s.schema, s.sparse = s.catalog.Empty(), 0
		clear(s.columns)
	}
	known := s.schema.Len()
	s.row = series.Row{
		Source:  s.source,
		T:       at.UnixMilli(),
		Values:  s.row.Values[:0],
		Present: series.Bitmap(s.row.Present, known),
	}
	s.row.Values = append(s.row.Values, make([]float64, known)...)
	s.grown = s.grown[:0]
	// Nobody scrapes this source from outside; up says that its rows come.
	s.add(&series.Family{Name: "up", Help: "The process is alive.", Type: model.MetricTypeGauge}, "up", nil, "", "", 1)
	for _, family := range families {
		s.addFamily(family)
	}
	s.schema = s.catalog.Extend(s.schema, s.grown)
	s.row.Schema = s.schema
	if present := series.CountBits(s.row.Present, len(s.row.Values)); present*4 < len(s.row.Values)*3 {
		s.sparse++
	} else {
		s.sparse = 0
	}
	return &s.row, err
}

func (s *Sampler) addFamily(f *dto.MetricFamily) {
	family := series.Family{Name: f.GetName(), Help: f.GetHelp(), Unit: f.GetUnit(), Type: model.MetricTypeUnknown}
	for _, m := range f.Metric {
		add := func(suffix, label, at string, value float64) {
			s.add(&family, f.GetName()+suffix, m.Label, label, at, value)
		}
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			family.Type = model.MetricTypeCounter
			add("", "", "", m.GetCounter().GetValue())
		case dto.MetricType_GAUGE:
			family.Type = model.MetricTypeGauge
			add("", "", "", m.GetGauge().GetValue())
		case dto.MetricType_UNTYPED:
			add("", "", "", m.GetUntyped().GetValue())
		case dto.MetricType_SUMMARY:
			family.Type = model.MetricTypeSummary
			for _, q := range m.GetSummary().Quantile {
				add("", model.QuantileLabel, labels.FormatOpenMetricsFloat(q.GetQuantile()), q.GetValue())
			}
			add("_sum", "", "", m.GetSummary().GetSampleSum())
			add("_count", "", "", float64(m.GetSummary().GetSampleCount()))
		case dto.MetricType_HISTOGRAM:
			family.Type = model.MetricTypeHistogram
			h := m.GetHistogram()
			for _, b := range h.Bucket {
				if !math.IsInf(b.GetUpperBound(), 1) {
					add("_bucket", model.BucketLabel, labels.FormatOpenMetricsFloat(b.GetUpperBound()), float64(b.GetCumulativeCount()))
				}
			}
			add("_bucket", model.BucketLabel, "+Inf", float64(h.GetSampleCount()))
			add("_sum", "", "", h.GetSampleSum())
			add("_count", "", "", float64(h.GetSampleCount()))
		}
	}
}

// add sets the value of one series in the row, in a new column if the series is new.
func (s *Sampler) add(family *series.Family, name string, pairs []*dto.LabelPair, label, at string, value float64) {
	key := append(s.key[:0], name...)
	for _, p := range pairs {
		key = append(append(append(append(key, 0xff), p.GetName()...), 0xff), p.GetValue()...)
	}
	key = append(append(key, 0xff), at...)
	s.key = key
	column, known := s.columns[string(key)]
	if !known {
		b := labels.NewScratchBuilder(len(pairs) + 2)
		b.Add(model.MetricNameLabel, name)
		for _, p := range pairs {
			b.Add(p.GetName(), p.GetValue())
		}
		if label != "" {
			b.Add(label, at)
		}
		b.Sort()
		s.grown = append(s.grown, series.Column{Labels: b.Labels(), Family: *family})
		column = len(s.row.Values)
		s.columns[string(key)] = column
		s.row.Values = append(s.row.Values, 0)
		if column/64 == len(s.row.Present) {
			s.row.Present = append(s.row.Present, 0)
		}
	}
	s.row.Values[column] = value
	series.SetBit(s.row.Present, column)
}
