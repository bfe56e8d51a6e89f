package expo

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// Targets that say the same share a script, even if their parsers make something else of it; one that says something
// else does not.
func TestSharedScripts(t *testing.T) {
	scripts, catalog := NewScripts(), series.NewCatalog()
	target := func(change func(*Options)) *Parser {
		return newParser(func(o *Options) {
			if o.Catalog, o.Scripts = catalog, scripts; change != nil {
				change(o)
			}
		})
	}
	one, two, other := target(nil), target(nil), target(nil)
	drops := target(func(o *Options) {
		o.Map = func(l labels.Labels) (labels.Labels, bool, error) { return l, l.Get("x") == "", nil }
	})
	alone := target(func(o *Options) { o.Scripts = nil })
	parse := func(p *Parser, body, want string) {
		t.Helper()
		if res, err := p.Parse([]byte(body), text, now); err != nil || render(res) != want {
			t.Fatalf("error %v, rows\n%swant\n%s", err, render(res), want)
		}
	}
	body := "# TYPE a gauge\na %d\na{x=\"1\"} %d\n"
	rows := "{__name__=\"up\"} 0\n{__name__=\"a\"} %d\n{__name__=\"a\", x=\"1\"} %d\n"
	for i := range 3 {
		parse(one, fmt.Sprintf(body, i, i+1), fmt.Sprintf(rows, i, i+1))
		parse(two, fmt.Sprintf(body, 7, i), fmt.Sprintf(rows, 7, i))
		parse(drops, fmt.Sprintf(body, i, i), fmt.Sprintf("{__name__=\"up\"} 0\n{__name__=\"a\"} %d\n", i))
		parse(alone, fmt.Sprintf(body, i, i), fmt.Sprintf(rows, i, i))
		parse(other, fmt.Sprintf(strings.Replace(body, "gauge", "counter", 1), i, i), fmt.Sprintf(rows, i, i))
	}
	script := one.known.script
	if two.known.script != script || drops.known.script != script {
		t.Error("equal bodies have different scripts")
	}
	if alone.known.script == script || other.known.script == script {
		t.Error("scripts are shared that are not to be shared")
	}
	// One target changes, and comes back.
	parse(two, "a 1\n", "{__name__=\"up\"} 0\n{__name__=\"a\"} 1\n")
	parse(one, fmt.Sprintf(body, 5, 6), fmt.Sprintf(rows, 5, 6))
	if two.known.script == script || one.known.script != script {
		t.Error("a target that changes has another script, and leaves it to the others")
	}
	parse(two, fmt.Sprintf(body, 3, 4), fmt.Sprintf(rows, 3, 4))
	if two.known.script != script {
		t.Error("a target that changes back does not share any more")
	}
}

// Equal text is not enough: in formats that are not text the metadata stand elsewhere.
func TestScriptsTellMetadataApart(t *testing.T) {
	scripts := NewScripts()
	with := func(help string) *script {
		s := &script{format: other}
		if err := s.append(segment{text: []byte("a")}, &series.Family{Name: "a", Help: help}, anyType, false); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := with("one")
	if scripts.shared(first) != first || scripts.shared(with("one")) != first {
		t.Error("equal scripts are not shared")
	}
	if s := scripts.shared(with("two")); s == first || s.families[0].Help != "two" {
		t.Error("scripts with different metadata are shared")
	}
}

// Scripts keeps nothing alive.
func TestScriptsForget(t *testing.T) {
	scripts := NewScripts()
	p := newParser(func(o *Options) { o.Scripts = scripts })
	if _, err := p.Parse([]byte(small), text, now); err != nil {
		t.Fatal(err)
	}
	known := func() int {
		scripts.mu.Lock()
		defer scripts.mu.Unlock()
		return len(scripts.known)
	}
	if known() != 1 {
		t.Fatalf("%d scripts, want 1", known())
	}
	runtime.KeepAlive(p)
	p = nil
	deadline := time.Now().Add(30 * time.Second)
	for known() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the script of a parser that is gone is still known")
		}
		runtime.GC()
		runtime.Gosched()
	}
}

// TestSharersAgree lets targets with one body in common change in their own ways at the same time, each beside its plain
// twin.
func TestSharersAgree(t *testing.T) {
	const targets, bodies = 8, 60
	excerpt := corpus(t)[3][:9000]
	for _, seed := range []string{small, string(excerpt[:bytes.LastIndexByte(excerpt, '\n')+1])} {
		scripts, catalog := NewScripts(), series.NewCatalog()
		for n := range targets {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				change := variants(uint8(n))
				p := newTwins(func(o *Options) {
					o.Catalog, o.Scripts = catalog, scripts
					change(o)
				})
				rand := rand.New(rand.NewPCG(uint64(n), 2))
				body := []byte(seed)
				for i := range int64(bodies) {
					p.parse(t, body, text, now+i)
					switch rand.IntN(6) {
					case 0, 1:
						body = mutate(rand, body)
					case 2:
						body = thin(rand, []byte(seed), 1+rand.IntN(20))
					case 3, 4:
						body = []byte(seed)
					}
				}
			})
		}
	}
}

// thin leaves out a part of the lines of a body, one run in parts, and gives others other values.
func thin(rand *rand.Rand, body []byte, parts int) []byte {
	var to []byte
	out := 0
	for line := range bytes.Lines(body) {
		if out == 0 && rand.IntN(parts*4) == 0 {
			out = 1 + rand.IntN(8)
		}
		if out > 0 {
			out--
			continue
		}
		if i := bytes.LastIndexByte(line, ' '); line[0] != '#' && bytes.Count(line, []byte(" ")) == 1 && rand.IntN(3) == 0 {
			line = fmt.Appendf(bytes.Clone(line[:i+1]), "%d\n", rand.IntN(100))
		}
		to = append(to, line...)
	}
	return to
}

// TestGapsAgree drives bodies that leave out now this part and now that one through a parser and its plain twin.
func TestGapsAgree(t *testing.T) {
	bodies := corpus(t)
	for _, contentType := range []string{text, openMetrics} {
		for n := range 24 {
			body := []byte(small)
			if n%3 > 0 {
				body = bodies[n%3*3-3]
				body = body[:bytes.LastIndexByte(body[:12000], '\n')+1]
			}
			p := newTwins(func(o *Options) {
				variants(uint8(n))(o)
				if o.SampleLimit, o.CompactAfter = 0, 5; n%2 == 0 {
					o.EndAfter = 4
				}
			})
			rand := rand.New(rand.NewPCG(uint64(n), 3))
			for i := range int64(30) {
				b := body
				if rand.IntN(4) > 0 {
					b = thin(rand, body, 1+rand.IntN(40))
				}
				if contentType == openMetrics {
					b = append(bytes.Clone(b), "# EOF\n"...)
				}
				p.parse(t, b, contentType, now+i)
			}
		}
	}
}

// TestGaps sees to it that series which are absent now and then do not cost the script, nor any allocation.
func TestGaps(t *testing.T) {
	const (
		first = "# TYPE a gauge\na{x=\"1\"} 1\na{x=\"2\"} 2\na{x=\"3\"} 3\n"
		whole = "# TYPE b counter\nb{x=\"1\"} 1\nb{x=\"2\"} 2\n"
		last  = "# TYPE c gauge\nc 1\n"
		added = "# TYPE d gauge\nd 1\n"
	)
	p := newParser(nil)
	parse := func(body string, want int) {
		t.Helper()
		res, err := p.Parse([]byte(body), text, now)
		if err != nil || res.Whole.Samples() != 1+strings.Count(body, "} ")+strings.Count(body, "c 1\n")+strings.Count(body, "d 1\n") {
			t.Fatalf("%v, %d samples of\n%s", err, res.Whole.Samples(), body)
		}
		if res.Added != want {
			t.Errorf("%d series added, want %d, by\n%s", res.Added, want, body)
		}
	}
	parse(first+whole+last, 6)
	script := p.known.script
	gap := strings.Replace(first, "a{x=\"2\"} 2\n", "", 1)
	parse(gap+whole+last, 0)   // a series
	parse(first+last, 1)       // a family
	parse(first+whole, 2)      // the end
	parse(first+whole+last, 1) // nothing
	bodies := [][]byte{[]byte(gap + last), []byte(first + whole), []byte(first + whole + last)}
	allocs := testing.AllocsPerRun(20, func() {
		for _, b := range bodies {
			if _, err := p.Parse(b, text, now); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for three bodies", allocs)
	}
	if p.known.script != script {
		t.Error("the script was replaced for a gap")
	}
	parse(first+last+added, 1)
	if n := len(p.known.script.lines); n != 5 {
		t.Errorf("a script of %d lines after a new series, want those of the body", n)
	}
}

// Where the lines that tell the metadata are missing, a series stands under others than the script says.
func TestGapsInMetadata(t *testing.T) {
	f := func(bodies ...string) {
		t.Helper()
		p := newTwins(nil)
		for i, b := range bodies {
			p.parse(t, []byte(b), text, now+int64(i))
		}
	}
	const a, b, c = "# TYPE a gauge\na 1\n", "# TYPE b gauge\nb 1\n", "# HELP c C.\nc 1\n"
	f(a+b+c, a+c, a+b+c)
	f(a+"b 1\nb{x=\"1\"} 2\n", a+"b{x=\"1\"} 2\n", a+"# TYPE b counter\nb{x=\"1\"} 2\n")
	f(a+b+"b{x=\"1\"} 2\n", a+"b{x=\"1\"} 2\n")
	f(a+"# TYPE h histogram\nh_count 1\n# HELP q Q.\nq{quantile=\"1\"} 1\n", a+"# HELP q Q.\nq{quantile=\"1\"} 1\n")
	f(a+"# TYPE a_b gauge\na_b 1\n# HELP a A.\na{x=\"1\"} 1\n", a+"# HELP a A.\na{x=\"1\"} 1\n")
	f("x 1\n# TYPE b summary\nb{quantile=\"1\"} 1\n# TYPE c gauge\nc 1\nb{quantile=\"2\"} 2\n", "x 1\nb{quantile=\"2\"} 2\n")
	f("x 1\n"+b+"# HELP b B.\nb{x=\"1\"} 1\n", "x 1\n# HELP b B.\nb{x=\"1\"} 1\n")
	f("x 1\n# a comment\na 1\na 2\nb 1\n", "x 1\na 1\nb 1\n", "x 1\na 1\na 2\nb 1\n")
}

// A series that was away while the script was kept may come back as something else.
func TestTurncoats(t *testing.T) {
	const (
		with    = "# TYPE a gauge\na 1\na{x=\"1\"} 2\n# TYPE b gauge\nb 1\n"
		without = "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n"
	)
	for _, back := range []string{
		with,
		"# TYPE a gauge\na 1\na{x=\"1\"} 2 1699999999000\n# TYPE b gauge\nb 1\n",
		"# TYPE a gauge\na 1\na{x=\"1\"} 2 1699999999000\na{x=\"1\"} 3 1699999999001\na{x=\"1\"} 3\n# TYPE b gauge\nb 1\n",
		"# TYPE a gauge\na 1\n# TYPE b gauge\na{x=\"1\"} 3\nb 1\na{x=\"1\"} 3\n",
		"# TYPE a gauge\na{x=\"1\"} 2 1699999999000\na 1\na{x=\"1\"} 2\n# TYPE b gauge\nb 1\n",
		"# TYPE a counter\na 1\na{x=\"1\"} 2\n# TYPE b gauge\nb 1\n",
		"a{x=\"1\"} 2 1699999999000\n# TYPE a gauge\na 1\na{x=\"1\"} 2\n# TYPE b gauge\nb 1\n",
		"# TYPE a gauge\na 1\na{ x=\"1\"} 2\na{x=\"1\"} 2 1699999999000\n# TYPE b gauge\nb 1\n",
	} {
		for n := range uint8(4) {
			p := newTwins(variants(n))
			for i, body := range []string{with, without, back, back, without, with, back, "", without, back, "}", back} {
				p.parse(t, []byte(body), text, now+int64(i))
			}
		}
	}
}

// TestHeldValues changes values of all lengths by one digit, in all places of a body.
func TestHeldValues(t *testing.T) {
	p := newTwins(nil)
	digits := "1234567890.123456789012345"
	for i := range 3 {
		for n := range len(digits) {
			for _, last := range []string{"", "1", "2", "12", "e5", "e6"} {
				v := digits[:n] + last
				if v == "" {
					continue
				}
				body := fmt.Sprintf("a %s\nb %s\nc %s\nd %s\n", v, digits[:1+i], v, v)
				p.parse(t, []byte(body), text, now)
				p.parse(t, []byte(body), text, now)
			}
		}
	}
}

// A column has two spellings, of which now this one and now that one comes: what is held is that of the column.
func TestHeldSpellings(t *testing.T) {
	p := newTwins(nil)
	for i, body := range []string{
		"a{x=\"1\"} 1\na{x=\"1\",} 2\nb 1\n", "a{x=\"1\",} 2\nb 1\n", "a{x=\"1\"} 1\na{x=\"1\",} 2\nb 1\n", "a{x=\"1\"} 1\nb 1\n", "a{x=\"1\",} 1\nb 1\n",
		"a{x=\"1\",} 7\nb 1\n", "a{x=\"1\"} 7\nb 1\n", "a{x=\"1\",} 2\na{x=\"1\"} 1\nb 1\n",
	} {
		p.parse(t, []byte(body), text, now+int64(i))
	}
}

func TestBits(t *testing.T) {
	rand := rand.New(rand.NewPCG(1, 4))
	for range 2000 {
		n := 1 + rand.IntN(200)
		b, plain := series.Bitmap(nil, n), make([]bool, n)
		first := rand.IntN(n)
		last := first + rand.IntN(n-first+1)
		for range rand.IntN(6) {
			i := rand.IntN(n)
			series.SetBit(b, i)
			plain[i] = true
		}
		want := 0
		for i := first; i < last; i++ {
			if !plain[i] {
				plain[i] = true
				want++
			}
		}
		if got := setBits(b, first, last); got != want {
			t.Fatalf("%d bits of [%d,%d) were free, want %d", got, first, last, want)
		}
		from := rand.IntN(n)
		set, free := from, from
		for ; set < n && !plain[set]; set++ {
		}
		for ; free < n && plain[free]; free++ {
		}
		if got := nextBit(b, from, n); got != set {
			t.Fatalf("next bit from %d on is %d, want %d", from, got, set)
		}
		if got := nextFreeBit(b, from, n); got != free {
			t.Fatalf("next free bit from %d on is %d, want %d", from, got, free)
		}
		for i := range plain {
			if hasBit(b, i) != plain[i] {
				t.Fatalf("bit %d is %t", i, !plain[i])
			}
		}
	}
}
