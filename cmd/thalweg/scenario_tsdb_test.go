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

// storeWrite takes a request of 2.0 as Prometheus does: what is good is stored, the rest is counted and named.
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
	app := db.Appender(r.Context())
	b := labels.NewScratchBuilder(0)
	samples, histograms, exemplars := 0, 0, 0
	var refused []string
	for i := range request.v2.Timeseries {
		ts := &request.v2.Timeseries[i]
		ls, err := ts.ToLabels(&b, request.v2.Symbols)
		if err != nil {
			refused = append(refused, err.Error())
			continue
		}
		took := func(err error, n *int) {
			switch {
			case err == nil:
				*n++
			case errors.Is(err, storage.ErrOutOfOrderSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrTooOldSample),
				errors.Is(err, storage.ErrDuplicateSampleForTimestamp), errors.Is(err, storage.ErrOutOfOrderExemplar):
				refused = append(refused, fmt.Sprintf("%v for series %s", err, ls))
			}
		}
		for _, s := range ts.Samples {
			_, err := app.Append(0, ls, s.Timestamp, s.Value)
			took(err, &samples)
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				_, err = app.AppendHistogram(0, ls, h.Timestamp, nil, h.ToFloatHistogram())
			} else {
				_, err = app.AppendHistogram(0, ls, h.Timestamp, h.ToIntHistogram(), nil)
			}
			took(err, &histograms)
		}
		for _, x := range ts.Exemplars {
			e, err := x.ToExemplar(&b, request.v2.Symbols)
			if err == nil {
				_, err = app.AppendExemplar(0, ls, e)
			}
			took(err, &exemplars)
		}
	}
	if err := app.Commit(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(samples))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(histograms))
	w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(exemplars))
	if len(refused) > 0 {
		fmt.Fprintln(os.Stderr, "refused:", strings.Join(refused, "; "))
		http.Error(w, strings.Join(refused, "\n"), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// answerRead returns all there is.
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
			ts := &prompb.TimeSeries{Labels: prompb.FromLabels(set.At().Labels(), nil)}
			it := set.At().Iterator(nil)
			for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
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
			result.Timeseries = append(result.Timeseries, ts)
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
