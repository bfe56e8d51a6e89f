package remotewrite

import (
	"math"
	"math/bits"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// takeHistogram takes a native histogram. It counts it as written.
func (p *plan) takeHistogram(h *writeproto.Histogram, m *intakeSeries, written *int) {
	kind, sum := kindOfHistogram(h), sumOf(h)
	if value.IsStaleNaN(sum) {
		if m.kind == series.Float {
			p.takeSample(&writeproto.Sample{T: h.T, V: sum}, m, written)
			return
		}
		kind = m.kind
		h = &writeproto.Histogram{T: h.T, H: &histogram.Histogram{Sum: sum}}
		if kind == series.GaugeHistogram {
			h.H.CounterResetHint = histogram.GaugeType
		}
	} else if err := checkHistogram(h); err != nil {
		p.refuseHistogram(err, func() string { return p.show(m) })
		return
	}
	if !p.admit(h.T, hashHistogram(h), m, kind, written) {
		return
	}
	p.stamp(m, h.T, 0)
	x := p.extraOf(m)
	x.histogram = series.HistogramAt{H: h.H, FH: h.FH}
	if h.Start > 0 && h.Start <= h.T {
		x.start = h.Start
	}
}

// checkHistogram reports what is wrong with a histogram. One that is finer than anybody stores becomes coarser.
func checkHistogram(h *writeproto.Histogram) error {
	if value.IsStaleNaN(sumOf(h)) {
		return nil
	}
	if h.H != nil {
		if s := h.H.Schema; s > histogram.ExponentialSchemaMax && histogram.IsExponentialSchemaReserved(s) {
			if err := h.H.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
				return err
			}
		}
		return h.H.Validate()
	}
	if s := h.FH.Schema; s > histogram.ExponentialSchemaMax && histogram.IsExponentialSchemaReserved(s) {
		if err := h.FH.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
			return err
		}
	}
	return h.FH.Validate()
}

func sumOf(h *writeproto.Histogram) float64 {
	if h.H != nil {
		return h.H.Sum
	}
	return h.FH.Sum
}

// hashHistogram tells histograms apart.
func hashHistogram(h *writeproto.Histogram) uint64 {
	x := uint64(1)
	add := func(v uint64) { x = bits.RotateLeft64(x*0x9e3779b97f4a7c15, 31) ^ v }
	spans := func(list []histogram.Span) {
		add(uint64(len(list)))
		for _, s := range list {
			add(uint64(uint32(s.Offset))<<32 | uint64(s.Length))
		}
	}
	floats := func(list []float64) {
		add(uint64(len(list)))
		for _, v := range list {
			add(math.Float64bits(v))
		}
	}
	if i := h.H; i != nil {
		add(uint64(i.CounterResetHint))
		add(uint64(uint32(i.Schema)))
		add(i.Count)
		add(i.ZeroCount)
		floats([]float64{i.Sum, i.ZeroThreshold})
		spans(i.PositiveSpans)
		spans(i.NegativeSpans)
		for _, list := range [...][]int64{i.PositiveBuckets, i.NegativeBuckets} {
			for _, v := range list {
				add(uint64(v))
			}
		}
		floats(i.CustomValues)
		return x
	}
	f := h.FH
	add(uint64(f.CounterResetHint) + 8)
	add(uint64(uint32(f.Schema)))
	floats([]float64{f.Count, f.ZeroCount, f.Sum, f.ZeroThreshold})
	spans(f.PositiveSpans)
	spans(f.NegativeSpans)
	floats(f.PositiveBuckets)
	floats(f.NegativeBuckets)
	floats(f.CustomValues)
	return x
}

// takeExemplars gives exemplars to the newest sample of their series in the request, or else to the next one there will
// be: Prometheus sends them apart, behind their sample.
func (p *plan) takeExemplars(list []writeproto.Exemplar, m *intakeSeries) {
	var taken []exemplar.Exemplar
	for i := range list {
		if e, ok := p.exemplar(&list[i], m); ok {
			taken = append(taken, e)
		}
	}
	if len(taken) == 0 {
		return
	}
	if m.flight == p.flight {
		x := p.extraOf(m)
		x.exemplars = append(x.exemplars, taken...)
		p.written.exemplars += len(taken)
	} else {
		p.written.exemplars += m.source.hold(m, taken)
	}
}

// exemplar returns an exemplar, unless it is refused. As in Prometheus only some reasons are worth an error.
func (p *plan) exemplar(e *writeproto.Exemplar, m *intakeSeries) (out exemplar.Exemplar, ok bool) {
	list, err := p.batch.AppendExemplarLabels(p.labels[:0], e)
	p.labels = list
	if err != nil { // that it is no request was found out before
		p.refused.add(badExemplar, 0, func() string { return "parsing exemplar for series " + p.show(m) + ": " + err.Error() })
		return out, false
	}
	b := labels.NewScratchBuilder(len(list))
	size := 0
	for _, l := range list {
		size += utf8.RuneCount(l.Name) + utf8.RuneCount(l.Value)
		b.Add(string(l.Name), string(l.Value))
	}
	b.Sort()
	out = exemplar.Exemplar{Labels: b.Labels(), Value: e.V, Ts: e.T, HasTs: e.T != 0}
	_, twice := out.Labels.HasDuplicateLabelNames()
	if size > exemplar.ExemplarMaxLabelSetLength || twice || !out.Labels.IsValid(model.UTF8Validation) || p.ahead(e.T) {
		p.refused.addQuietly(badExemplar, 0, func() string { return "exemplar " + out.Labels.String() + " of series " + p.show(m) })
		return out, false
	}
	return out, true
}
