package expo

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// twins are two parsers of one target, one of which leaves everything to textparse.
type twins struct{ quick, plain *Parser }

func newTwins(change func(*Options)) twins {
	t := twins{newParser(change), newParser(change)}
	t.plain.slow = true
	return t
}

// parse gives both the same body, and fails if they do not agree to the last bit.
func (p twins) parse(t *testing.T, body []byte, contentType string, at int64) *Result {
	t.Helper()
	got, err := p.quick.Parse(bytes.Clone(body), contentType, at)
	want, wantErr := p.plain.Parse(bytes.Clone(body), contentType, at)
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("error %v, want %v, for\n%q", err, wantErr, body)
	}
	if got.Stats != want.Stats {
		t.Fatalf("%+v, want %+v, for\n%q", got.Stats, want.Stats, body)
	}
	rows, wanted := append([]series.Row{*got.Whole}, got.Stamped...), append([]series.Row{*want.Whole}, want.Stamped...)
	if len(rows) != len(wanted) {
		t.Fatalf("%d rows, want %d, for\n%q", len(rows), len(wanted), body)
	}
	for i := range rows {
		if g, w := dump(&rows[i]), dump(&wanted[i]); g != w {
			t.Fatalf("row %d is\n%swant\n%sfor\n%q", i, g, w, body)
		}
	}
	return got
}

// dump prints all that is in a row, columns and metadata included.
func dump(r *series.Row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d end=%t columns=%v present=%x\n", r.Source.Key, r.T, r.End, r.Columns, r.Present)
	for i := range r.Schema.Len() {
		c := r.Schema.Column(i)
		fmt.Fprintf(&b, "%s %s %q", c.Labels, c.Kind, c.Family)
		if r.Whole() && i < len(r.Values) {
			fmt.Fprintf(&b, " %x", math.Float64bits(r.Values[i]))
		}
		b.WriteByte('\n')
	}
	if !r.Whole() {
		for _, v := range r.Values {
			fmt.Fprintf(&b, "%x ", math.Float64bits(v))
		}
	}
	for _, h := range r.Histograms {
		fmt.Fprintf(&b, "%d %s %s\n", h.Column, h.H, h.FH)
	}
	fmt.Fprintf(&b, "%v %v\n", r.Exemplars, r.Starts)
	return b.String()
}

// oddLines are lines that bodies have now and then, or should not have.
var oddLines = []string{
	"", " ", "#", "# ", "# a comment", "#no comment", "# HELP", "# HELP ", "# HELP a", "# HELP a ", "# HELP a A.", "# HELP a Other.",
	`# HELP a With \\ and \n.`, "# HELP a \xff", "# HELP \"a b\" Quoted.", "#\tHELP a Tabs.", "# HELP  a Spaces.", "# HELP a\tTab.", "# HELP a  Two.",
	"# HELP b B.", "# TYPE a gauge", "# TYPE a counter", "# TYPE a histogram", "# TYPE b summary", "# TYPE a nonsense", "# TYPE a untyped",
	"# TYPE a unknown", "# TYPE h histogram", "# TYPE x info", "# UNIT a_seconds seconds", "# UNIT a seconds", "# EOF", "# EOF ", "# EOFX", "#EOF",
	"a 1", "a 2", "a 1 ", " a 1", "a  1", "a\t1", "a 1\t", "a 1\r", "a{} 1", "a {} 1", "a{x=\"1\"} 3", "a {x=\"1\"} 3", "a{x=\"1\",} 3", "a{x=\"1\"}3",
	"a{ x = \"1\" } 3", "a{x=\"1\",y=\"2\"} 4", "a{y=\"2\",x=\"1\"} 5", "a{x=\"}\"} 6", `a{x="\"}"} 7`, `a{x="\\"} 8`, "a{x=\"\n\"} 9", "a{x=\"1} 9",
	"a{le=\"1\"} 1", "a{le=\"1.0\"} 1", "a{quantile=\"1\"} 1", "h_bucket{le=\"1\"} 1", "h_bucket{le=\"+Inf\"} 2", "h_sum 2", "h_count 2",
	"{\"a\"} 1", "{\"a b\",x=\"1\"} 1", "{x=\"1\"} 1", "a-1", "a1", "a:b 1", "a+1", "a.b 1", "a", "a ", "1", "}", "\x00", "a\x00 1", "a 1\x00", "# \x00", "a{x=\"\x00\"} 1",
	"a{x=\"\xff\"} 1", "up 1", "up 7", "dropped 1", "dropped{x=\"1\"} 2", "bad 1",
	"a 1 1700000000000", "a 1 1699999999000", "a 2 1700000600001", "a 1 170000000000000000000", "a 1 -1", "a 1 1.5", "a 1 +1", "a 1  5", "a 1 5 ", "a 1 5 6", "a 1 NaN",
	"b{job=\"n\",instance=\"1\"} 1 1699999990000", "b{job=\"n\",instance=\"2\"} 1 1699999990001", "b{job=\"n\",instance=\"1\"} 1",
	"a 1 # {x=\"1\"} 2", "a 1 # {x=\"1\"} 2 3", "a 1 5 # {x=\"1\"} 2 3", "a 1 # {} 2", "a 1 # {x=\"1\"}", "a 1 # {x=\"" + strings.Repeat("x", 130) + "\"} 1", "a 1 #", "a 1#",
}

// oddValues are spellings of values of which some are none.
var oddValues = []string{
	"0", "-0", "+0", "1", "-1", "+1", "007", "1.", ".5", ".", "-", "", "+", "1.5", "-1.25", "1e3", "1E3", "1e+3", "1e-3", "1e", "1e+", "e1", "1e22", "1e23", "1e-22", "1e-23",
	"1e308", "1e309", "-1e309", "1e-400", "1e1000", "9007199254740992", "9007199254740993", "9007199254740993.0", "900719925474099.3e1",
	"123456789012345678", "1234567890123456789", "12345678901234567890", "0.1", "0.30000000000000004", "1.7976931348623157e308", "5e-324", "4.35", "0.000001234",
	"1_000", "0x10", "0x1p4", "0b1", "0o7", "1__0", "NaN", "nan", "-NaN", "+NaN", "Inf", "+Inf", "-Inf", "inf", "INFINITY", "infinit", "1,5", "1 ", "1a", "1\x00", "1{", "１",
	"00000000000000000000000001", "0.00000000000000000000000001", "100000000000000000000000", "179.99999999999999999", "8.41e+21", "1.6e-22", "123456789e20",
}

// mutate changes a body as targets do, and as they should not.
func mutate(rand *rand.Rand, body []byte) []byte {
	lines := bytes.SplitAfter(bytes.Clone(body), []byte("\n"))
	for range 1 + rand.IntN(4) {
		i := rand.IntN(len(lines))
		switch rand.IntN(12) {
		case 0, 1: // another value
			if j := bytes.LastIndexByte(lines[i], ' '); j >= 0 && lines[i][0] != '#' {
				lines[i] = fmt.Appendf(lines[i][:j+1:j+1], "%v\n", rand.NormFloat64())
			}
		case 2: // an odd value
			if j := bytes.LastIndexByte(lines[i], ' '); j >= 0 && lines[i][0] != '#' {
				lines[i] = fmt.Appendf(lines[i][:j+1:j+1], "%s\n", oddValues[rand.IntN(len(oddValues))])
			}
		case 3: // an odd line
			lines = slices.Insert(lines, i, []byte(oddLines[rand.IntN(len(oddLines))]+"\n"))
		case 4: // gone
			lines = slices.Delete(lines, i, min(len(lines)-1, i+1+rand.IntN(4)))
		case 5: // moved
			j := rand.IntN(len(lines))
			lines[i], lines[j] = lines[j], lines[i]
		case 6: // twice
			lines = slices.Insert(lines, rand.IntN(len(lines)), lines[i])
		case 7: // another byte
			if n := len(lines[i]); n > 0 {
				lines[i] = bytes.Clone(lines[i])
				lines[i][rand.IntN(n)] = "\n\x00 \t\"{}#=,\\a1\r"[rand.IntN(14)]
			}
		case 8: // new
			lines = slices.Insert(lines, i, fmt.Appendf(nil, "a{x=%q} %d\n", fmt.Sprint(rand.IntN(30)), rand.IntN(9)))
		case 9: // cut off
			if rand.IntN(8) == 0 {
				lines = lines[:i+1]
				lines[i] = lines[i][:rand.IntN(len(lines[i])+1)]
			}
		case 10: // a timestamp
			if l := bytes.TrimSuffix(lines[i], []byte("\n")); len(l) > 0 {
				lines[i] = fmt.Appendf(bytes.Clone(l), " %d\n", now-1000+int64(rand.IntN(2000)))
			}
		}
	}
	return bytes.Join(lines, nil)
}

// variants of a parser, by number.
func variants(n uint8) func(*Options) {
	return func(o *Options) {
		o.IgnoreTimestamps, o.TrackStaleness = n&1 != 0, n&2 != 0
		if n&4 != 0 {
			o.SampleLimit = 12
		}
		o.CompactAfter, o.EndAfter = 2, 2
		o.Map = func(l labels.Labels) (labels.Labels, bool, error) {
			if l.Get("__name__") == "bad" {
				return l, false, &LimitError{Limit: "label_limit", Max: 1, Got: 2}
			}
			return l, l.Get("__name__") != "dropped", nil
		}
	}
}

const small = `# HELP a A.
# TYPE a gauge
a 1
a{x="1"} 2
a{x="2"} 2.5
# HELP h H.
# TYPE h histogram
h_bucket{le="1"} 1
h_bucket{le="+Inf"} 3
h_sum 4.5
h_count 3
dropped{x="1"} 1
# TYPE b counter
b{job="n",instance="1"} 1 1699999990000
b{job="n",instance="2"} 1 1699999990000
c 5
`

// TestLinesAgree drives bodies of targets that change through a parser and its plain twin.
func TestLinesAgree(t *testing.T) {
	excerpt := func(b []byte) string { return string(b[:bytes.LastIndexByte(b[:6000], '\n')+1]) }
	bodies := corpus(t)
	seeds := []struct{ body, contentType string }{
		{small, text}, {small + "# EOF\n", openMetrics}, {excerpt(bodies[0]), text}, {excerpt(bodies[3]), text}, {excerpt(bodies[3]) + "# EOF\n", openMetrics}, {"", text},
	}
	for _, seed := range seeds {
		for n := range 150 {
			rand := rand.New(rand.NewPCG(uint64(n), 1))
			p := newTwins(variants(uint8(n)))
			body, good := []byte(seed.body), []byte(seed.body)
			p.parse(t, body, seed.contentType, now)
			for i := range int64(12) {
				if rand.IntN(3) > 0 {
					body = mutate(rand, body)
				}
				p.parse(t, body, seed.contentType, now+i+1)
				if p.plain.result.Samples == 0 || rand.IntN(4) == 0 {
					body = good
				}
			}
		}
	}
}

// TestOddLines puts each odd line and value into a body that is known, and takes it out again.
func TestOddLines(t *testing.T) {
	lines := slices.Clone(oddLines)
	for _, v := range oddValues {
		lines = append(lines, "a "+v, "c "+v, "new "+v, "a 1 "+v)
	}
	for _, contentType := range []string{text, openMetrics} {
		end := ""
		if contentType == openMetrics {
			end = "# EOF\n"
		}
		for i, odd := range lines {
			for _, before := range []string{"", "a 1\n", "c 5\n", small} {
				p := newTwins(variants(uint8(i)))
				_, after, _ := strings.Cut(small, before)
				known, with := []byte(small+end), []byte(before+odd+"\n"+after+end)
				for step, body := range [][]byte{known, with, with, with[:len(with)-1], known, with, nil, with, known} {
					p.parse(t, body, contentType, now+int64(step))
				}
			}
		}
	}
}

// TestWhichBodiesAreOdd says what is left to textparse as a whole, though it is good: nothing but what has newlines or
// zero bytes where lines cannot.
func TestWhichBodiesAreOdd(t *testing.T) {
	f := func(body, contentType string, want format) {
		t.Helper()
		p := newTwins(nil)
		p.parse(t, []byte("a 1\n# EOF\n"), contentType, now)
		p.parse(t, []byte(body), contentType, now+1)
		if err := p.quick.result.Fallback; err != nil {
			t.Fatal(err)
		}
		if got := p.quick.known.script.format; got != want {
			t.Errorf("%q: format %d, want %d", body, got, want)
		}
	}
	f("a 1\n", text, textLines)
	f("a 1", text, textLines)
	f("\n\na 1\n\n", text, textLines)
	f("# HELP a With \\\\ and \\n.\n#\tTYPE a gauge\n# x\na 1\n", text, textLines)
	f(" a  1 \na\t{ x = \"1\" , }\t2\t5\n", text, textLines)
	f("a 1 5\na 1 6\na NaN 7\n", text, textLines)
	f("{\"a b\",x=\"1\"} 1\na{x=\"}\\\"\"} 2\n", text, textLines)
	f("a 123456789012345678901234567890\nb +Inf\nc 1e-400\n", text, textLines)
	f("a 1\na 1\na{} 2\n", text, textLines)
	f("a{x=\"\n\"} 1\n", text, other)
	f("# HELP \"a\nb\" Help.\na 1\n", text, other)
	f("a{x=\"\x00\"} 1\n", text, other)
	f("a 1\n\x00b\n", text, other)
	f("a{x=\"1\"}1\n", text, other)

	f("# TYPE a counter\n# UNIT b_x x\n# HELP a A.\na_total 1\n# EOF\n", openMetrics, metricsLines)
	f("a 1 5\na 1 6.5\na 1 7 # {x=\"1\"} 2 3\na 1 # {} 2\n# EOF", openMetrics, metricsLines)
	f("# EOF\n", openMetrics, metricsLines)
	f("# HELP \"a\nb\" Help.\n# EOF\n", openMetrics, other)
}

// FuzzLines compares the two ways to read a body, and how they go on after it.
func FuzzLines(f *testing.F) {
	f.Add([]byte(small), []byte("a 1\n"), []byte("a 1\nb 2\n"), false, uint8(0))
	f.Add([]byte(small+"# EOF\n"), []byte("a 1 # {x=\"1\"} 2\n# EOF\n"), []byte("# EOF"), true, uint8(1))
	for i := range oddLines {
		odd := oddLines[i] + "\n"
		f.Add([]byte("a 1\nb 2\n"), []byte("a 1\n"+odd+"b 2\n"), []byte(odd+"b 2\na 1\n"), false, uint8(i))
		f.Add([]byte("a 1\nb 2\n# EOF\n"), []byte("a 1\n"+odd+"b 2\n# EOF\n"), []byte(odd+"b 2\na 1\n# EOF\n"), true, uint8(i))
	}
	f.Fuzz(func(t *testing.T, one, two, three []byte, metrics bool, options uint8) {
		contentType := text
		if metrics {
			contentType = openMetrics
		}
		p := newTwins(variants(options))
		for i, body := range [][]byte{one, two, one, three, three, two, nil, one} {
			p.parse(t, body, contentType, now+int64(i))
		}
	})
}

// TestSteadyBodies sees to it that a body with the series of the one before is read by the script alone: without
// allocations, whatever the values.
func TestSteadyBodies(t *testing.T) {
	f := func(name string, body []byte, contentType string, want format) {
		t.Helper()
		number := 0
		changed := regexp.MustCompile(`(?m)^([^#].* )(\S+)$`).ReplaceAllFunc(body, func(line []byte) []byte {
			number++
			value := bytes.IndexByte(line, '}') + 1
			value += bytes.IndexByte(line[value:], ' ') + 1
			_, stamp, stamped := bytes.Cut(line[value:], []byte(" "))
			line = fmt.Appendf(line[:value:value], "%d.%d", number%1000, number)
			if stamped {
				line = append(append(line, ' '), stamp...)
			}
			return line
		})
		p := newParser(nil)
		for _, b := range [][]byte{body, changed, body, changed} {
			if _, err := p.Parse(b, contentType, now); err != nil {
				t.Fatal(err)
			}
		}
		script := p.known.script
		allocs := testing.AllocsPerRun(20, func() {
			for _, b := range [][]byte{body, changed} {
				if _, err := p.Parse(b, contentType, now); err != nil {
					t.Fatal(err)
				}
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for two bodies", name, allocs)
		}
		if p.known.script != script || script.format != want {
			t.Errorf("%s: the bodies were not read by the script", name)
		}
	}
	bodies := corpus(t)
	for i, name := range []string{"node", "prometheus"} {
		body := bodies[i*3]
		f(name, body, text, textLines)
		metrics := bytes.ReplaceAll(append(bytes.Clone(body), "# EOF\n"...), []byte(" untyped\n"), []byte(" unknown\n"))
		f(name+" as OpenMetrics", metrics, openMetrics, metricsLines)
		stamped := regexp.MustCompile(`(?m)^([^#].*)$`).ReplaceAll(body, []byte("$1 1699999999000"))
		f(name+" with timestamps", stamped, text, textLines)
	}
}

// TestNumber compares with strconv what number reads.
func TestNumber(t *testing.T) {
	read := 0
	f := func(s string) {
		t.Helper()
		v, end := number([]byte(s+"\n"), 0)
		if end == 0 || end != len(s) {
			return
		}
		read++
		if want, ok := float([]byte(s)); !ok || math.Float64bits(v) != math.Float64bits(want) {
			t.Errorf("%s is %v, want %v", s, v, want)
		}
	}
	for _, s := range oddValues {
		f(s)
	}
	if read < 20 {
		t.Errorf("only %d of the spellings were read", read)
	}
	rand := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		v := math.Float64frombits(rand.Uint64())
		f(fmt.Sprint(v))
		f(fmt.Sprintf("%.*f", rand.IntN(12), rand.NormFloat64()*1e4))
		f(fmt.Sprintf("%d.%0*de%d", rand.IntN(1000), 1+rand.IntN(9), rand.IntN(1000), rand.IntN(60)-30))
	}
}
