package expo

import (
	"bytes"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// nativeBody exposes one native histogram of many buckets, as protobuf.
func nativeBody(t *testing.T) (body []byte, contentType string) {
	t.Helper()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "H.", NativeHistogramBucketFactor: 1.01})
	for i := range 1000 {
		h.Observe(float64(i))
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(h)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	if err := expfmt.NewEncoder(&b, format).Encode(families[0]); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), string(format)
}

func TestNativeHistogramLimits(t *testing.T) {
	body, contentType := nativeBody(t)
	f := func(change func(*Options), mostBuckets int, maxSchema int32) {
		t.Helper()
		p := newParser(func(o *Options) { o.NativeHistograms = true; change(o) })
		res, err := p.Parse(body, contentType, now)
		if err != nil || len(res.Whole.Histograms) != 1 {
			t.Fatalf("%d histograms, error %v", len(res.Whole.Histograms), err)
		}
		h := res.Whole.Histograms[0].H
		if n := len(h.PositiveBuckets); n > mostBuckets || h.Schema > maxSchema || h.Count != 1000 {
			t.Errorf("%d buckets of schema %d, %d observations", n, h.Schema, h.Count)
		}
		if len(res.Whole.Starts) != 1 || res.Whole.Schema.Column(1).Family.Type != model.MetricTypeHistogram {
			t.Errorf("starts %v, family %v", res.Whole.Starts, res.Whole.Schema.Column(1).Family)
		}
	}
	f(func(o *Options) {}, 1000, 8)
	f(func(o *Options) { o.BucketLimit = 10 }, 10, 8)
	f(func(o *Options) { o.MinBucketFactor = 1.1 }, 1000, 2)
	f(func(o *Options) { o.MinBucketFactor = 1e9 }, 1000, -4)

	p := newParser(func(o *Options) { o.NativeHistograms = true; o.BucketLimit = 1 })
	_, err := p.Parse(body, contentType, now)
	if l := (*LimitError)(nil); !errors.As(err, &l) || l.Limit != "native_histogram_bucket_limit" {
		t.Errorf("error %v", err)
	}
	// Without native histograms the same body has the classic +Inf bucket, sum and count.
	if res, err := newParser(nil).Parse(body, contentType, now); err != nil || res.Samples != 3 {
		t.Errorf("as classic: %+v, %v", res.Stats, err)
	}
}

func BenchmarkParse(b *testing.B) {
	for i, name := range []string{"node", "prometheus"} {
		b.Run(name, func(b *testing.B) {
			body := corpus(b)[i*3]
			body = append(make([]byte, 0, len(body)+1), body...)
			p := newParser(nil)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			samples := 0
			for b.Loop() {
				res, err := p.Parse(body, text, now)
				if err != nil {
					b.Fatal(err)
				}
				samples += res.Samples
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
		})
	}
}
