package push

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// Content types of bodies. Whatever understands pushes understands the text format, but it has no native histograms.
const (
	textContent  = "text/plain; version=0.0.4; charset=utf-8"
	protoContent = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// clientBody makes the bodies of pushes: the families of a group, without timestamps and without the labels of the group,
// which the gateway adds. It keeps memory from one to the next, and is for one goroutine.
type clientBody struct {
	grouping []labels.Label // of the current group
	types    gatewayTypes
	families []bodyFamily
	byName   map[string]int // into families
	last     *bodyFamily    // that a series was added to
	native   bool           // there are native histograms
	dropped  int            // series that contradict what the gateway has
	example  string         // name of one of them

	series map[uint64]seriesKey // by hash
	base   []labels.Label
	labels []labels.Label // of all samples
	key    []byte

	points  []bodyPoint
	byKey   map[string]int // into points
	metrics []byte
	bytes   []byte
}

// bodyFamily is what stands under one TYPE line.
type bodyFamily struct {
	name    string
	typ     model.MetricType
	help    string
	samples []bodySample
}

// bodySample is one series of a family.
type bodySample struct {
	name   string
	labels []labels.Label // le or quantile at the end
	parted bool           // there is one of these
	value  float64
	native *series.HistogramAt
}

// seriesKey is what no two series of a body have both in common.
type seriesKey struct {
	name   string
	labels []labels.Label
}

// bodyPoint is what makes one metric: a native histogram, or the series of a classic one or of a summary.
type bodyPoint struct {
	labels       []labels.Label
	native       *series.HistogramAt
	count, sum   float64
	counts, sums int
	parts        []expo.Part
}

func newClientBody() *clientBody {
	return &clientBody{byName: map[string]int{}, byKey: map[string]int{}, series: map[uint64]seriesKey{}}
}

// make returns the body of a group and its content type, for a gateway with these types, among which are those of the body
// then. It is valid until the next call.
func (b *clientBody) make(g *outgoing, grouping []labels.Label, types gatewayTypes) (content []byte, contentType string) {
	b.reset(grouping)
	b.types, b.dropped = types, 0
	for _, m := range g.members {
		b.base = b.base[:0]
		m.source.Labels.Range(func(l labels.Label) { b.base = append(b.base, l) })
		for i := range m.schema.Columns() {
			if m.has(i) {
				b.add(m, i)
			}
		}
	}
	for i := range len(b.families) { // those that are added hold no parts
		if f := &b.families[i]; isComposite(f.typ) && (b.clashes(f) || !b.assemble(f)) {
			b.takeApart(i)
		}
	}
	for i := range b.families {
		if f := &b.families[i]; len(f.samples) > 0 && !types.admits(f.name, f.typ) {
			b.dropped, b.example = b.dropped+len(f.samples), f.name
			f.samples = nil
		}
	}
	if b.native {
		return b.proto(), protoContent
	}
	return b.text(), textContent
}

func (b *clientBody) reset(grouping []labels.Label) {
	for i := range b.families {
		clear(b.families[i].samples)
	}
	b.grouping, b.families, b.last, b.native = grouping, b.families[:0], nil, false
	clear(b.byName)
	clear(b.series)
	clear(b.labels)
	b.labels, b.bytes = b.labels[:0], b.bytes[:0]
}

// add adds a column of a member to its family.
func (b *clientBody) add(m *lastRow, column int) {
	c := m.schema.Column(column)
	name := legacyName(c.Labels.Get(model.MetricNameLabel))
	s := bodySample{name: name, value: m.values[column]}
	head, typ := name, plainType(c.Family.Type)
	part := ""
	switch suffix, own := strings.CutPrefix(name, legacyName(c.Family.Name)); {
	case c.Kind != series.Float:
		typ = model.MetricTypeHistogram
		at := m.histograms[uint32(column)]
		s.native = &at
	case isComposite(typ) && own && (suffix == "_sum" || suffix == "_count"):
		head = strings.TrimSuffix(name, suffix)
	case typ == model.MetricTypeHistogram && own && suffix == "_bucket":
		head, part = strings.TrimSuffix(name, suffix), model.BucketLabel
	case typ == model.MetricTypeSummary && own && suffix == "":
		part = model.QuantileLabel
	case isComposite(typ):
		typ = model.MetricTypeUnknown
	}
	if s.native == nil {
		head, typ, part = b.types.fit(name, head, typ, part)
	}
	s.labels, s.parted = b.seriesLabels(c.Labels, part)
	if b.there(&s) {
		return
	}
	f := b.family(head, typ, c.Family.Help)
	switch {
	case s.native != nil && f.typ != model.MetricTypeHistogram:
		return // its name is that of other series, which came first
	case isComposite(typ) && !isComposite(f.typ):
		f = b.family(name, b.types.plain(name), c.Family.Help)
	}
	b.native = b.native || s.native != nil
	f.samples = append(f.samples, s)
}

// plainType is the type of the text format that comes closest to a type.
func plainType(t model.MetricType) model.MetricType {
	switch t {
	case model.MetricTypeInfo, model.MetricTypeStateset:
		return model.MetricTypeGauge
	case "", model.MetricTypeGaugeHistogram:
		return model.MetricTypeUnknown
	}
	return t
}

// partSuffixes are those of the series that a histogram or summary consists of.
var partSuffixes = [...]string{"_bucket", "_sum", "_count"}

// isComposite reports whether metrics of a type consist of several series.
func isComposite(t model.MetricType) bool {
	return t == model.MetricTypeHistogram || t == model.MetricTypeSummary
}

// there reports whether a series is in the body already, which a gateway would refuse as a whole. Two sources may have the
// same, as two replicas of a Prometheus do, of which the first is the newer one; and names may have become the same.
func (b *clientBody) there(s *bodySample) bool {
	b.key = appendKey(append(append(b.key[:0], s.name...), 0xff), s.labels)
	hash := xxhash.Sum64(b.key)
	if other, ok := b.series[hash]; ok {
		return other.name == s.name && slices.Equal(other.labels, s.labels)
	}
	b.series[hash] = seriesKey{s.name, s.labels}
	return false
}

// appendKey appends labels so that no two lists give the same.
func appendKey(dst []byte, ls []labels.Label) []byte {
	for i := range ls {
		dst = append(append(dst, ls[i].Name...), 0xff) // never in valid UTF-8
		dst = append(append(dst, ls[i].Value...), 0xff)
	}
	return dst
}

// family returns the family of a name, a new one if there is none.
func (b *clientBody) family(name string, typ model.MetricType, help string) *bodyFamily {
	if b.last != nil && b.last.name == name {
		return b.last
	}
	i, ok := b.byName[name]
	if !ok {
		i = len(b.families)
		b.byName[name] = i
		b.families = slices.Grow(b.families, 1)[:i+1]
		b.families[i] = bodyFamily{name: name, typ: typ, help: help, samples: b.families[i].samples[:0]}
	}
	b.last = &b.families[i]
	return b.last
}

// seriesLabels returns the labels of a series as they go into the body: those of its source below its own, without the
// name, without the labels of the group, and with part at the end. A label that the group has with another value is kept
// as a scrape without honor_labels keeps it: exported_job and so on.
func (b *clientBody) seriesLabels(own labels.Labels, part string) (ls []labels.Label, parted bool) {
	first := len(b.labels)
	base := b.base
	own.Range(func(l labels.Label) {
		for len(base) > 0 && base[0].Name < l.Name {
			b.addLabel(base[0])
			base = base[1:]
		}
		if len(base) > 0 && base[0].Name == l.Name {
			base = base[1:]
		}
		b.addLabel(l)
	})
	for _, l := range base {
		b.addLabel(l)
	}
	ls = b.labels[first:]
	for i := range ls {
		if b.groupingValue(ls[i].Name) != "" {
			ls[i].Name = exportedName(ls, ls[i].Name)
		}
	}
	if i := slices.IndexFunc(ls, func(l labels.Label) bool { return l.Name == part }); i >= 0 && part != "" {
		l := ls[i]
		copy(ls[i:], ls[i+1:])
		ls[len(ls)-1], parted = l, true
	}
	return slices.Clip(ls), parted
}

// addLabel adds a label unless the body does not have it, or the gateway adds it.
func (b *clientBody) addLabel(l labels.Label) {
	if l.Value == "" || l.Name == model.MetricNameLabel || b.groupingValue(l.Name) == l.Value {
		return
	}
	b.labels = append(b.labels, labels.Label{Name: legacyLabel(l.Name), Value: l.Value})
}

// groupingValue returns the value of a label that the group has, "" if it has none.
func (b *clientBody) groupingValue(name string) string {
	for i := range b.grouping {
		if b.grouping[i].Name == name {
			return b.grouping[i].Value
		}
	}
	return ""
}

// exportedName is the name that Prometheus gives to a label whose own one is taken.
func exportedName(ls []labels.Label, name string) string {
	for {
		name = model.ExportedLabelPrefix + name
		if !slices.ContainsFunc(ls, func(l labels.Label) bool { return l.Name == name }) {
			return name
		}
	}
}

// legacyName makes a name one that every gateway takes: those of before UTF-8 was allowed would hand it on as it is, and
// nobody could read any of their metrics.
func legacyName(name string) string {
	if name == "" || model.LegacyValidation.IsValidMetricName(name) {
		return name
	}
	return model.EscapeName(name, model.UnderscoreEscaping)
}

// legacyLabel does the same for the name of a label, in which a colon is not allowed either.
func legacyLabel(name string) string {
	if model.LegacyValidation.IsValidLabelName(name) {
		return name
	}
	return strings.ReplaceAll(legacyName(name), ":", "_")
}

// clashes reports whether single series have a name that belongs to a family of histograms or summaries, here or at the
// gateway.
func (b *clientBody) clashes(f *bodyFamily) bool {
	for _, suffix := range partSuffixes {
		if suffix == "_bucket" && f.typ == model.MetricTypeSummary {
			continue
		}
		_, here := b.byName[f.name+suffix]
		if _, there := b.types[f.name+suffix]; here || there {
			return true
		}
	}
	return false
}

// assemble makes points of a family of histograms or summaries. It is false if the gateway would make other series of
// one of them: it adds what is missing.
func (b *clientBody) assemble(f *bodyFamily) bool {
	b.points = b.points[:0]
	clear(b.byKey)
	for i := range f.samples {
		if !b.assembleSample(f, &f.samples[i]) {
			return false
		}
	}
	return !slices.ContainsFunc(b.points, func(p bodyPoint) bool { return !p.whole(f.typ) })
}

func (b *clientBody) assembleSample(f *bodyFamily, s *bodySample) bool {
	ls := s.labels
	if s.parted {
		ls = ls[:len(ls)-1]
	}
	p := b.pointOf(ls)
	switch {
	case s.native != nil:
		p.native = s.native
	case s.parted:
		bound, err := strconv.ParseFloat(s.labels[len(ls)].Value, 64)
		if err != nil || math.IsNaN(bound) {
			return false
		}
		p.parts = append(p.parts, expo.Part{Bound: bound, Value: s.value})
	case s.name == f.name+"_count":
		p.count, p.counts = s.value, p.counts+1
	case s.name == f.name+"_sum":
		p.sum, p.sums = s.value, p.sums+1
	default:
		return false
	}
	return true
}

// pointOf returns the point with these labels, a new one if there is none. Mostly it is the last one.
func (b *clientBody) pointOf(ls []labels.Label) *bodyPoint {
	if n := len(b.points); n > 0 && slices.Equal(b.points[n-1].labels, ls) {
		return &b.points[n-1]
	}
	b.key = appendKey(b.key[:0], ls)
	i, ok := b.byKey[string(b.key)]
	if !ok {
		i = len(b.points)
		b.byKey[string(b.key)] = i
		b.points = slices.Grow(b.points, 1)[:i+1]
		b.points[i] = bodyPoint{labels: ls, parts: b.points[i].parts[:0]}
	}
	return &b.points[i]
}

// whole reports whether the metric has all that makes one, and nothing twice.
func (p *bodyPoint) whole(typ model.MetricType) bool {
	if p.native != nil {
		return true
	}
	if p.counts != 1 || p.sums != 1 || !expo.IsCount(p.count) {
		return false
	}
	slices.SortFunc(p.parts, func(a, b expo.Part) int { return cmp.Compare(a.Bound, b.Bound) })
	for i := 1; i < len(p.parts); i++ {
		if p.parts[i].Bound == p.parts[i-1].Bound {
			return false
		}
	}
	if typ == model.MetricTypeSummary {
		return true
	}
	return len(p.parts) > 0 && math.IsInf(p.parts[len(p.parts)-1].Bound, 1) &&
		!slices.ContainsFunc(p.parts, func(part expo.Part) bool { return !expo.IsCount(part.Value) })
}

// takeApart makes families of the series of a family that is no whole histogram or summary, untyped and under their own
// names. Beside native histograms nothing else can have the name of the family.
func (b *clientBody) takeApart(i int) {
	samples := b.families[i].samples
	b.families[i].samples = nil
	native := slices.ContainsFunc(samples, func(s bodySample) bool { return s.native != nil })
	if !native {
		b.families[i].typ = b.types.plain(b.families[i].name) // of the series under the name of the family
	}
	for _, s := range samples {
		if native && s.native == nil && s.name == b.families[i].name {
			continue
		}
		f := b.family(s.name, b.types.plain(s.name), b.families[i].help)
		f.samples = append(f.samples, s)
	}
}

// text renders the families in the text format.
func (b *clientBody) text() []byte {
	var format expo.Text
	for i := range b.families {
		f := &b.families[i]
		if len(f.samples) == 0 {
			continue
		}
		b.bytes = format.AppendFamily(b.bytes, f.name, f.typ, f.help)
		for j := range f.samples {
			s := &f.samples[j]
			b.bytes = append(format.AppendSeries(b.bytes, s.name, "", s.labels), ' ')
			b.bytes = append(expo.AppendFloat(b.bytes, s.value), '\n')
		}
	}
	return b.bytes
}

// proto renders the families as protobuf messages.
func (b *clientBody) proto() []byte {
	format := expo.Proto{Untimed: true}
	for i := range b.families {
		f := &b.families[i]
		if len(f.samples) == 0 {
			continue
		}
		b.metrics = b.metrics[:0]
		if isComposite(f.typ) {
			b.assemble(f) // it is whole
			for j := range b.points {
				b.metrics = format.AppendMetric(b.metrics, f.typ, b.points[j].metric())
			}
		} else {
			for j := range f.samples {
				s := &f.samples[j]
				b.metrics = format.AppendMetric(b.metrics, f.typ, &expo.Metric{Labels: s.labels, Value: s.value})
			}
		}
		b.bytes = format.AppendDelimited(b.bytes, &series.Family{Name: f.name, Type: f.typ, Help: f.help}, b.metrics)
	}
	return b.bytes
}

// metric returns the point as what is written. Where there are a native and a classic histogram it is the native one.
func (p *bodyPoint) metric() *expo.Metric {
	m := &expo.Metric{Labels: p.labels, Count: p.count, Sum: p.sum, Parts: p.parts}
	if p.native != nil {
		m.H, m.FH = p.native.H, p.native.FH
		mark(m.H, m.FH)
	}
	return m
}

// mark sees to it that readers can tell a native histogram that has seen nothing from a classic one, as instrumentation
// libraries do.
func mark(h *histogram.Histogram, fh *histogram.FloatHistogram) {
	switch {
	case h != nil && !h.UsesCustomBuckets() && h.ZeroThreshold == 0 && h.ZeroCount == 0 && len(h.PositiveSpans)+len(h.NegativeSpans) == 0:
		h.PositiveSpans = []histogram.Span{{}}
	case fh != nil && !fh.UsesCustomBuckets() && fh.ZeroThreshold == 0 && fh.ZeroCount == 0 && len(fh.PositiveSpans)+len(fh.NegativeSpans) == 0:
		fh.PositiveSpans = []histogram.Span{{}}
	}
}
