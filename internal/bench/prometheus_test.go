package bench

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/httputil"
)

const lookback = 5 * time.Minute

// prometheus is what Prometheus does when it is federated: its database, its encoders, its compression, and its
// handler (web/federate.go of v0.315.0) without what it does for native histograms, of which there are none here, and
// without its metrics. The handler itself would bring the whole server.
type prometheus struct {
	db     *tsdb.DB
	parser parser.Parser
	now    time.Time
}

// newPrometheus opens an empty database in a directory that goes with the test.
func newPrometheus(b testing.TB, now time.Time) *prometheus {
	db, err := tsdb.Open(b.TempDir(), slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		b.Fatal(err)
	}
	db.DisableCompactions()
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	return &prometheus{db: db, parser: parser.NewParser(parser.Options{}), now: now}
}

// appendScrape appends one scrape of a target, as an appender of Prometheus does: all of it or nothing.
func (p *prometheus) appendScrape(b testing.TB, refs []storage.SeriesRef, ls []labels.Labels, t int64, at func(i int) float64) {
	app := p.db.Appender(context.Background())
	for i := range ls {
		ref, err := app.Append(refs[i], ls[i], t, at(i))
		if err != nil {
			b.Fatal(err)
		}
		refs[i] = ref
	}
	if err := app.Commit(); err != nil {
		b.Fatal(err)
	}
}

// handler returns what listens at /federate.
func (p *prometheus) handler() http.Handler {
	return httputil.CompressionHandler{Handler: http.HandlerFunc(p.federation)}
}

type promSample struct {
	metric labels.Labels
	t      int64
	f      float64
}

func (p *prometheus) federation(w http.ResponseWriter, req *http.Request) {
	if err := req.ParseForm(); err != nil {
		panic(err)
	}
	matcherSets, err := p.parser.ParseMetricSelectors(req.Form["match[]"])
	if err != nil {
		panic(err)
	}
	var (
		mint   = timestamp.FromTime(p.now.Add(-lookback))
		maxt   = timestamp.FromTime(p.now)
		format = expfmt.NegotiateAccept(req.Header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText), expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
		enc    = expfmt.NewEncoder(w, format)
	)
	w.Header().Set("Content-Type", string(format))

	q, err := p.db.Querier(mint, maxt)
	if err != nil {
		panic(err)
	}
	defer q.Close()

	vec := make([]promSample, 0, 8000)
	hints := &storage.SelectHints{Start: mint, End: maxt}
	var sets []storage.SeriesSet
	for _, mset := range matcherSets {
		sets = append(sets, q.Select(req.Context(), true, hints, mset...))
	}
	set := storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	it := storage.NewBuffer(int64(lookback / 1e6))
	var chkIter chunkenc.Iterator
	for set.Next() {
		s := set.At()
		chkIter = s.Iterator(chkIter)
		it.Reset(chkIter)
		var t int64
		var f float64
		if it.Seek(maxt) == chunkenc.ValFloat {
			t, f = it.At()
		} else if sample, ok := it.PeekBack(1); ok {
			t, f = sample.T(), sample.F()
		} else {
			continue
		}
		if value.IsStaleNaN(f) {
			continue
		}
		vec = append(vec, promSample{metric: s.Labels(), t: t, f: f})
	}
	if set.Err() != nil {
		panic(set.Err())
	}

	slices.SortFunc(vec, func(a, b promSample) int {
		return strings.Compare(a.metric.Get(model.MetricNameLabel), b.metric.Get(model.MetricNameLabel))
	})

	externalLabels := map[string]string{model.InstanceLabel: ""}
	externalLabelNames := []string{model.InstanceLabel}
	var lastMetricName string
	var protMetricFam *dto.MetricFamily
	for _, s := range vec {
		globalUsed := map[string]struct{}{}
		protMetric := &dto.Metric{}
		err := s.metric.Validate(func(l labels.Label) error {
			if l.Value == "" {
				return nil
			}
			if l.Name == model.MetricNameLabel {
				if l.Value == lastMetricName {
					return nil
				}
				if protMetricFam != nil {
					if err := enc.Encode(protMetricFam); err != nil {
						return err
					}
				}
				protMetricFam = &dto.MetricFamily{Type: dto.MetricType_UNTYPED.Enum(), Name: new(l.Value)}
				lastMetricName = l.Value
				return nil
			}
			protMetric.Label = append(protMetric.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
			if _, ok := externalLabels[l.Name]; ok {
				globalUsed[l.Name] = struct{}{}
			}
			return nil
		})
		if err != nil {
			panic(err)
		}
		for _, ln := range externalLabelNames {
			if _, ok := globalUsed[ln]; !ok {
				protMetric.Label = append(protMetric.Label, &dto.LabelPair{Name: new(ln), Value: new(externalLabels[ln])})
			}
		}
		protMetric.TimestampMs = new(s.t)
		protMetric.Untyped = &dto.Untyped{Value: new(s.f)}
		protMetricFam.Metric = append(protMetricFam.Metric, protMetric)
	}
	if protMetricFam != nil {
		if err := enc.Encode(protMetricFam); err != nil {
			panic(err)
		}
	}
}
