package federate

import (
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// writer writes the families of an answer in one format.
type writer interface {
	// family writes a family of which the answer says what head says. An error means that the reader has gone.
	family(f *store.Family, head *series.Family) error
	// end appends what stands behind the last family.
	end()
}

// newWriter returns the writer of a negotiated format.
func newWriter(a *answer, format expfmt.Format, settings *settings) writer {
	escaping := format.ToEscapingScheme()
	switch t := format.FormatType(); {
	case isProto(t):
		return &protoWriter{answer: a, extra: settings.extra, proto: expo.Proto{Escaping: escaping}, form: t, floats: settings.untyped}
	case t == expfmt.TypeOpenMetrics:
		return &openMetricsWriter{answer: a, extra: settings.extra, format: expo.OpenMetrics{Escaping: escaping}}
	}
	return &textWriter{answer: a, extra: settings.extra, format: expo.Text{Escaping: escaping}}
}

type textWriter struct {
	*answer
	extra  []labels.Label
	format expo.Text
}

func (w *textWriter) family(f *store.Family, head *series.Family) error {
	w.buf = w.format.AppendFamily(w.buf, head.Name, head.Type, head.Help)
	for s := range f.Series() {
		w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
		switch h, fh := s.Histogram(); {
		case fh != nil:
			w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, fh, s.T)
		case h != nil:
			w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, h.ToFloat(nil), s.T)
		default:
			name, suffix := split(s.Name(), head.Name)
			w.buf = w.format.AppendSample(w.buf, name, suffix, w.labels, s.V, s.T)
		}
		w.series++
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

func (w *textWriter) end() {}

// split cuts the name of a series into the family's and the rest.
func split(name, family string) (stem, suffix string) {
	if suffix, ok := strings.CutPrefix(name, family); ok {
		return family, suffix
	}
	return name, ""
}

// openMetricsWriter keeps the series of a metric together, with the time of its start behind them.
type openMetricsWriter struct {
	*answer
	extra  []labels.Label
	format expo.OpenMetrics
}

func (w *openMetricsWriter) family(f *store.Family, head *series.Family) error {
	w.buf = w.format.AppendFamily(w.buf, head)
	for chunk := range f.Chunks() {
		if isCompound(head.Type) {
			for _, p := range w.points.of(chunk, head.Name, head.Type, w.extra) {
				for _, s := range p.series {
					w.sample(head, s)
				}
				if start := p.start(); start != 0 {
					w.buf = w.format.AppendCreated(w.buf, head, p.labels, start)
				}
				if err := w.flush(); err != nil {
					return err
				}
			}
			continue
		}
		for i := range chunk {
			w.sample(head, &chunk[i])
			if start := chunk[i].Start; start != 0 {
				w.buf = w.format.AppendCreated(w.buf, head, w.labels, start)
			}
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sample appends one series, and leaves its labels in the answer.
func (w *openMetricsWriter) sample(head *series.Family, s *store.Series) {
	w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
	switch h, fh := s.Histogram(); {
	case fh != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, fh, s.T)
	case h != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, h.ToFloat(nil), s.T)
	default:
		name, suffix := split(s.Name(), head.Name)
		w.buf = w.format.AppendSample(w.buf, name, suffix, w.labels, s.V, s.T, s.Exemplar())
	}
	w.series++
}

func (w *openMetricsWriter) end() { w.buf = w.format.AppendEnd(w.buf) }

// untypedKind is the type that Prometheus gives to what it federates.
func untypedKind(k series.Kind) model.MetricType {
	switch k {
	case series.Histogram:
		return model.MetricTypeHistogram
	case series.GaugeHistogram:
		return model.MetricTypeGaugeHistogram
	}
	return model.MetricTypeUnknown
}

// appendAbsent appends those of extra that are not there. Both are sorted.
func appendAbsent(ls, extra []labels.Label) []labels.Label {
	own := ls
	for _, e := range extra {
		for len(own) > 0 && own[0].Name < e.Name {
			own = own[1:]
		}
		if len(own) == 0 || own[0].Name != e.Name {
			ls = append(ls, e)
		}
	}
	return ls
}
