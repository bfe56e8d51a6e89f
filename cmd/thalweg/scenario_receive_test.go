package main

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdWrite sends a sample of a series, of now, by remote write. Its output is the answer.
func cmdWrite(ts *testscript.TestScript, neg bool, args []string) {
	want, args := option(args, "code", "204")
	token, args := option(args, "token", "")
	usageOf(ts, !neg && len(args) == 3, "write [-code=N] [-token=TOKEN] URL SERIES VALUE")
	series, err := parser.NewParser(parser.Options{}).ParseMetric(args[1])
	ts.Check(err)
	value, err := strconv.ParseFloat(args[2], 64)
	ts.Check(err)
	sample := prompb.TimeSeries{Samples: []prompb.Sample{{Value: value, Timestamp: time.Now().UnixMilli()}}}
	series.Range(func(l labels.Label) {
		sample.Labels = append(sample.Labels, prompb.Label{Name: l.Name, Value: l.Value})
	})
	body, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{sample}}).Marshal()
	ts.Check(err)
	header := http.Header{"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"}}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	code, answer, err := pushRequest(http.MethodPost, args[0], string(s2.EncodeSnappy(nil, body)), header)
	if err != nil || strconv.Itoa(code) != want {
		of(ts).fail(ts, "write %s: code %d, want %s, %v\n%s", args[0], code, want, err, answer)
	}
	fmt.Fprint(ts.Stdout(), answer)
}
