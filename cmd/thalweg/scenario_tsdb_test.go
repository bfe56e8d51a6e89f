package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// tsdbReceiver is a program: tsdb-receiver DIRECTORY ADDRESS WINDOW-MINUTES. It is the storage of the current Prometheus
// behind what it takes for remote write 2.0, and behind remote read; Debian's Prometheus, which the scenarios have for
// 1.0, does not know 2.0.
func tsdbReceiver() {
	err := func() error {
		minutes, err := strconv.Atoi(os.Args[3])
		if err != nil {
			return err
		}
		o := tsdb.DefaultOptions()
		o.OutOfOrderTimeWindow = int64(minutes) * 60_000
		o.EnableExemplarStorage, o.MaxExemplars = true, 10_000
		o.EnableSTStorage, o.FloatChunkEncoding, o.EnableHistogramSTEncoding = true, chunkenc.EncXOR2, true
		o.EnableMetadataWALRecords = true
		db, err := tsdb.Open(os.Args[1], slog.New(slog.NewTextHandler(os.Stderr, nil)), nil, o, nil)
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/api/v1/write", func(w http.ResponseWriter, r *http.Request) { storeWrite(db, w, r) })
		mux.HandleFunc("/api/v1/read", func(w http.ResponseWriter, r *http.Request) { answerRead(db, w, r) })
		return http.ListenAndServe(os.Args[2], mux)
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// storeWrite takes a request of 2.0 as Prometheus does: what is good is stored, with starts, types, helps and units; the rest
// is counted and named. Prometheus' own handler is not used because its package needs the modules of an OpenTelemetry
// collector.
func storeWrite(db *tsdb.DB, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	request, err := parseWrite(r.Header, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if request.v2 == nil {
		http.Error(w, "this one takes 2.0", http.StatusUnsupportedMediaType)
		return
	}
	x := storing{app: db.AppenderV2(r.Context()), b: labels.NewScratchBuilder(0)}
	for i := range request.v2.Timeseries {
		x.series(&request.v2.Timeseries[i], request.v2.Symbols)
	}
	if err := x.app.Commit(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(x.samples))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(x.histograms))
	w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(x.exemplars))
	if len(x.refused) > 0 {
		fmt.Fprintln(os.Stderr, "refused:", strings.Join(x.refused, "; "))
		http.Error(w, strings.Join(x.refused, "\n"), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// storing is a request that is being stored.
type storing struct {
	app                            storage.AppenderV2
	b                              labels.ScratchBuilder
	samples, histograms, exemplars int
	refused                        []string
}

// series stores a series of a request.
func (x *storing) series(ts *writev2.TimeSeries, symbols []string) {
	ls, err := ts.ToLabels(&x.b, symbols)
	if err != nil {
		x.refused = append(x.refused, err.Error())
		return
	}
	meta, err := ts.ToMetadata(symbols)
	if err != nil {
		x.refused = append(x.refused, err.Error())
	}
	o := storage.AOptions{Metadata: meta}
	for i := range ts.Exemplars {
		e, err := ts.Exemplars[i].ToExemplar(&x.b, symbols)
		if err != nil {
			x.refused = append(x.refused, err.Error())
			continue
		}
		o.Exemplars = append(o.Exemplars, e)
	}
	for _, s := range ts.Samples {
		_, err := x.app.Append(0, ls, s.StartTimestamp, s.Timestamp, s.Value, nil, nil, o)
		x.stored(ls, err, &x.samples, &o)
	}
	for _, h := range ts.Histograms {
		if h.IsFloatHistogram() {
			_, err = x.app.Append(0, ls, h.StartTimestamp, h.Timestamp, 0, nil, h.ToFloatHistogram(), o)
		} else {
			_, err = x.app.Append(0, ls, h.StartTimestamp, h.Timestamp, 0, h.ToIntHistogram(), nil, o)
		}
		x.stored(ls, err, &x.histograms, &o)
	}
}

// stored counts a sample, and the exemplars that go with the first one of a series.
func (x *storing) stored(ls labels.Labels, err error, n *int, o *storage.AOptions) {
	var partial *storage.AppendPartialError
	if err == nil || errors.As(err, &partial) {
		*n++
		x.exemplars += len(o.Exemplars)
		if partial != nil {
			x.exemplars -= len(partial.ExemplarErrors)
		}
	}
	if err != nil {
		x.refused = append(x.refused, fmt.Sprintf("%v for series %s", err, ls))
	}
	o.Exemplars = nil
}

// startLabel is what samples of 2.0 have in comparisons, beside their labels, if they have a start.
const startLabel = "__start__"

// withStart returns labels with a start in ms.
func withStart(ls labels.Labels, start int64) labels.Labels {
	if start == 0 {
		return ls
	}
	return labels.NewBuilder(ls).Set(startLabel, strconv.FormatInt(start, 10)).Labels()
}

// answerRead returns all there is, with a series for each start.
func answerRead(db *tsdb.DB, w http.ResponseWriter, r *http.Request) {
	response, err := func() ([]byte, error) {
		q, err := db.Querier(math.MinInt64, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchNotEqual, "__name__", ""))
		result := &prompb.QueryResult{}
		for set.Next() {
			byStart := map[int64]*prompb.TimeSeries{}
			it := set.At().Iterator(nil)
			for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
				ts := byStart[it.AtST()]
				if ts == nil {
					ts = &prompb.TimeSeries{Labels: prompb.FromLabels(withStart(set.At().Labels(), it.AtST()), nil)}
					byStart[it.AtST()] = ts
					result.Timeseries = append(result.Timeseries, ts)
				}
				switch kind {
				case chunkenc.ValFloat:
					t, v := it.At()
					ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: t, Value: v})
				case chunkenc.ValHistogram:
					t, h := it.AtHistogram(nil)
					ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(t, h))
				case chunkenc.ValFloatHistogram:
					t, h := it.AtFloatHistogram(nil)
					ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(t, h))
				}
			}
			if it.Err() != nil {
				return nil, it.Err()
			}
		}
		if set.Err() != nil {
			return nil, set.Err()
		}
		return (&prompb.ReadResponse{Results: []*prompb.QueryResult{result}}).Marshal()
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(snappy.Encode(nil, response))
}
