package bench

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	binary   = flag.String("thalweg", "../../bin/thalweg", "program that BenchmarkProcess measures, made by make build")
	profiles = flag.String("profiles", "", "directory for the CPU and heap profiles of the processes at 10,000 samples/s; taking them costs CPU")
)

const (
	starts     = 9  // of which the median counts
	warmUp     = 4  // rounds of scrapes before anything is measured
	measured   = 12 // rounds of scrapes that are measured: a minute
	memoryTime = 90 // rounds, of a second each, until the heap has grown to what the collector lets it
)

// BenchmarkProcess measures the real program between real targets and a hub with its server, all of them processes of
// their own on loopback. Units: us/sample of CPU, user and kernel; MB of RSS; own-MB without the pages of the program's
// file, which the kernel can drop at any time; ms until /-/ready answers with 200.
func BenchmarkProcess(b *testing.B) {
	b.Run("start", benchmarkStart)
	b.Run("node", func(b *testing.B) { benchmarkProcess(b, "node", 100) })
	b.Run("prometheus", func(b *testing.B) { benchmarkProcess(b, "prometheus", 64) })
	b.Run("memory", benchmarkMemory)
	b.Run("outage", benchmarkOutage)
}

// benchmarkStart reports how long an edge and a hub with its server need from exec until they are ready.
func benchmarkStart(b *testing.B) {
	for b.Loop() {
		var edges, hubs []float64
		for range starts {
			begin := time.Now()
			hub := launchHub(b, b.TempDir(), "127.0.0.1:0")
			hub.awaitReady(b)
			hubs = append(hubs, milliseconds(time.Since(begin)))
			begin = time.Now()
			edge := launchEdge(b, hub, nil, "5s")
			edge.awaitReady(b)
			edges = append(edges, milliseconds(time.Since(begin)))
			edge.stop(b)
			hub.stop(b)
		}
		b.ReportMetric(median(edges), "edge-ms")
		b.ReportMetric(median(hubs), "hub-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// benchmarkProcess reports what an edge and a hub need at about 10,000 samples a second.
func benchmarkProcess(b *testing.B, corpus string, targets int) {
	for b.Loop() {
		hub := launchHub(b, b.TempDir(), "127.0.0.1:0")
		s := newSite(b, corpus, targets)
		edge := launchEdge(b, hub, s, "5s")
		s.await(b, edge.program, warmUp)
		profiled := edge.profile(b, "edge-"+corpus)
		profiledHub := hub.profile(b, "hub-"+corpus)
		begin := time.Now()
		used := s.measure(b, measured, edge.program, hub.program)
		profiled()
		profiledHub()
		b.ReportMetric(used[0].samples/time.Since(begin).Seconds(), "samples/s")
		b.ReportMetric(used[0].perSample(), "edge-us/sample")
		b.ReportMetric(used[1].perSample(), "hub-us/sample")
		b.ReportMetric(megabytes(used[0].memory.resident), "edge-MB")
		b.ReportMetric(megabytes(used[1].memory.resident), "hub-MB")
		hub.awaitSeries(b, targets)
		edge.stop(b)
		hub.stop(b)
	}
	b.ReportMetric(0, "ns/op")
}

// benchmarkMemory reports what an edge occupies with one target, and what each further series adds.
func benchmarkMemory(b *testing.B) {
	for b.Loop() {
		hub := launchHub(b, b.TempDir(), "127.0.0.1:0")
		reportMemory(b, func(s *site) *program { return launchEdge(b, hub, s, "1s").program })
		hub.stop(b)
	}
	b.ReportMetric(0, "ns/op")
}

// reportMemory reports what the program occupies that start starts, with one target that is scraped every second, and
// what each series of further targets adds.
func reportMemory(b *testing.B, start func(*site) *program) {
	b.Helper()
	var series, resident []float64
	for _, targets := range []int{1, 20, 100} {
		s := newSite(b, "node", targets)
		p := start(s)
		s.await(b, p, memoryTime)
		used := s.measure(b, measured, p)[0]
		if targets == 1 {
			b.ReportMetric(megabytes(used.memory.resident), "MB")
			b.ReportMetric(megabytes(used.memory.own), "own-MB")
			b.ReportMetric(megabytes(used.memory.peak), "peak-MB")
		}
		series = append(series, used.samples/measured)
		resident = append(resident, used.memory.resident)
		p.stop(b)
	}
	b.ReportMetric(slope(series, resident), "B/further-series")
}

// benchmarkOutage reports what an edge of 20 targets, scraped every second, occupies before, during and after an outage
// of the server.
func benchmarkOutage(b *testing.B) {
	const settle, outage = 30, 60 // rounds
	for b.Loop() {
		dir := b.TempDir()
		hub := launchHub(b, dir, "127.0.0.1:0")
		s := newSite(b, "node", fleet)
		edge := launchEdge(b, hub, s, "1s")
		s.await(b, edge.program, settle)
		before := s.measure(b, measured, edge.program)[0]
		hub.stop(b)
		s.await(b, edge.program, outage-measured)
		during := s.measure(b, measured, edge.program)[0]
		hub = launchHub(b, dir, strings.TrimPrefix(hub.nats, "nats://"))
		s.await(b, edge.program, settle)
		after := s.measure(b, measured, edge.program)[0]
		hub.awaitSeries(b, fleet)
		hub.awaitNoGaps(b)
		b.ReportMetric(megabytes(before.memory.resident), "before-MB")
		b.ReportMetric(megabytes(during.memory.resident), "outage-MB")
		b.ReportMetric(megabytes(after.memory.resident), "after-MB")
		b.ReportMetric(megabytes(after.memory.peak), "peak-MB")
		edge.stop(b)
		hub.stop(b)
	}
	b.ReportMetric(0, "ns/op")
}

// thalweg is a running program of ours.
type thalweg struct {
	*program
	url  string // of its web listener
	nats string // of its embedded server, if it has one
}

func launchThalweg(b *testing.B, config string) *thalweg {
	b.Helper()
	name, err := filepath.Abs(*binary)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "thalweg.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	t := &thalweg{program: launch(b, name, "run", "--config.file="+file, "--web.listen-address=127.0.0.1:0")}
	t.url = t.logged(b, `msg=running .* url=(\S+)`)
	return t
}

// launchHub starts a hub with an embedded server.
func launchHub(b *testing.B, dir, listen string) *thalweg {
	b.Helper()
	hub := launchThalweg(b, fmt.Sprintf("site: centre\ndata_dir: %s\nnats: {embedded: {listen: %q}}\nhub: {}\n", dir, listen))
	hub.nats = hub.logged(b, `msg="NATS server is ready" .*url=(\S+)`)
	return hub
}

// launchEdge starts an edge that scrapes the targets, if there are any.
func launchEdge(b *testing.B, hub *thalweg, s *site, interval string) *thalweg {
	b.Helper()
	config := fmt.Sprintf(`site: bench
data_dir: %s
global: {scrape_interval: %[2]s, scrape_timeout: %[2]s}
nats: {urls: ['%[3]s']}
edge:
  self: true
`, b.TempDir(), interval, hub.nats)
	if s != nil {
		config += s.scrapeConfigs("  ")
	}
	return launchThalweg(b, config)
}

func (t *thalweg) awaitReady(b *testing.B) {
	b.Helper()
	t.await(b, "/-/ready", func() bool {
		status, _ := get(t.url + "/-/ready")
		return status == 200
	})
}

// awaitSeries waits until /federate has every target as up.
func (t *thalweg) awaitSeries(b *testing.B, targets int) {
	b.Helper()
	t.await(b, fmt.Sprintf("%d targets at the hub", targets), func() bool {
		_, body := get(t.url + `/federate?match[]=up{job="bench"}`)
		return strings.Count(body, "\nup{") == targets
	})
}

// awaitNoGaps waits until nothing is missing.
func (t *thalweg) awaitNoGaps(b *testing.B) {
	b.Helper()
	t.await(b, "no gaps", func() bool {
		status, body := get(t.url + "/api/v1/thalweg/gaps")
		return status == 200 && strings.Contains(body, `"data":[]`)
	})
}

// profile begins to take profiles, if that was asked for, and returns the function that waits for their end.
func (t *thalweg) profile(b *testing.B, name string) (wait func()) {
	if *profiles == "" {
		return func() {}
	}
	var group sync.WaitGroup
	for kind, query := range map[string]string{"profile": "?seconds=55", "heap": "?gc=1"} {
		group.Go(func() {
			status, body := get(t.url + "/debug/pprof/" + kind + query)
			if status != 200 {
				b.Errorf("profile of %s: %s", name, body)
				return
			}
			if err := os.WriteFile(filepath.Join(*profiles, name+"."+kind), []byte(body), 0o600); err != nil {
				b.Error(err)
			}
		})
	}
	return group.Wait
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func megabytes(bytes float64) float64 { return bytes / 1e6 }

func median[T cmp.Ordered](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// medians of readings in their order; peak is the last one, which is the highest.
func medians(readings []memory) memory {
	column := func(of func(memory) float64) (all []float64) {
		for _, r := range readings {
			all = append(all, of(r))
		}
		return all
	}
	return memory{
		resident: median(column(func(m memory) float64 { return m.resident })),
		own:      median(column(func(m memory) float64 { return m.own })),
		peak:     readings[len(readings)-1].peak,
	}
}

// slope of the line through the points with the least squares of errors.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}
