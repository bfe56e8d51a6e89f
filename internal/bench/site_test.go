package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// site has targets on loopback that replay the workload. Like client_golang they compress for who asks for it.
type site struct {
	hosts   []string // HOST:PORT of each target
	scrapes atomic.Int64
	samples atomic.Int64
}

func newSite(b *testing.B, corpus string, targets int) *site {
	s := &site{}
	bodies := scrapes(b, corpus)
	for i := range targets {
		t := newTarget(bodies, i)
		var mu sync.Mutex // of t
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			body, series := t.next(), t.series()
			mu.Unlock()
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			var err error
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write(body) // Close repeats the error
				err = z.Close()
			} else {
				_, err = w.Write(body)
			}
			if err != nil {
				return // the program is being stopped
			}
			s.samples.Add(int64(series))
			s.scrapes.Add(1)
		}))
		b.Cleanup(server.Close)
		s.hosts = append(s.hosts, strings.TrimPrefix(server.URL, "http://"))
	}
	return s
}

// series counts the series of the body that next returned last.
func (t *target) series() int {
	n := 0
	for _, l := range t.bodies[(t.step-1)%len(t.bodies)] {
		if l.decimals >= 0 {
			n++
		}
	}
	return n
}

// scrapeConfigs is the section of a configuration file, Prometheus' or ours, that scrapes all targets.
func (s *site) scrapeConfigs(indent string) string {
	return fmt.Sprintf("%[1]sscrape_configs:\n%[1]s- job_name: bench\n%[1]s  static_configs: [{targets: ['%[2]s']}]\n", indent, strings.Join(s.hosts, "', '"))
}

// await waits until every target has been scraped so many more times.
func (s *site) await(b *testing.B, p *program, rounds int) {
	b.Helper()
	goal := s.scrapes.Load() + int64(rounds*len(s.hosts))
	p.await(b, fmt.Sprintf("%d scrapes", goal), func() bool { return s.scrapes.Load() >= goal })
}

// usage is what a program needed over a number of rounds.
type usage struct {
	cpu     time.Duration
	memory  memory // the median after each round, of peak the last
	samples float64
}

func (u usage) perSample() float64 { return u.cpu.Seconds() * 1e6 / u.samples }

// measure returns what the programs need for so many rounds of scrapes, all of which are made by the first.
func (s *site) measure(b *testing.B, rounds int, programs ...*program) []usage {
	b.Helper()
	used := make([]usage, len(programs))
	readings := make([][]memory, len(programs))
	samples := s.samples.Load()
	for i, p := range programs {
		used[i].cpu = -p.cpu(b)
	}
	for range rounds {
		s.await(b, programs[0], 1)
		for i, p := range programs {
			readings[i] = append(readings[i], p.memory(b))
		}
	}
	for i, p := range programs {
		used[i].cpu += p.cpu(b)
		used[i].samples = float64(s.samples.Load() - samples)
		used[i].memory = medians(readings[i])
	}
	return used
}
