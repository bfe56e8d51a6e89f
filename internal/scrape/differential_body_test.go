package scrape

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// bodies generates what a target answers, in one format.
type bodies struct {
	rnd    *rand.Rand
	format format
}

type format int

const (
	plain format = iota
	openMetrics
	protobuf
	formats
)

func (f format) contentType() string {
	switch f {
	case openMetrics:
		return "application/openmetrics-text; version=1.0.0"
	case protobuf:
		return string(expfmt.NewFormat(expfmt.TypeProtoDelim))
	}
	return "text/plain; version=0.0.4"
}

func newBodies(rnd *rand.Rand) *bodies {
	return &bodies{rnd: rnd, format: format(rnd.IntN(int(formats)))}
}

func choose[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

func (g *bodies) chance(p float64) bool { return g.rnd.Float64() < p }

// next returns a body and whether it fails after some samples.
func (g *bodies) next() (body string, broken bool) {
	if g.format == protobuf {
		b := g.protobuf()
		if len(b) > 0 && g.chance(1./8) {
			return b[:len(b)-1], true
		}
		return b, false
	}
	var blocks []string
	for range g.rnd.IntN(12) {
		blocks = append(blocks, g.line())
	}
	for which := range 4 { // each once: conversion to custom buckets lends a histogram the timestamp of the line below it
		if g.chance(0.3) {
			blocks = slices.Insert(blocks, g.rnd.IntN(len(blocks)+1), g.family(which))
		}
	}
	if g.chance(1. / 8) {
		blocks, broken = slices.Insert(blocks, g.rnd.IntN(len(blocks)+1), "}{\n"), true
	}
	body = strings.Join(blocks, "")
	if g.format == openMetrics {
		body += "# EOF\n"
	} else if body == "" {
		body = "\n"
	}
	return body, broken
}

var exposedLabels = []string{
	"", `x="1"`, `x="2"`, `job="mine"`, `instance=""`, `exported_job="e",job="mine"`, `x="1",y="long value"`, `"dotted.label"="v"`,
	`quantile="1"`, `le="5"`,
}

// line is a sample that may stand below any metadata.
func (g *bodies) line() string {
	name := choose(g.rnd, "a", "b", "c_total", "d_bucket", "s", "s2", "s3", "drop_me", "dotted.name")
	number, stamp := choose(g.rnd, "1", "2.5", "NaN", "-Inf", "1e300"), ""
	if strings.HasPrefix(name, "s") {
		// The same time means the same value; Prometheus ends a series for which that is not so.
		number = fmt.Sprint(g.rnd.IntN(5))
		stamp = " 160000000" + number
		if name == "s3" && g.chance(0.2) {
			number, stamp = "9", " 4102444800" // far in the future
		}
		if g.format == plain {
			stamp += "000"
		}
	}
	labels := choose(g.rnd, exposedLabels...)
	if strings.Contains(name, ".") {
		labels = strings.TrimSuffix(fmt.Sprintf("%q,%s", name, labels), ",")
		name = ""
	}
	if labels != "" {
		name += "{" + labels + "}"
	}
	exemplar := ""
	if g.format == openMetrics {
		exemplar = choose(g.rnd, "", "", ` # {id="x"} 1`, ` # {id="y"} 2 1600000000.5`)
	}
	return name + " " + number + stamp + exemplar + "\n"
}

// family is one of four families with its metadata.
func (g *bodies) family(which int) string {
	var b strings.Builder
	about := func(name, typ, unit string) {
		fmt.Fprintf(&b, "# HELP %s Help of %s.\n# TYPE %s %s\n", name, name, name, typ)
		if unit != "" && g.format == openMetrics {
			fmt.Fprintf(&b, "# UNIT %s %s\n", name, unit)
		}
	}
	label := choose(g.rnd, "", `x="1",`)
	switch which {
	case 0:
		about("hist_seconds", "histogram", "seconds")
		count := 0
		for _, le := range []string{"0.5", "1", "10", "+Inf"} {
			if count += g.rnd.IntN(5); g.chance(0.9) {
				fmt.Fprintf(&b, "hist_seconds_bucket{%sle=%q} %d\n", label, le, count)
			}
		}
		fmt.Fprintf(&b, "hist_seconds_sum{%s} 4.5\nhist_seconds_count{%s} %d\n", label, label, count)
	case 1:
		about("summ_seconds", "summary", "seconds")
		fmt.Fprintf(&b, "summ_seconds{%squantile=\"1\"} %d\nsumm_seconds_sum{%s} 1\nsumm_seconds_count{%s} 1\n",
			label, g.rnd.IntN(9), label, label)
	case 2:
		if g.format == openMetrics {
			about("cnt", "counter", "")
			fmt.Fprintf(&b, "cnt_total{%s} %d # {id=\"z\"} 3\ncnt_created{%s} 1500000000\n", label, g.rnd.IntN(9), label)
		} else {
			about("cnt_total", "counter", "")
			fmt.Fprintf(&b, "cnt_total{%s} %d\n", label, g.rnd.IntN(9))
		}
	default:
		about("gauge_bytes", "gauge", "bytes")
		fmt.Fprintf(&b, "gauge_bytes{%s} %d\n", label, g.rnd.IntN(9))
	}
	return b.String()
}

func (g *bodies) protobuf() string {
	var b bytes.Buffer
	encoder := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, name := range []string{"a", "at", "b_total", "summ", "hist", "drop_me", "native", "dotted.name", "gh"} {
		if g.chance(0.4) {
			continue
		}
		f := &dto.MetricFamily{Name: &name, Help: new("Help of " + name + ".")}
		f.Type = map[string]*dto.MetricType{
			"b_total": dto.MetricType_COUNTER.Enum(), "summ": dto.MetricType_SUMMARY.Enum(), "hist": dto.MetricType_HISTOGRAM.Enum(),
			"native": dto.MetricType_HISTOGRAM.Enum(), "gh": dto.MetricType_GAUGE_HISTOGRAM.Enum(),
		}[name]
		if f.Type == nil {
			f.Type = dto.MetricType_GAUGE.Enum()
		}
		for i, x := range []string{"", "1", "2"} {
			if i == 0 || g.chance(0.5) {
				f.Metric = append(f.Metric, g.metric(name, x))
			}
		}
		if err := encoder.Encode(f); err != nil {
			panic(err)
		}
	}
	return b.String()
}

func (g *bodies) metric(name, x string) *dto.Metric {
	m := &dto.Metric{}
	if x != "" {
		m.Label = append(m.Label, &dto.LabelPair{Name: new("x"), Value: &x})
	}
	var started *timestamppb.Timestamp
	if g.chance(0.5) {
		started = &timestamppb.Timestamp{Seconds: 1_500_000_000}
	}
	value := float64(g.rnd.IntN(5))
	exemplars := func() []*dto.Exemplar {
		var all []*dto.Exemplar
		for i := range g.rnd.IntN(3) {
			e := &dto.Exemplar{Value: new(float64(i)), Label: []*dto.LabelPair{{Name: new("id"), Value: new(fmt.Sprint(i))}}}
			if g.chance(0.7) {
				e.Timestamp = &timestamppb.Timestamp{Seconds: 1_600_000_000 - int64(i)}
			}
			all = append(all, e)
		}
		return all
	}
	switch name {
	case "b_total":
		m.Counter = &dto.Counter{Value: &value, CreatedTimestamp: started}
		if all := exemplars(); len(all) > 0 {
			m.Counter.Exemplar = all[0]
		}
	case "summ":
		m.Summary = &dto.Summary{SampleCount: new(uint64(1)), SampleSum: &value, CreatedTimestamp: started,
			Quantile: []*dto.Quantile{{Quantile: new(1.), Value: &value}}}
	case "hist", "native", "gh":
		m.Histogram = g.histogram(name, exemplars())
		m.Histogram.CreatedTimestamp = started
	default:
		m.Gauge = &dto.Gauge{Value: &value}
		if name == "at" {
			m.TimestampMs = new(1_600_000_000_000 + int64(value)*1000)
		}
	}
	return m
}

// histogram is a classic one, a native one, or both, of integers or floats.
func (g *bodies) histogram(name string, exemplars []*dto.Exemplar) *dto.Histogram {
	h := &dto.Histogram{SampleSum: new(12.5)}
	floats := g.chance(0.3)
	total := 0.
	if name != "native" || g.chance(0.5) {
		for i, bound := range []float64{0.5, 1, 10} {
			n := uint64(g.rnd.IntN(5))
			total += float64(n)
			bucket := &dto.Bucket{UpperBound: &bound, CumulativeCount: new(uint64(total))}
			if floats {
				bucket = &dto.Bucket{UpperBound: &bound, CumulativeCountFloat: new(total + 0.5)}
			}
			if i < len(exemplars) {
				bucket.Exemplar = exemplars[i]
			}
			h.Bucket = append(h.Bucket, bucket)
		}
		total += 0.5
	}
	if name != "hist" {
		zero := float64(g.rnd.IntN(3))
		h.Schema, h.ZeroThreshold, h.Exemplars = new(int32(g.rnd.IntN(8))), new(1e-9), exemplars
		h.ZeroCount, h.ZeroCountFloat = new(uint64(zero)), nil
		if total = zero; floats {
			h.ZeroCount, h.ZeroCountFloat = nil, &zero
		}
		before := 0
		for _, offset := range []int32{int32(g.rnd.IntN(10)), 2} {
			span := &dto.BucketSpan{Offset: &offset, Length: new(uint32(1 + g.rnd.IntN(6)))}
			h.PositiveSpan = append(h.PositiveSpan, span)
			for range *span.Length {
				n := g.rnd.IntN(5)
				total += float64(n)
				if floats {
					h.PositiveCount = append(h.PositiveCount, float64(n))
				} else {
					h.PositiveDelta = append(h.PositiveDelta, int64(n-before))
				}
				before = n
			}
		}
	}
	if floats {
		h.SampleCountFloat = &total
	} else {
		h.SampleCount = new(uint64(total))
	}
	return h
}
