package writeproto_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/thalweg/thalweg/internal/writeproto"
)

var seed = maphash.MakeSeed()

// showLabels renders labels in the order of the body.
func showLabels(list []writeproto.Label) string {
	text := ""
	for _, l := range list {
		text += fmt.Sprintf("%q=%q,", l.Name, l.Value)
	}
	return text
}

// showBatch renders all of a batch, or says what is wrong with it as a whole.
func showBatch(t *testing.T, m writeproto.Message, body []byte) ([]string, error) {
	t.Helper()
	b := writeproto.NewBatch(seed)
	if err := b.Decode(m, body); err != nil {
		return nil, err
	}
	if got := b.Message(); got != m {
		t.Errorf("the message is %d", got)
	}
	var lines []string
	for i := range b.Series {
		s := &b.Series[i]
		list, err := b.AppendLabels(nil, s)
		line := showLabels(list)
		if err != nil {
			if !writeproto.IsRefError(err) {
				return nil, err
			}
			line = "bad labels"
		} else if key := writeproto.AppendKey(nil, list); m == writeproto.V2 && !b.HasKey(s, string(key)) {
			t.Errorf("series %s has not the key of its labels", line)
		}
		if m == writeproto.V2 {
			help, err := b.Help(s)
			unit, unitErr := b.Unit(s)
			if err = errors.Join(err, unitErr); err != nil {
				line += " bad metadata"
			} else {
				line += fmt.Sprintf(" %s %q %q", b.Type(s), help, unit)
			}
		}
		for _, x := range b.Samples(s) {
			line += fmt.Sprintf(" %016x@%d from %d", math.Float64bits(x.V), x.T, x.Start)
		}
		for _, x := range b.Histograms(s) {
			line += fmt.Sprintf(" %s@%d from %d", showHistogram(x.H, x.FH), x.T, x.Start)
		}
		exemplars := b.Exemplars(s)
		for i := range exemplars {
			x := &exemplars[i]
			list, err := b.AppendExemplarLabels(nil, x)
			if err != nil && !writeproto.IsRefError(err) {
				t.Errorf("labels of an exemplar: %v", err)
			}
			if err != nil {
				list = nil
			}
			line += fmt.Sprintf(" # %s %t %016x@%d", showLabels(list), err == nil, math.Float64bits(x.V), x.T)
		}
		lines = append(lines, line)
	}
	for _, x := range b.Metadata {
		lines = append(lines, fmt.Sprintf("metadata %s %q %q %q", x.Type, x.Family, x.Help, x.Unit))
	}
	return lines, nil
}

func showHistogram(h *histogram.Histogram, fh *histogram.FloatHistogram) string {
	bits := func(list ...float64) (all []uint64) {
		for _, v := range list {
			all = append(all, math.Float64bits(v))
		}
		return all
	}
	if h != nil {
		return fmt.Sprintf("int %d %d %d %d %x %v %v %v %v %x", h.CounterResetHint, h.Schema, h.Count, h.ZeroCount, bits(h.Sum, h.ZeroThreshold),
			h.PositiveSpans, h.NegativeSpans, h.PositiveBuckets, h.NegativeBuckets, bits(h.CustomValues...))
	}
	return fmt.Sprintf("float %d %d %x %v %v %x %x %x", fh.CounterResetHint, fh.Schema, bits(fh.Count, fh.ZeroCount, fh.Sum, fh.ZeroThreshold),
		fh.PositiveSpans, fh.NegativeSpans, bits(fh.PositiveBuckets...), bits(fh.NegativeBuckets...), bits(fh.CustomValues...))
}

// knownHint is what a hint is worth to whoever does not know it.
func knownHint[T ~int32](hint T) T {
	if hint < 0 || hint > T(histogram.GaugeType) {
		return 0
	}
	return hint
}

// oracleV1 renders what Prometheus makes of a body.
func oracleV1(body []byte) ([]string, error) {
	var r prompb.WriteRequest
	if err := r.Unmarshal(body); err != nil {
		return nil, err
	}
	show := func(list []prompb.Label) string {
		text := ""
		for _, l := range list {
			text += fmt.Sprintf("%q=%q,", l.Name, l.Value)
		}
		return text
	}
	var lines []string
	for _, s := range r.Timeseries {
		line := show(s.Labels)
		for _, x := range s.Samples {
			line += fmt.Sprintf(" %016x@%d from 0", math.Float64bits(x.Value), x.Timestamp)
		}
		for _, x := range s.Histograms {
			x.ResetHint = knownHint(x.ResetHint)
			if x.IsFloatHistogram() {
				line += fmt.Sprintf(" %s@%d from 0", showHistogram(nil, x.ToFloatHistogram()), x.Timestamp)
			} else {
				line += fmt.Sprintf(" %s@%d from 0", showHistogram(x.ToIntHistogram(), nil), x.Timestamp)
			}
		}
		for _, x := range s.Exemplars {
			line += fmt.Sprintf(" # %s true %016x@%d", show(x.Labels), math.Float64bits(x.Value), x.Timestamp)
		}
		lines = append(lines, line)
	}
	for _, m := range r.Metadata {
		typ := model.MetricTypeUnknown
		if i := int(m.Type); i > 0 && i < len(types) {
			typ = types[i]
		}
		lines = append(lines, fmt.Sprintf("metadata %s %q %q %q", typ, m.MetricFamilyName, m.Help, m.Unit))
	}
	return lines, nil
}

var types = []model.MetricType{"unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"}

// oracleV2 does so for 2.0.
func oracleV2(body []byte) ([]string, error) {
	var r writev2.Request
	if err := r.Unmarshal(body); err != nil {
		return nil, err
	}
	show := func(refs []uint32) (string, bool) {
		text := ""
		for i := 0; i < len(refs); i += 2 {
			if i+1 == len(refs) || int(refs[i]) >= len(r.Symbols) || int(refs[i+1]) >= len(r.Symbols) {
				return "", false
			}
			text += fmt.Sprintf("%q=%q,", r.Symbols[refs[i]], r.Symbols[refs[i+1]])
		}
		return text, true
	}
	symbol := func(ref uint32) (string, bool) {
		if int(ref) >= len(r.Symbols) {
			return "", ref == 0
		}
		return r.Symbols[ref], true
	}
	var lines []string
	for _, s := range r.Timeseries {
		if !setCreated(&s) {
			return nil, errOdd
		}
		line, ok := show(s.LabelsRefs)
		if !ok {
			line = "bad labels"
		}
		help, ok := symbol(s.Metadata.HelpRef)
		unit, unitOK := symbol(s.Metadata.UnitRef)
		if ok && unitOK {
			typ := model.MetricTypeUnknown
			if i := int(s.Metadata.Type); i > 0 && i < len(types) {
				typ = types[i]
			}
			line += fmt.Sprintf(" %s %q %q", typ, help, unit)
		} else {
			line += " bad metadata"
		}
		for _, x := range s.Samples {
			line += fmt.Sprintf(" %016x@%d from %d", math.Float64bits(x.Value), x.Timestamp, x.StartTimestamp)
		}
		for _, x := range s.Histograms {
			x.ResetHint = knownHint(x.ResetHint)
			if x.IsFloatHistogram() {
				line += fmt.Sprintf(" %s@%d from %d", showHistogram(nil, x.ToFloatHistogram()), x.Timestamp, x.StartTimestamp)
			} else {
				line += fmt.Sprintf(" %s@%d from %d", showHistogram(x.ToIntHistogram(), nil), x.Timestamp, x.StartTimestamp)
			}
		}
		for _, x := range s.Exemplars {
			text, ok := show(x.LabelsRefs)
			line += fmt.Sprintf(" # %s %t %016x@%d", text, ok, math.Float64bits(x.Value), x.Timestamp)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// errOdd is about a body with unknown fields that Prometheus skips, and which protowire does not understand.
var errOdd = errors.New("an odd body")

// setCreated gives samples the start that stands in the field of the drafts, which Prometheus does not know any more.
func setCreated(s *writev2.TimeSeries) bool {
	created := uint64(0)
	for b := s.XXX_unrecognized; len(b) > 0; {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		if number == 6 && typ == protowire.VarintType {
			created, _ = protowire.ConsumeVarint(b[n:])
		}
		value := protowire.ConsumeFieldValue(number, typ, b[n:])
		if value < 0 {
			return false
		}
		b = b[n+value:]
	}
	for i := range s.Samples {
		if s.Samples[i].StartTimestamp == 0 {
			s.Samples[i].StartTimestamp = int64(created)
		}
	}
	for i := range s.Histograms {
		if s.Histograms[i].StartTimestamp == 0 {
			s.Histograms[i].StartTimestamp = int64(created)
		}
	}
	return true
}

// histograms of all kinds.
func histograms() []histogram.Histogram {
	return []histogram.Histogram{
		{},
		{Sum: math.Float64frombits(value.StaleNaN)},
		{
			CounterResetHint: histogram.NotCounterReset, Schema: 3, Count: 30, ZeroCount: 4, Sum: -18.4, ZeroThreshold: 1e-128,
			PositiveSpans: []histogram.Span{{Offset: -5, Length: 2}, {Offset: 300, Length: 1}}, PositiveBuckets: []int64{1, 200, -7},
			NegativeSpans: []histogram.Span{{Offset: 1, Length: 1}}, NegativeBuckets: []int64{math.MaxInt64},
		},
		{
			CounterResetHint: histogram.GaugeType, Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 1.5,
			PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []int64{1, 1}, CustomValues: []float64{0.1, 5},
		},
	}
}

func requestV1() *prompb.WriteRequest {
	r := &prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{
			{},
			{
				Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "näme\n"}, {}},
				Samples: []prompb.Sample{{Value: 1, Timestamp: 1_700_000_000_000}, {Value: math.Copysign(0, -1), Timestamp: -1}, {Value: math.Float64frombits(value.StaleNaN)}, {}},
				Exemplars: []prompb.Exemplar{
					{Labels: []prompb.Label{{Name: "trace_id", Value: "1"}, {Name: "span_id", Value: "2"}}, Value: 2.5, Timestamp: 12},
					{},
				},
			},
		},
		Metadata: []prompb.MetricMetadata{{Type: prompb.MetricMetadata_SUMMARY, MetricFamilyName: "rpc", Help: "Help\nof it", Unit: "seconds"}, {Type: 99}, {}},
	}
	for _, h := range histograms() {
		r.Timeseries = append(r.Timeseries, prompb.TimeSeries{
			Labels:     []prompb.Label{{Name: "__name__", Value: "h"}},
			Histograms: []prompb.Histogram{prompb.FromIntHistogram(7, &h), prompb.FromFloatHistogram(8, h.ToFloat(nil))},
		})
	}
	return r
}

func requestV2() *writev2.Request {
	r := &writev2.Request{
		Symbols: []string{"", "__name__", "up", "job", "näme\n", "trace_id", "1", "Help of it", "seconds"},
		Timeseries: []writev2.TimeSeries{
			{},
			{
				LabelsRefs: []uint32{1, 2, 3, 4},
				Samples:    []writev2.Sample{{Value: 1, Timestamp: 1_700_000_000_000, StartTimestamp: 1_600_000_000_000}, {Value: math.NaN(), Timestamp: -1}, {}},
				Exemplars:  []writev2.Exemplar{{LabelsRefs: []uint32{5, 6}, Value: 2.5, Timestamp: 12}, {LabelsRefs: []uint32{5}}, {}},
				Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_STATESET, HelpRef: 7, UnitRef: 8},
			},
			{LabelsRefs: []uint32{1, 2, 3}, Metadata: writev2.Metadata{HelpRef: 9}},
			{LabelsRefs: []uint32{1, 9}, Metadata: writev2.Metadata{UnitRef: math.MaxUint32, Type: 77}},
		},
	}
	for _, h := range histograms() {
		r.Timeseries = append(r.Timeseries, writev2.TimeSeries{
			LabelsRefs: []uint32{1, 2},
			Histograms: []writev2.Histogram{writev2.FromIntHistogram(1, 7, &h), writev2.FromFloatHistogram(0, 8, h.ToFloat(nil))},
		})
	}
	return r
}

func marshal(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	body, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// A body is decoded as Prometheus does, whole, and what is cut off anywhere is never taken for something else.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		message writeproto.Message
		body    []byte
		oracle  func([]byte) ([]string, error)
	}{
		{writeproto.V1, marshal(t, requestV1()), oracleV1},
		{writeproto.V2, marshal(t, requestV2()), oracleV2},
	} {
		for n := range len(c.body) + 1 {
			got, err := showBatch(t, c.message, c.body[:n])
			want, wantErr := c.oracle(c.body[:n])
			if (err == nil) != (wantErr == nil) || !slices.Equal(got, want) {
				t.Fatalf("%d of %d bytes of version %d are %q (%v), want %q (%v)", n, len(c.body), c.message, got, err, want, wantErr)
			}
		}
	}
}

// Fields may come in any order and in parts, and unknown ones are skipped, groups included.
func TestDecodeUncommon(t *testing.T) {
	label := "\x0a\x06\x0a\x01a\x12\x01b"
	sample := "\x12\x0b\x09\x00\x00\x00\x00\x00\x00\xf0\x3f\x10\x07"
	series := func(parts string) string { return "\x0a" + string(rune(len(parts))) + parts }
	f := func(what, body string, oracle func([]byte) ([]string, error), m writeproto.Message) {
		t.Helper()
		want, err := oracle([]byte(body))
		if err != nil {
			t.Fatalf("%s: Prometheus refuses it: %v", what, err)
		}
		got, err := showBatch(t, m, []byte(body))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q (%v), want %q", what, got, err, want)
		}
	}
	f("labels around samples", series(label+sample+label+sample+label), oracleV1, writeproto.V1)
	f("labels last", series(sample+label), oracleV1, writeproto.V1)
	f("a long tag", series("\x8a\x00\x06\x0a\x01a\x12\x01b"+label), oracleV1, writeproto.V1)
	f("an unknown field", series("\x78\x05"+label+sample), oracleV1, writeproto.V1)
	f("a group", "\x7b\x08\x01\x7b\x7c\x7c"+series(label), oracleV1, writeproto.V1)
	f("a label with something else", "\x0a\x0a\x0a\x08\x0a\x01a\x12\x01b\x18\x01", oracleV1, writeproto.V1)
	exemplar := "\x1a\x11" + label + "\x18\x05" + "\x0a\x05\x0a\x01c\x12\x00"
	f("labels of an exemplar in parts", series(label+exemplar), oracleV1, writeproto.V1)
	f("references one by one", "\x22\x00\x22\x01a\x22\x01b\x2a\x04\x08\x01\x08\x02", oracleV2, writeproto.V2)
	f("symbols at last", "\x2a\x04\x0a\x02\x01\x02\x22\x00\x22\x01a\x22\x01b", oracleV2, writeproto.V2)
	f("metadata in parts", "\x22\x00\x22\x01a\x2a\x08\x2a\x02\x08\x01\x2a\x02\x18\x01", oracleV2, writeproto.V2)
	f("a request of 1.0 as one of 2.0", series(label+sample), oracleV2, writeproto.V2)
	f("a request of 2.0 as one of 1.0", "\x22\x00\x2a\x04\x0a\x02\x01\x02", oracleV1, writeproto.V1)
}

func TestDecodeRefuses(t *testing.T) {
	f := func(what, body string, m writeproto.Message) {
		t.Helper()
		if got, err := showBatch(t, m, []byte(body)); err == nil {
			t.Errorf("%s: %q", what, got)
		}
	}
	for _, m := range []writeproto.Message{writeproto.V1, writeproto.V2} {
		f("field 0", "\x00\x00", m)
		f("the end of a group", "\x7c", m)
		f("a group that does not end", "\x7b", m)
		f("wire type 6", "\x7e\x00", m)
		f("a varint without an end", "\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", m)
		f("a length that is negative", "\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", m)
		f("a length beyond the end", "\x7a\x02a", m)
	}
	f("series of the wrong type", "\x08\x01", writeproto.V1)
	f("a label that is none", "\x0a\x03\x0a\x01\x0a", writeproto.V1)
	f("a label of an exemplar that is none", "\x0a\x05\x1a\x03\x0a\x01\x0a", writeproto.V1)
	f("a sample's value of the wrong type", "\x0a\x04\x12\x02\x08\x01", writeproto.V1)
	f("symbols of the wrong type", "\x20\x01", writeproto.V2)
	f("a list that ends within a number", "\x2a\x04\x0a\x01\x80\x01", writeproto.V2)
}

// The drafts of 2.0 had one start for all samples of a series.
func TestDecodeCreatedTimestamp(t *testing.T) {
	body := "\x2a\x11" + "\x30\x05" + "\x12\x02\x10\x07" + "\x12\x04\x10\x08\x18\x06" + "\x1a\x03\x88\x01\x03"
	got, err := showBatch(t, writeproto.V2, []byte(body))
	want := []string{" unknown \"\" \"\" 0000000000000000@7 from 5 0000000000000000@8 from 6 int 0 0 0 0 [0 0] [] [] [] [] []@0 from 3"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
}

// An empty series takes two bytes, and more memory than anybody wants to give for that.
func TestDecodeBoundsWhatItAllocates(t *testing.T) {
	b := writeproto.NewBatch(seed)
	f := func(m writeproto.Message, item string) {
		t.Helper()
		if err := b.Decode(m, bytes.Repeat([]byte(item), 1_000_001)); !errors.Is(err, writeproto.ErrTooMany) {
			t.Errorf("a million of %q: %v", item, err)
		}
	}
	f(writeproto.V1, "\x0a\x00")
	f(writeproto.V1, "\x1a\x00")
	f(writeproto.V2, "\x22\x00")
	f(writeproto.V2, "\x2a\x00")
	f(writeproto.V2, "\x2a\x12\x0a\x10"+string(make([]byte, 16)))
	f(writeproto.V1, "\x0a\x04\x12\x00\x12\x00")
}

// What is spelled alike has one hash and one key, and nothing else has them.
func TestKeys(t *testing.T) {
	sets := [][]string{
		{}, {"a", "b"}, {"b", "a"}, {"a", "b", "c", "d"}, {"c", "d", "a", "b"}, {"a", "bc", "", "d"}, {"ab", ""}, {"", "ab"}, {"a", ""}, {"", ""},
		{"a", string(bytes.Repeat([]byte("v"), 200))}, {"a", string(bytes.Repeat([]byte("v"), 20000))},
	}
	type spelled struct {
		b *writeproto.Batch
		s *writeproto.Series
		k string
	}
	for _, m := range []writeproto.Message{writeproto.V1, writeproto.V2} {
		var all []spelled
		for i, set := range sets {
			var body []byte
			if m == writeproto.V1 {
				var s prompb.TimeSeries
				for i := 0; i < len(set); i += 2 {
					s.Labels = append(s.Labels, prompb.Label{Name: set[i], Value: set[i+1]})
				}
				body = marshal(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{s}})
			} else {
				symbols := writev2.NewSymbolTable()
				for range i { // other references each time
					symbols.Symbolize(fmt.Sprint("filler", i))
				}
				refs := []uint32{}
				for _, s := range set {
					refs = append(refs, symbols.Symbolize(s))
				}
				body = marshal(t, &writev2.Request{Symbols: symbols.Symbols(), Timeseries: []writev2.TimeSeries{{LabelsRefs: refs}}})
			}
			for range 2 {
				b := writeproto.NewBatch(seed)
				if err := b.Decode(m, body); err != nil {
					t.Fatal(err)
				}
				list, err := b.AppendLabels(nil, &b.Series[0])
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, spelled{b, &b.Series[0], string(b.AppendRawKey(nil, &b.Series[0], list))})
			}
		}
		for i, x := range all {
			for j, y := range all {
				same := i/2 == j/2
				if (x.k == y.k) != same || x.b.HasKey(x.s, y.k) != same || (x.b.Hash(x.s) == y.b.Hash(y.s)) != same {
					t.Errorf("version %d: labels %q and %q: keys %q and %q", m, sets[i/2], sets[j/2], x.k, y.k)
				}
			}
			if m == writeproto.V1 && len(x.k) > 0 { // the empty strings are not written by all
				list, _ := x.b.AppendLabels(nil, x.s)
				if key := writeproto.AppendKey(nil, list); x.b.Hash(x.s) == writeproto.HashKey(seed, key) != (string(key) == x.k) {
					t.Errorf("the hash of %q is not that of its key", list)
				}
			}
		}
	}
}

func TestHashMetadata(t *testing.T) {
	hash := func(symbols []string, m writev2.Metadata) uint64 {
		b := writeproto.NewBatch(seed)
		if err := b.Decode(writeproto.V2, marshal(t, &writev2.Request{Symbols: symbols, Timeseries: []writev2.TimeSeries{{Metadata: m}}})); err != nil {
			t.Fatal(err)
		}
		return b.HashMetadata(&b.Series[0])
	}
	one := hash([]string{"", "a", "b"}, writev2.Metadata{Type: 1, HelpRef: 1, UnitRef: 2})
	if hash([]string{"", "b", "x", "a"}, writev2.Metadata{Type: 1, HelpRef: 3, UnitRef: 1}) != one {
		t.Error("it depends on the references")
	}
	for _, other := range []uint64{
		hash([]string{"", "a", "b"}, writev2.Metadata{Type: 2, HelpRef: 1, UnitRef: 2}),
		hash([]string{"", "a", "b"}, writev2.Metadata{Type: 1, HelpRef: 2, UnitRef: 1}),
		hash([]string{"", "a", "b"}, writev2.Metadata{Type: 1, HelpRef: 1}), 0,
	} {
		if other == one {
			t.Error("other metadata has the same hash")
		}
	}
	if hash([]string{""}, writev2.Metadata{}) != 0 {
		t.Error("nothing said has a hash")
	}
}

// In the steady state nothing is allocated for floats.
func TestDecodeAllocates(t *testing.T) {
	var r1 prompb.WriteRequest
	r2 := writev2.Request{}
	symbols := writev2.NewSymbolTable()
	for i := range 100 {
		l := labels.FromStrings("__name__", "up", "instance", fmt.Sprint("host", i))
		r1.Timeseries = append(r1.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(l, nil), Samples: []prompb.Sample{{Value: 1, Timestamp: 2}}})
		r2.Timeseries = append(r2.Timeseries, writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(l, nil), Samples: []writev2.Sample{{Value: 1, Timestamp: 2}}})
	}
	r2.Symbols = symbols.Symbols()
	b := writeproto.NewBatch(seed)
	for m, body := range map[writeproto.Message][]byte{writeproto.V1: marshal(t, &r1), writeproto.V2: marshal(t, &r2)} {
		if n := testing.AllocsPerRun(10, func() {
			if err := b.Decode(m, body); err != nil {
				t.Error(err)
			}
			for i := range b.Series {
				b.Hash(&b.Series[i])
			}
		}); n > 0 {
			t.Errorf("%v allocations for a request of version %d", n, m)
		}
	}
}

func fuzzDecode(f *testing.F, m writeproto.Message, oracle func([]byte) ([]string, error)) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := showBatch(t, m, body)
		want, wantErr := oracle(body)
		switch {
		case errors.Is(wantErr, errOdd):
		case wantErr != nil && err == nil:
			t.Errorf("Prometheus refuses it: %v", wantErr)
		case err == nil && !slices.Equal(got, want):
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func FuzzDecodeV1(f *testing.F) {
	f.Add(marshal(f, requestV1()))
	f.Add([]byte("\x0a\x13\x0a\x06\x0a\x01a\x12\x01b\x12\x0b\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"))
	fuzzDecode(f, writeproto.V1, oracleV1)
}

func FuzzDecodeV2(f *testing.F) {
	f.Add(marshal(f, requestV2()))
	f.Add([]byte("\x22\x00\x22\x01a\x22\x01b\x2a\x04\x08\x01\x08\x02"))
	fuzzDecode(f, writeproto.V2, oracleV2)
}
