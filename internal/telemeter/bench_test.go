package telemeter

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
)

// BenchmarkPush turns the push of a cluster, 2000 series in 200 KB, into a row.
func BenchmarkPush(b *testing.B) {
	var text strings.Builder
	const families, each = 200, 10
	for i := range families {
		fmt.Fprintf(&text, "# TYPE cluster_metric_%d gauge\n", i)
		for k := range each {
			fmt.Fprintf(&text, "cluster_metric_%d{_id=\"a5a5cd29-7a5c-4c27\",namespace=\"openshift-monitoring\",pod=\"pod-%d\"} %d 1772366390000\n", i, k, i*k)
		}
	}
	parsed, err := decodeText([]byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	body := delimit(b, parsed)
	catalog := series.NewCatalog()
	match, err := pipeline.ParseMatch([]string{`{__name__="up"}`, `{__name__=~"cluster_.*"}`})
	if err != nil {
		b.Fatal(err)
	}
	rules, err := pipeline.New(pipeline.Options{Catalog: catalog, Match: []pipeline.Selection{match}})
	if err != nil {
		b.Fatal(err)
	}
	header, now := http.Header{"Content-Type": {asClients["Content-Type"]}}, time.UnixMilli(1772366400123)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		all, err := decode(body, header)
		if err != nil {
			b.Fatal(err)
		}
		j := newJudge("_id", "a5a5cd29-7a5c-4c27", "site", now)
		if all, err = j.families(all); err != nil {
			b.Fatal(err)
		}
		row, err := j.toRow(all, catalog, rules, time.Minute, now)
		if err != nil || row.Samples() != families*each || !labels.Equal(row.Source.Labels, labels.FromStrings("_id", j.id)) {
			b.Fatal(err)
		}
	}
}
