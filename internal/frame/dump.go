package frame

import (
	"errors"
	"math"
	"strconv"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// TextHandler returns a Handler that appends everything it is handed to dst, in the text form of docs/frame.md,
// section 9: one line for each column of a row and for everything else, each with its newline.
func TextHandler(dst *[]byte) Handler {
	t := (*text)(dst)
	return Handler{
		Row:    func(r *series.Row) { *dst = AppendRow(*dst, r) },
		Forget: func(s *series.Source) { t.add("forget key=").quote(s.Key).end() },
		Loss: func(l Loss) {
			t.add("loss epoch=").add(l.Epoch.String()).add(" from=").uint(l.From).add(" to=").uint(l.To).add(" rows=").uint(l.Rows).
				add(" first=").int(l.First).add(" last=").int(l.Last).add(" cause=").add(l.Cause.String()).end()
		},
		Origin: func(facts []Fact) {
			t.add("origin").end()
			for _, f := range facts {
				t.add("  ").quote(f.Name).add("=").quote(f.Value).end()
			}
		},
		Refusals: func(refusals []Refusal) {
			t.add("refusals").end()
			for i := range refusals {
				r := &refusals[i]
				t.add("  reason=").quote(r.Reason).add(" series=").uint(r.Series).add(" samples=").uint(r.Samples).
					add(" example=").quote(r.Example).end()
			}
		},
	}
}

// AppendRow appends the text form of a row.
func AppendRow(dst []byte, r *series.Row) []byte {
	t := (*text)(&dst)
	form := "whole"
	switch {
	case r.End:
		form = "end"
	case !r.Whole():
		form = "partial"
	}
	t.add("row ").add(form).add(" key=").quote(r.Source.Key).add(" t=").int(r.T).
		add(" interval=").int(r.Source.Interval.Milliseconds()).add(" labels=").labels(r.Source.Labels).
		add(" columns=").int(int64(r.Schema.Len())).end()
	if r.End {
		return dst
	}
	extras := *r // what is still to be printed
	for i, v := range r.Values {
		at := i
		if r.Columns != nil {
			at = int(r.Columns[i])
		}
		c := r.Schema.Column(at)
		t.add("  ").int(int64(at)).add(" ").add(c.Kind.String()).add(" ").labels(c.Labels)
		if f := &c.Family; *f != (series.Family{}) {
			t.add(" family=").quote(f.Name).add(" type=").quote(string(f.Type)).add(" help=").quote(f.Help).add(" unit=").quote(f.Unit)
		}
		t.add(" = ")
		switch {
		case r.Whole() && !r.Has(i):
			t.add("absent")
		case c.Kind == series.Float:
			t.float(v)
		case len(extras.Histograms) > 0 && extras.Histograms[0].Column == uint32(at):
			t.histogram(&extras.Histograms[0])
			extras.Histograms = extras.Histograms[1:]
		default:
			t.add("none")
		}
		t.end()
		t.extras(&extras, uint32(at))
	}
	return dst
}

// ErrorKind names the kind of an error of this package, one of a closed set: "" (nil), "short", "checksum",
// "version", "mismatch", "limit" and, for all other bytes that are not a frame, "malformed".
func ErrorKind(err error) string {
	var mismatch *MismatchError
	var limit *LimitError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrShort):
		return "short"
	case errors.Is(err, ErrChecksum):
		return "checksum"
	case errors.Is(err, ErrVersion):
		return "version"
	case errors.As(err, &mismatch):
		return "mismatch"
	case errors.As(err, &limit):
		return "limit"
	}
	return "malformed"
}

// text is the text form under construction.
type text []byte

func (t *text) add(s string) *text { *t = append(*t, s...); return t }
func (t *text) int(v int64) *text  { *t = strconv.AppendInt(*t, v, 10); return t }
func (t *text) uint(v uint64) *text {
	*t = strconv.AppendUint(*t, v, 10)
	return t
}
func (t *text) end() { *t = append(*t, '\n') }

// quote writes printable ASCII as it is, except quotes and backslashes, and every other byte as \xHH.
func (t *text) quote(s string) *text {
	const hex = "0123456789abcdef"
	*t = append(*t, '"')
	for _, c := range []byte(s) {
		if c >= ' ' && c <= '~' && c != '"' && c != '\\' {
			*t = append(*t, c)
		} else {
			*t = append(*t, '\\', 'x', hex[c>>4], hex[c&15])
		}
	}
	*t = append(*t, '"')
	return t
}

// float writes the shortest decimal that gives the same bits, and the bits of a NaN.
func (t *text) float(v float64) *text {
	if math.IsNaN(v) {
		*t = append(*t, "NaN:"...)
		*t = strconv.AppendUint(*t, math.Float64bits(v), 16)
		return t
	}
	*t = strconv.AppendFloat(*t, v, 'g', -1, 64)
	return t
}

func (t *text) labels(ls labels.Labels) *text {
	sep := "{"
	if ls.Len() == 0 {
		t.add("{")
	}
	ls.Range(func(l labels.Label) {
		t.add(sep).quote(l.Name).add("=").quote(l.Value)
		sep = ","
	})
	return t.add("}")
}

// extras writes the exemplars and the start timestamp of a column, and takes what it wrote off row.
func (t *text) extras(row *series.Row, column uint32) {
	for ; len(row.Exemplars) > 0 && row.Exemplars[0].Column == column; row.Exemplars = row.Exemplars[1:] {
		x := &row.Exemplars[0].Exemplar
		t.add("    exemplar ").labels(x.Labels).add(" = ").float(x.Value)
		if x.HasTs {
			t.add(" t=").int(x.Ts)
		}
		t.end()
	}
	for ; len(row.Starts) > 0 && row.Starts[0].Column <= column; row.Starts = row.Starts[1:] {
		if row.Starts[0].Column == column {
			t.add("    start ").int(row.Starts[0].Ms).end()
		}
	}
}

var hintNames = [...]string{"unknown", "reset", "not_reset", "gauge"}

func (t *text) histogram(at *series.HistogramAt) {
	if h := at.H; h != nil {
		t.layout("integer", h.CounterResetHint, h.Schema, h.ZeroThreshold, h.CustomValues)
		t.add(" count=").uint(h.Count).add(" zero_count=").uint(h.ZeroCount).add(" sum=").float(h.Sum)
		writeBuckets(t, "positive", h.PositiveSpans, h.PositiveBuckets, (*text).int)
		writeBuckets(t, "negative", h.NegativeSpans, h.NegativeBuckets, (*text).int)
		return
	}
	h := at.FH
	t.layout("float", h.CounterResetHint, h.Schema, h.ZeroThreshold, h.CustomValues)
	t.add(" count=").float(h.Count).add(" zero_count=").float(h.ZeroCount).add(" sum=").float(h.Sum)
	writeBuckets(t, "positive", h.PositiveSpans, h.PositiveBuckets, (*text).float)
	writeBuckets(t, "negative", h.NegativeSpans, h.NegativeBuckets, (*text).float)
}

func (t *text) layout(counts string, hint histogram.CounterResetHint, schema int32, zeroThreshold float64, custom []float64) {
	t.add(counts).add(" hint=").add(hintNames[hint&3]).add(" schema=").int(int64(schema)).
		add(" zero_threshold=").float(zeroThreshold).add(" custom=[")
	for i, v := range custom {
		if i > 0 {
			t.add(",")
		}
		t.float(v)
	}
	t.add("]")
}

func writeBuckets[T any](t *text, side string, spans []histogram.Span, buckets []T, number func(*text, T) *text) {
	t.add(" ").add(side).add("_spans=[")
	for i, s := range spans {
		if i > 0 {
			t.add(",")
		}
		t.int(int64(s.Offset)).add(":").uint(uint64(s.Length))
	}
	t.add("] ").add(side).add("=[")
	for i, b := range buckets {
		if i > 0 {
			t.add(",")
		}
		number(t, b)
	}
	t.add("]")
}
