package federate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// maxMessage bounds what is kept of a family until its length is known. A larger one goes out as several messages.
const maxMessage = 1 << 20

// protoWriter writes messages of whole families. What its type cannot express, which is half a histogram most of the
// time because a selector asked for its count only, stands beside the family as Prometheus would write it: untyped,
// under the name of the series.
type protoWriter struct {
	*answer
	extra  []labels.Label
	proto  expo.Proto
	form   expfmt.FormatType
	floats bool // all native histograms, as Prometheus does

	metric expo.Metric
	bins   []bin
}

// bin is a family on its way into a message.
type bin struct {
	head    series.Family
	metrics []byte
}

func (w *protoWriter) family(f *store.Family, head *series.Family) error {
	kind := series.Float
	for chunk := range f.Chunks() {
		for len(chunk) > 0 {
			if k := chunk[0].Kind(); k != kind {
				if err := w.flushBins(); err != nil {
					return err
				}
				kind = k
			}
			n := slices.IndexFunc(chunk, func(s store.Series) bool { return s.Kind() != kind })
			if n < 0 {
				n = len(chunk)
			}
			if err := w.add(chunk[:n], kind, head); err != nil {
				return err
			}
			chunk = chunk[n:]
		}
	}
	return w.flushBins()
}

func (w *protoWriter) end() {}

// add puts series of one kind into their bins.
func (w *protoWriter) add(chunk []store.Series, kind series.Kind, head *series.Family) error {
	w.series += len(chunk)
	if kind == series.Float && isCompound(head.Type) {
		for _, p := range w.points.of(chunk, head.Name, head.Type, w.extra) {
			if err := w.addPoint(&p, head); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range chunk {
		s := &chunk[i]
		of := *head
		switch {
		case kind != series.Float:
			of.Type = untypedKind(kind)
		case s.Name() != head.Name:
			of = series.Family{Name: s.Name(), Type: model.MetricTypeUnknown}
		}
		if err := w.addSeries(s, &of); err != nil {
			return err
		}
	}
	return nil
}

// addPoint adds the metric that a point is or, if it is not whole, each of its series.
func (w *protoWriter) addPoint(p *point, head *series.Family) error {
	if w.compound(p, head) {
		return w.write(head)
	}
	for _, s := range p.series {
		if err := w.addSeries(s, &series.Family{Name: s.Name(), Type: model.MetricTypeUnknown}); err != nil {
			return err
		}
	}
	return nil
}

// compound makes the metric that a point is. It is false if readers would make other series of it.
func (w *protoWriter) compound(p *point, head *series.Family) bool {
	m := &w.metric
	*m = expo.Metric{Labels: p.labels, T: p.series[0].T, Start: p.start(), Parts: m.Parts[:0]}
	counts, sums, infinite := 0, 0, false
	for _, s := range p.series {
		if s.T != m.T {
			return false
		}
		suffix, ok := strings.CutPrefix(s.Name(), head.Name)
		switch {
		case !ok:
			return false
		case suffix == "_count":
			m.Count = s.V
			counts++
		case suffix == "_sum":
			m.Sum = s.V
			sums++
		case suffix == "_bucket" && head.Type == model.MetricTypeHistogram, suffix == "" && head.Type == model.MetricTypeSummary:
			bound, ok := partBound(s, ownLabel(s.Name(), head.Name, head.Type))
			if !ok {
				return false
			}
			infinite = infinite || math.IsInf(bound, 1)
			m.Parts = append(m.Parts, expo.Part{Bound: bound, Value: s.V, Exemplar: s.Exemplar()})
		default:
			return false
		}
	}
	if counts != 1 || sums != 1 {
		return false
	}
	if head.Type == model.MetricTypeHistogram && !infinite {
		return false // readers would add it
	}
	if head.Type == model.MetricTypeSummary && !expo.IsCount(m.Count) {
		return false
	}
	slices.SortFunc(m.Parts, func(a, b expo.Part) int { return cmp.Compare(a.Bound, b.Bound) })
	for i := 1; i < len(m.Parts); i++ {
		if m.Parts[i].Bound == m.Parts[i-1].Bound {
			return false
		}
	}
	return true
}

// partBound returns the bound that a label has, if readers would write it the same.
func partBound(s *store.Series, label string) (float64, bool) {
	text := s.Label(label)
	bound, err := strconv.ParseFloat(text, 64)
	return bound, err == nil && !math.IsNaN(bound) && labels.FormatOpenMetricsFloat(bound) == text
}

// addSeries adds a metric of one series to a family.
func (w *protoWriter) addSeries(s *store.Series, of *series.Family) error {
	w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
	h, fh := s.Histogram()
	w.metric = expo.Metric{Labels: w.labels, T: s.T, Value: s.V, H: h, FH: fh, Parts: w.metric.Parts[:0]}
	switch {
	case !w.floats:
		w.metric.Exemplar, w.metric.Start = s.Exemplar(), s.Start
		mark(h, fh)
	case h != nil:
		w.metric.H, w.metric.FH = nil, h.ToFloat(nil)
	}
	return w.write(of)
}

// mark sees to it that readers can tell a native histogram that has seen nothing from a classic one, as
// instrumentation libraries do.
func mark(h *histogram.Histogram, fh *histogram.FloatHistogram) {
	switch {
	case h != nil && !h.UsesCustomBuckets() && h.ZeroThreshold == 0 && h.ZeroCount == 0 && len(h.PositiveSpans)+len(h.NegativeSpans) == 0:
		h.PositiveSpans = []histogram.Span{{}}
	case fh != nil && !fh.UsesCustomBuckets() && fh.ZeroThreshold == 0 && fh.ZeroCount == 0 && len(fh.PositiveSpans)+len(fh.NegativeSpans) == 0:
		fh.PositiveSpans = []histogram.Span{{}}
	}
}

// write adds w.metric to a family, and sends that when it has become large.
func (w *protoWriter) write(of *series.Family) error {
	i := slices.IndexFunc(w.bins, func(b bin) bool { return b.head.Name == of.Name && b.head.Type == of.Type })
	if i < 0 {
		i = len(w.bins)
		w.bins = slices.Grow(w.bins, 1)[:i+1]
		w.bins[i] = bin{head: *of, metrics: w.bins[i].metrics[:0]}
	}
	b := &w.bins[i]
	b.metrics = w.proto.AppendMetric(b.metrics, of.Type, &w.metric)
	if len(b.metrics) < maxMessage {
		return nil
	}
	return w.flushBin(b)
}

// flushBins sends all families.
func (w *protoWriter) flushBins() error {
	for i := range w.bins {
		if len(w.bins[i].metrics) == 0 {
			continue
		}
		if err := w.flushBin(&w.bins[i]); err != nil {
			return err
		}
	}
	w.bins = w.bins[:0]
	return nil
}

func (w *protoWriter) flushBin(b *bin) error {
	if w.form == expfmt.TypeProtoDelim {
		w.buf = w.proto.AppendDelimited(w.buf, &b.head, b.metrics)
	} else if err := w.appendReadable(b); err != nil {
		return err
	}
	b.metrics = b.metrics[:0]
	return w.flush()
}

// appendReadable appends a family in one of the forms for people.
func (w *protoWriter) appendReadable(b *bin) error {
	var family dto.MetricFamily
	if err := proto.Unmarshal(w.proto.AppendFamily(nil, &b.head, b.metrics), &family); err != nil {
		return fmt.Errorf("write family %q: %w", b.head.Name, err)
	}
	if w.form == expfmt.TypeProtoText {
		w.buf = fmt.Appendln(w.buf, prototext.Format(&family))
	} else {
		w.buf = fmt.Appendln(w.buf, family.String())
	}
	return nil
}
