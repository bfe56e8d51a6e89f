package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/series"
)

// BenchmarkPush reports what a push of ten series to the Pushgateway API costs, with more and more groups there: us/push
// of processor time, from the request to the answer, the record on disk included, but not the network and not what
// becomes of the row. Ten clients push at a time, each to a group that is there already, for a push waits for a sync that
// up to 20 ms of pushes share. The consistency check is on. To be flat is the promise.
func BenchmarkPush(b *testing.B) {
	for _, groups := range []int64{10, 1000, 100_000} {
		gateway, err := push.Open(push.Options{
			Dir: b.TempDir(), SiteName: "ams-1", Catalog: series.NewCatalog(), Logger: slog.New(slog.DiscardHandler),
			Commit:   func(context.Context, string, []*series.Row) error { return nil },
			Settings: push.Settings{Interval: 15 * time.Second},
		})
		if err != nil {
			b.Fatal(err)
		}
		mux := http.NewServeMux()
		for pattern, h := range gateway.Handlers() {
			mux.Handle(pattern, h)
		}
		one := func(i int64) {
			r := httptest.NewRequest(http.MethodPut, fmt.Sprintf("/metrics/job/batch/instance/i%d", i%groups), strings.NewReader(tenSeries(i)))
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Errorf("a push is answered with %d %s", w.Code, w.Body)
			}
		}
		parallel(500, groups, one)
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			used := processTime(b)
			parallel(10, int64(b.N), one)
			b.ReportMetric(float64((processTime(b)-used).Microseconds())/float64(b.N), "us/push")
			b.ReportMetric(0, "ns/op")
		})
		if err := gateway.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// tenSeries is the body of a push.
func tenSeries(n int64) string {
	var body strings.Builder
	for i := range 5 {
		fmt.Fprintf(&body, "# HELP batch_%d_total What was done in step %[1]d.\n# TYPE batch_%[1]d_total counter\nbatch_%[1]d_total{result=\"ok\"} %[2]d\nbatch_%[1]d_total{result=\"failed\"} %[3]d\n", i, n*7, n%5)
	}
	return body.String()
}

// parallel calls f for 0 to n-1 from some goroutines.
func parallel(goroutines int, n int64, f func(int64)) {
	var next atomic.Int64
	var tasks sync.WaitGroup
	for range goroutines {
		tasks.Go(func() {
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				f(i)
			}
		})
	}
	tasks.Wait()
}

// processTime is what this process has used of processors.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
