package push

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/proto"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// Families that every group has, with the time of its last push and of its last failure in seconds; 0 is never.
const (
	pushName    = "push_time_seconds"
	pushHelp    = "Last Unix time when changing this group in the Pushgateway succeeded."
	failureName = "push_failure_time_seconds"
	failureHelp = "Last Unix time when changing this group in the Pushgateway failed."
)

var errTimestamp = errors.New("pushed metrics must not have timestamps")

// push is what a client wants of a group.
type push struct {
	families []*dto.MetricFamily // of different names; belong to the push
	replace  bool                // all that is in the group, not only families of these names
	at       time.Time
	ttl      *time.Duration // nil: the one for all
}

// pushed returns the state of a group after a push. before is nil if there was nothing in it.
func (by grouping) pushed(before *state, p *push) (*state, error) {
	next := make(map[string]family, len(p.families)+2)
	if before != nil {
		for _, f := range before.families {
			if !p.replace || f.name == failureName {
				next[f.name] = f
			}
		}
	} else {
		next[failureName] = by.gauge(failureName, failureHelp, time.Time{}, p.at)
	}
	for _, m := range p.families {
		name := m.GetName()
		if name == pushName || name == failureName && before == nil {
			if hasTimestamp(m) {
				return nil, errTimestamp
			}
			continue // what the gateway says of itself
		}
		f, err := by.family(m, p.at)
		if err != nil {
			return nil, err
		}
		next[name] = f
	}
	next[pushName] = by.gauge(pushName, pushHelp, p.at, p.at)
	s := by.state(next)
	s.pushed, s.ttl = p.at, p.ttl
	return s, nil
}

// failed returns the state of a group after a push that was refused.
func (by grouping) failed(before *state, at time.Time) *state {
	next := map[string]family{}
	s := &state{pushed: at}
	if before == nil {
		next[pushName] = by.gauge(pushName, pushHelp, time.Time{}, at)
	} else {
		for _, f := range before.families {
			next[f.name] = f
		}
		s.pushed, s.ttl = before.pushed, before.ttl
	}
	next[failureName] = by.gauge(failureName, failureHelp, at, at)
	failed := by.state(next)
	failed.pushed, failed.ttl = s.pushed, s.ttl
	return failed
}

// state makes one of families.
func (by grouping) state(families map[string]family) *state {
	s := &state{families: make([]family, 0, len(families)), bytes: 2 * by.size()}
	for _, f := range families {
		s.families = append(s.families, f)
		s.series += len(f.hashes)
		s.bytes += len(f.data) + 8*len(f.hashes)
	}
	slices.SortFunc(s.families, func(a, b family) int { return cmp.Compare(a.name, b.name) })
	return s
}

// gauge makes one of the families that say when something happened.
func (by grouping) gauge(name, help string, t, at time.Time) family {
	seconds := 0.0
	if !t.IsZero() {
		seconds = float64(t.UnixNano()) / 1e9
	}
	f, err := by.family(&dto.MetricFamily{
		Name: &name, Help: &help, Type: dto.MetricType_GAUGE.Enum(),
		Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &seconds}}},
	}, at)
	if err != nil {
		panic("push: BUG: " + err.Error()) // nothing of it comes from outside
	}
	return f
}

// family checks a family that was pushed, gives its metrics the labels of the group, and makes of it what is kept.
func (by grouping) family(m *dto.MetricFamily, at time.Time) (family, error) {
	f := family{name: m.GetName(), typ: m.GetType(), at: at}
	if !model.LegacyValidation.IsValidMetricName(f.name) {
		return f, fmt.Errorf("metric family has no valid name: %q", f.name)
	}
	if hasTimestamp(m) {
		return f, errTimestamp
	}
	if !strings.HasSuffix(f.name, "_"+m.GetUnit()) {
		m.Unit = nil // readers refuse one that is not in the name
	}
	for _, metric := range m.Metric {
		if err := by.check(m, metric); err != nil {
			return f, fmt.Errorf("metric of family %q: %w", f.name, err)
		}
	}
	if err := f.describe(m); err != nil {
		return f, err
	}
	var err error
	if f.data, err = proto.Marshal(m); err != nil {
		return f, fmt.Errorf("encode metric family %q: %w", f.name, err)
	}
	return f, nil
}

// describe sets what follows from the message of a family, whose metrics have their labels.
func (f *family) describe(m *dto.MetricFamily) error {
	f.name, f.typ = m.GetName(), m.GetType()
	f.hashes = make([]uint64, len(m.Metric))
	for i, metric := range m.Metric {
		f.hashes[i] = hashMetric(f.name, metric)
	}
	if hasTwice(f.hashes) {
		return fmt.Errorf("metric family %q has two metrics with the same label values", f.name)
	}
	return nil
}

func hasTwice(hashes []uint64) bool {
	if len(hashes) <= 16 { // looking at all is faster than remembering some
		for i, h := range hashes {
			if slices.Contains(hashes[:i], h) {
				return true
			}
		}
		return false
	}
	seen := make(map[uint64]struct{}, len(hashes))
	for _, h := range hashes {
		seen[h] = struct{}{}
	}
	return len(seen) < len(hashes)
}

func hasTimestamp(m *dto.MetricFamily) bool {
	return slices.ContainsFunc(m.Metric, func(m *dto.Metric) bool { return m.TimestampMs != nil })
}

// check gives a metric the labels of the group, sorted, and says what is wrong with it.
func (by grouping) check(f *dto.MetricFamily, m *dto.Metric) error {
	if !hasValue(f.GetType(), m) {
		return fmt.Errorf("it is not a %s", f.GetType())
	}
	by.label(m)
	for i, l := range m.Label {
		name := l.GetName()
		switch {
		case i > 0 && name == m.Label[i-1].GetName():
			return fmt.Errorf("label %q is there twice", name)
		case !model.LegacyValidation.IsValidLabelName(name) || strings.HasPrefix(name, model.ReservedLabelPrefix):
			return fmt.Errorf("improper label name %q", name)
		case m.Summary != nil && name == model.QuantileLabel, m.Histogram != nil && name == model.BucketLabel:
			return fmt.Errorf("label %q is not for clients to set", name)
		case !utf8.ValidString(l.GetValue()):
			return fmt.Errorf("label %s=%q is not UTF-8", name, l.GetValue())
		}
	}
	return nil
}

// hasValue reports whether a metric has the value of its type and no other one.
func hasValue(t dto.MetricType, m *dto.Metric) bool {
	values := 0
	for _, there := range [...]bool{m.Counter != nil, m.Gauge != nil, m.Summary != nil, m.Untyped != nil, m.Histogram != nil} {
		if there {
			values++
		}
	}
	has := false
	switch t {
	case dto.MetricType_COUNTER:
		has = m.Counter != nil
	case dto.MetricType_GAUGE:
		has = m.Gauge != nil
	case dto.MetricType_SUMMARY:
		has = m.Summary != nil
	case dto.MetricType_UNTYPED:
		has = m.Untyped != nil
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		has = m.Histogram != nil
	}
	return has && values == 1
}

// label sets the labels of the group in a metric, no matter what they were, and an empty instance if it has none.
func (by grouping) label(m *dto.Metric) {
	set := func(l labels.Label, force bool) {
		found := false
		for _, p := range m.Label {
			if p.GetName() == l.Name {
				if found = true; force {
					p.Value = proto.String(l.Value)
				}
			}
		}
		if !found {
			m.Label = append(m.Label, &dto.LabelPair{Name: proto.String(l.Name), Value: proto.String(l.Value)})
		}
	}
	for _, l := range by {
		set(l, true)
	}
	set(labels.Label{Name: model.InstanceLabel}, false)
	slices.SortStableFunc(m.Label, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
}

// hashMetric hashes the name and the sorted labels of a metric.
func hashMetric(name string, m *dto.Metric) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(name)
	for _, l := range m.Label {
		_, _ = d.WriteString("\xff")
		_, _ = d.WriteString(l.GetName())
		_, _ = d.WriteString("\xff")
		_, _ = d.WriteString(l.GetValue())
	}
	return d.Sum64()
}

// delimited is the format in which families go to the parser of rows.
var delimited = string(expfmt.NewFormat(expfmt.TypeProtoDelim))

// makeRow makes the row of a state, if that was not done before. It has no source; its time is that of the push.
func (s *state) makeRow(catalog *series.Catalog, by grouping) error {
	if s.row != nil {
		return nil
	}
	var body []byte
	for i := range s.families {
		body = binary.AppendUvarint(body, uint64(len(s.families[i].data)))
		body = append(body, s.families[i].data...)
	}
	base := by.source()
	parser := expo.NewParser(expo.Options{
		Catalog: catalog, Source: &series.Source{Labels: base}, IgnoreTimestamps: true, NativeHistograms: true, KeepClassic: true,
		Map: func(exposed labels.Labels) (labels.Labels, bool, error) {
			return series.Relative(exposed, base), true, nil
		},
	})
	result, err := parser.Parse(body, delimited, s.pushed.UnixMilli())
	if err != nil {
		return err
	}
	row := *result.Whole
	row.Source, row.Present = nil, slices.Clone(row.Present)
	row.Values = slices.Clone(row.Values)
	row.Histograms, row.Exemplars, row.Starts = slices.Clone(row.Histograms), slices.Clone(row.Exemplars), slices.Clone(row.Starts)
	s.row = &row
	return nil
}
