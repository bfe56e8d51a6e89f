package bench

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

const (
	fleet    = 20 // targets of a fleet, and rows of a frame
	single   = 1
	rounds   = 40 // rows of a target between keyframes
	interval = 5 * time.Second
	begin    = int64(1_700_000_000_000)
)

// line is one line of an exposition: a comment, or a series with the space behind it and its value.
type line struct {
	text     string
	value    float64
	decimals int // -1: a comment
}

// scrapes returns the corpus, parsed just enough to replay it with other values.
func scrapes(b testing.TB, name string) (bodies [][]line) {
	files, err := filepath.Glob(filepath.Join("..", "frame", "testdata", "corpus", name, "*.txt.gz"))
	if err != nil || len(files) != 20 {
		b.Fatalf("corpus %s: %d files, %v", name, len(files), err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(z)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		var lines []line
		for l := range bytes.Lines(body) {
			text := string(bytes.TrimSuffix(l, []byte("\n")))
			cut := bytes.LastIndexByte(l, ' ')
			if text == "" || text[0] == '#' {
				lines = append(lines, line{text: text, decimals: -1})
				continue
			}
			value, err := strconv.ParseFloat(text[cut+1:], 64)
			if err != nil {
				b.Fatal(err)
			}
			lines = append(lines, line{text[:cut+1], value, decimalsOf(text[cut+1:])})
		}
		bodies = append(bodies, lines)
	}
	return bodies
}

// decimalsOf counts the digits that a value has behind the point when written without an exponent; 17 for what is no
// decimal. Expositions write from a million on with an exponent: those are the large values that scale and jitter are for.
func decimalsOf(s string) int {
	if strings.ContainsAny(s, "Nn") { // NaN, Inf
		return 17
	}
	mantissa, exponent, _ := strings.Cut(s, "e")
	shift, _ := strconv.Atoi(exponent) // 0 if there is none
	_, fraction, _ := strings.Cut(mantissa, ".")
	return max(0, len(fraction)-shift)
}

// target replays the corpus as one target of the workload.
type target struct {
	index   int
	bodies  [][]line
	grew    map[string]float64 // by series: what a cycle adds, of those that only grew
	grain   map[string]float64 // by series: what all its values are multiples of, a power of two (bytes in pages, sectors)
	last    map[string]float64 // as in the corpus
	current map[string]float64 // as replayed
	factor  float64
	rand    *rand.Rand
	step    int
}

func newTarget(bodies [][]line, index int) *target {
	t := &target{
		index: index, bodies: bodies, grew: map[string]float64{}, grain: map[string]float64{}, last: map[string]float64{}, current: map[string]float64{},
		factor: 1 + float64(index)*0.37, rand: rand.New(rand.NewPCG(uint64(index), 7)), step: index,
	}
	first, seen := map[string]float64{}, map[string]float64{}
	fell := map[string]bool{}
	for _, body := range bodies {
		for _, l := range body {
			if l.decimals < 0 {
				continue
			}
			if before, ok := seen[l.text]; !ok {
				first[l.text] = l.value
			} else if l.value < before {
				fell[l.text] = true
			}
			seen[l.text] = l.value
			if l.decimals == 0 && math.Abs(l.value) < 1<<53 {
				if g := float64(int64(l.value) & -int64(l.value)); g > 0 && (t.grain[l.text] == 0 || g < t.grain[l.text]) {
					t.grain[l.text] = g
				}
			}
		}
	}
	for s, v := range seen {
		if d := v - first[s]; d > 0 && !fell[s] && !math.IsInf(d, 0) {
			t.grew[s] = d
		}
	}
	return t
}

// next returns the target's next body.
func (t *target) next() []byte {
	cycle, at := t.step/len(t.bodies), t.step%len(t.bodies)
	t.step++
	var b bytes.Buffer
	for _, l := range t.bodies[at] {
		b.WriteString(l.text)
		if l.decimals >= 0 {
			b.WriteString(strconv.FormatFloat(t.value(&l, cycle), 'g', -1, 64))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// value scales a value, and jitters what it changed by.
func (t *target) value(l *line, cycle int) float64 {
	v := l.value + float64(cycle)*t.grew[l.text]
	last, known := t.last[l.text]
	t.last[l.text] = v
	if l.decimals > 15 || math.IsNaN(v) || math.IsInf(v, 0) {
		t.current[l.text] = v
		return v
	}
	round := math.Pow10(l.decimals)
	if grain := t.grain[l.text]; grain > 1 {
		round = 1 / grain
	}
	if !known {
		t.current[l.text] = math.Round(v*t.factor*round) / round
		return t.current[l.text]
	}
	delta := (v - last) * t.factor
	if math.Abs(delta)*round >= 10 {
		delta *= 0.8 + 0.4*t.rand.Float64()
	}
	t.current[l.text] = math.Round((t.current[l.text]+delta)*round) / round
	return t.current[l.text]
}

// workload is a number of targets with the parsers of an edge.
type workload struct {
	catalog *series.Catalog
	scripts *expo.Scripts
	targets []*target
	parsers []*expo.Parser
	round   int
}

func newWorkload(b testing.TB, name string, targets int) *workload {
	w := &workload{catalog: series.NewCatalog(), scripts: expo.NewScripts()}
	bodies := scrapes(b, name)
	for i := range targets {
		w.targets = append(w.targets, newTarget(bodies, i))
		w.parsers = append(w.parsers, w.newParser(name, i))
	}
	return w
}

func (w *workload) newParser(name string, i int) *expo.Parser {
	instance := fmt.Sprintf("host-%02d.example.org:9100", i)
	return expo.NewParser(expo.Options{
		Catalog: w.catalog,
		Scripts: w.scripts,
		Source: &series.Source{
			Key: "scrape/" + name + "/" + instance, Labels: labels.FromStrings("instance", instance, "job", name), Interval: interval,
		},
		Map: func(exposed labels.Labels) (labels.Labels, bool, error) { return exposed, true, nil },
	})
}

// time of the row of target i in the current round: scrapes of a site are 10 ms apart.
func (w *workload) time(i int) int64 {
	return begin + int64(w.round)*interval.Milliseconds() + int64(i)*10
}

// parse returns the row of target i for a body.
func (w *workload) parse(b testing.TB, i int, body []byte) *series.Row {
	r, err := w.parsers[i].Parse(body, "text/plain; version=0.0.4", w.time(i))
	if err != nil {
		b.Fatal(err)
	}
	return r.Whole
}

// each runs f for both corpora, as a fleet and as a single target.
func each(b *testing.B, f func(b *testing.B, name string, targets int)) {
	for _, name := range []string{"node", "prometheus"} {
		b.Run(name+"/fleet", func(b *testing.B) { f(b, name, fleet) })
		b.Run(name+"/single", func(b *testing.B) { f(b, name, single) })
	}
}
