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
		format := expo.OpenMetrics{Escaping: escaping}
		a.lines.reset(expo.Text(format), format.AppendTime, settings.extra)
		return &openMetricsWriter{answer: a, extra: settings.extra, format: format}
	default:
		format := expo.Text{Escaping: escaping}
		a.lines.reset(format, format.AppendTime, settings.extra)
		return &textWriter{answer: a, extra: settings.extra, format: format}
	}
}

type textWriter struct {
	*answer
	extra  []labels.Label
	format expo.Text
}

func (w *textWriter) family(f *store.Family, head *series.Family) error {
	w.buf = w.format.AppendFamily(w.buf, head.Name, head.Type, head.Help)
	w.lines.nextFamily()
	for chunk := range f.Chunks() {
		for i := range chunk {
			w.sample(head, &chunk[i])
			if err := w.flush(); err != nil {
				return err
			}
		}
		w.series += len(chunk)
	}
	return nil
}

// sample appends one series.
func (w *textWriter) sample(head *series.Family, s *store.Series) {
	h, fh := s.Histogram()
	if h == nil && fh == nil && s.HasHalves() {
		line, time := w.lines.append(w.buf, head.Name, s)
		w.buf = w.format.AppendSampleEnd(line, s.V, time)
		return
	}
	w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
	switch {
	case fh != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, fh, s.T)
	case h != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, h.ToFloat(nil), s.T)
	default:
		name, suffix := split(s.Name(), head.Name)
		w.buf = w.format.AppendSample(w.buf, name, suffix, w.labels, s.V, s.T)
	}
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
	w.lines.nextFamily()
	compound := isCompound(head.Type)
	for chunk := range f.Chunks() {
		w.series += len(chunk)
		if compound {
			if err := w.compound(chunk, head); err != nil {
				return err
			}
			continue
		}
		for i := range chunk {
			s := &chunk[i]
			w.sample(head, s)
			if s.Start != 0 {
				w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
				w.buf = w.format.AppendCreated(w.buf, head, w.labels, s.Start)
			}
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// compound appends series of which several make one metric.
func (w *openMetricsWriter) compound(chunk []store.Series, head *series.Family) error {
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
	return nil
}

// sample appends one series.
func (w *openMetricsWriter) sample(head *series.Family, s *store.Series) {
	h, fh := s.Histogram()
	if h == nil && fh == nil && s.HasHalves() {
		line, time := w.lines.append(w.buf, head.Name, s)
		name, suffix := split(s.Name(), head.Name)
		w.buf = w.format.AppendSampleEnd(line, name, suffix, s.V, time, s.Exemplar())
		return
	}
	w.labels = appendAbsent(s.AppendLabels(w.labels[:0]), w.extra)
	switch {
	case fh != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, fh, s.T)
	case h != nil:
		w.buf = w.format.AppendHistogram(w.buf, s.Name(), w.labels, h.ToFloat(nil), s.T)
	default:
		name, suffix := split(s.Name(), head.Name)
		w.buf = w.format.AppendSample(w.buf, name, suffix, w.labels, s.V, s.T, s.Exemplar())
	}
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
