package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkPeers measures other agents as BenchmarkProcess measures an edge: the same targets, at the same rate, and a
// receiver in this process that only counts what it is sent. It runs those that are on PATH.
func BenchmarkPeers(b *testing.B) {
	for _, p := range []struct {
		program string
		args    func(config, dir, address, receiver string) []string
	}{
		{"prometheus", func(config, dir, address, _ string) []string {
			return []string{agentFlag(), "--config.file=" + config, "--storage.agent.path=" + dir, "--web.listen-address=" + address}
		}},
		{"vmagent", func(config, dir, address, receiver string) []string {
			return []string{
				"-promscrape.config=" + config, "-promscrape.config.strictParse=false", "-remoteWrite.tmpDataPath=" + dir,
				"-httpListenAddr=" + address, "-remoteWrite.url=" + receiver,
			}
		}},
	} {
		b.Run(p.program, func(b *testing.B) {
			name, err := exec.LookPath(p.program)
			if err != nil {
				b.Skipf("not on PATH: %v", err)
			}
			run := func(s *site, interval string) (*program, *receiver) {
				r := newReceiver(b)
				file := filepath.Join(b.TempDir(), "config.yml")
				config := fmt.Sprintf("global: {scrape_interval: %[1]s, scrape_timeout: %[1]s}\n%[2]sremote_write:\n- url: %[3]s\n",
					interval, s.scrapeConfigs(""), r.url)
				if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
					b.Fatal(err)
				}
				return launch(b, name, p.args(file, b.TempDir(), freeAddress(b), r.url)...), r
			}
			for b.Loop() {
				s := newSite(b, "node", 100)
				agent, received := run(s, "5s")
				s.await(b, agent, warmUp)
				bytes := received.bytes.Load()
				used := s.measure(b, measured, agent)[0]
				b.ReportMetric(used.perSample(), "us/sample")
				b.ReportMetric(float64(received.bytes.Load()-bytes)/used.samples, "B/sample")
				agent.stop(b)
				reportMemory(b, func(s *site) *program {
					agent, _ := run(s, "1s")
					return agent
				})
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// receiver takes remote write requests and counts their bytes, headers included.
type receiver struct {
	url   string
	bytes atomic.Int64
}

func newReceiver(b *testing.B) *receiver {
	r := &receiver{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		n, err := io.Copy(io.Discard, request.Body)
		if err != nil {
			return // the agent is being stopped
		}
		r.bytes.Add(n + httpHeaders)
		w.WriteHeader(http.StatusNoContent)
	}))
	b.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// agentFlag is what makes a Prometheus an agent, which changed with its third version.
func agentFlag() string {
	help, _ := exec.Command("prometheus", "--help").CombinedOutput() // an error shows when it is started
	if strings.Contains(string(help), "--[no-]agent") || strings.Contains(string(help), "--agent") {
		return "--agent"
	}
	return "--enable-feature=agent"
}

// freeAddress is for programs that do not say which port they got.
func freeAddress(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
