package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// BenchmarkStoreMemory reports the heap that an active series takes in a hub after an answer with all of them: names,
// schemas, index, values, and what /federate keeps. B/series is a fleet of node_exporters, all with the same series.
// unshared-B/series is the worst case, in which no two series have the same labels: what a kubelet or kube-state-metrics
// exposes has the names of pods in it. Its labels (name, container, namespace, pod) are
// 104 bytes.
func BenchmarkStoreMemory(b *testing.B) {
	for _, size := range []struct {
		name   string
		series int
	}{{"100k", 100_000}, {"1M", 1_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			var shared, unshared float64
			node := nodeColumns(b)
			for b.Loop() {
				shared = storeMemory(b, size.series, func(int) []series.Column { return node })
				unshared = storeMemory(b, size.series, podColumns)
			}
			b.ReportMetric(shared, "B/series")
			b.ReportMetric(unshared, "unshared-B/series")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkApplyWait reports how long a row of a hub with 1M series has to wait at most while /federate answers with all
// of them: the longest that storing any row took, beside the first answer, which builds the index, and the median of
// those beside the others. The pauses of collector, scheduler and machine are in it; idle-wait-ms is the same for equal
// times in which there is nothing but a goroutine that turns.
func BenchmarkApplyWait(b *testing.B) {
	const n = 1_000_000
	node := nodeColumns(b)
	for _, c := range []struct {
		name    string
		columns func(source int) []series.Column
	}{
		{"shared", func(int) []series.Column { return node }},
		{"unshared", podColumns},
	} {
		b.Run(c.name, func(b *testing.B) {
			st, now := filledStore(b, n, c.columns)
			catalog := series.NewCatalog()
			row := bareRow(1_000_000, catalog.Extend(catalog.Empty(), node))
			rank := uint64(0)
			// longest stores a row again and again while f runs, and returns the longest time that took, in ms.
			longest := func(f func()) float64 {
				done := make(chan struct{})
				go func() {
					defer close(done)
					f()
				}()
				for worst := time.Duration(0); ; {
					rank++
					start := time.Now()
					if err := st.Apply("ams-1", store.Rank{Frame: rank}, row, begin); err != nil {
						b.Fatal(err)
					}
					worst = max(worst, time.Since(start))
					select {
					case <-done:
						return float64(worst.Microseconds()) / 1e3
					default:
					}
				}
			}
			start := time.Now()
			first := longest(func() { answerAll(b, st, now) })
			took := time.Since(start)
			var waits, idle []float64
			for b.Loop() {
				waits = append(waits, longest(func() { answerAll(b, st, now) }))
				idle = append(idle, longest(func() {
					for end := time.Now().Add(took); time.Now().Before(end); {
					}
				}))
			}
			slices.Sort(waits)
			slices.Sort(idle)
			b.ReportMetric(first, "first-apply-wait-ms")
			b.ReportMetric(waits[len(waits)/2], "apply-wait-ms")
			b.ReportMetric(idle[len(idle)/2], "idle-wait-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// storeMemory fills a store until it has n series, asks for all of them, and returns the bytes that each takes.
func storeMemory(b *testing.B, n int, columns func(source int) []series.Column) float64 {
	before := heap()
	st, now := filledStore(b, n, columns)
	answerAll(b, st, now)
	after := heap()
	runtime.KeepAlive(st)
	return float64(after-before) / float64(n)
}

// heap is what is allocated after everything has been collected that can be, pools included.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// filledStore has n series of sources with the given columns. All schemas have grown once, as most do sooner or later.
func filledStore(b *testing.B, n int, columns func(source int) []series.Column) (*store.Store, time.Time) {
	st, err := store.New(store.Options{Config: store.DefaultConfig()})
	if err != nil {
		b.Fatal(err)
	}
	catalog := series.NewCatalog()
	for i := 0; n > 0; i++ {
		cs := columns(i)
		cs = cs[:min(n, len(cs))]
		n -= len(cs)
		schema := catalog.Empty()
		for half := range slices.Chunk(cs, (len(cs)+1)/2) {
			schema = catalog.Extend(schema, half)
			if err := st.Apply("ams-1", store.Rank{}, bareRow(i, schema), begin); err != nil {
				b.Fatal(err)
			}
		}
	}
	return st, time.UnixMilli(begin)
}

func bareRow(source int, schema *series.Schema) *series.Row {
	instance := fmt.Sprintf("host-%05d.example.org:9100", source)
	return &series.Row{
		Source: &series.Source{Key: "scrape/node/" + instance, Labels: labels.FromStrings("instance", instance, "job", "node")},
		Schema: schema, T: begin, Values: make([]float64, schema.Len()),
	}
}

// answerAll asks for everything and returns the size of the answer. The handler is gone when it returns.
func answerAll(b *testing.B, st *store.Store, now time.Time) int {
	h, err := federate.New(federate.Options{Select: st.Select, Config: federate.DefaultConfig(), Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	w := &sized{header: http.Header{}}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, `/federate?match[]={__name__=~".%2b"}`, nil))
	if w.bytes == 0 {
		b.Fatal("no answer")
	}
	return w.bytes
}

// nodeColumns are the series of a node_exporter.
func nodeColumns(b *testing.B) []series.Column {
	w := newWorkload(b, "node", single)
	row := w.parse(b, 0, w.targets[0].next())
	columns := slices.Clone(row.Schema.Columns())
	if len(columns) == 0 || columns[0].Family.Name == "" {
		b.Fatalf("%d columns", len(columns))
	}
	return columns
}

// podColumns are series of 25 pods, which no other source has.
func podColumns(source int) []series.Column {
	var columns []series.Column
	for i := range 40 {
		family := series.Family{
			Name: fmt.Sprintf("container_memory_usage_%02d_bytes", i), Type: model.MetricTypeGauge,
			Help: "Current memory usage of a container in bytes, whatever it was last used for.",
		}
		for pod := range 25 {
			columns = append(columns, series.Column{Family: family, Labels: labels.FromStrings(
				"__name__", family.Name, "container", "server", "namespace", fmt.Sprint("team-", pod%7),
				"pod", fmt.Sprintf("checkout-%09d-%05d", source, pod),
			)})
		}
	}
	return columns
}
