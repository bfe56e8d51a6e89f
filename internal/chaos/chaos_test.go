//go:build linux

package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	seedFlag      = flag.Uint64("chaos.seed", 0, "seed of the only schedule; 0: the usual ones and a new one")
	durationFlag  = flag.Duration("chaos.duration", 15*time.Second, "how long things go wrong in each run")
	serversFlag   = flag.Int("chaos.servers", 0, "1: only runs with one server; 3: only those with a cluster")
	withoutFlag   = flag.String("chaos.without", "", "faults of the schedule that are left out, separated by commas: to find those that matter")
	keepFlag      = flag.Bool("chaos.keep", false, "keep the directories, with the logs of all processes")
	fileLimitFlag = flag.Bool("chaos.filelimit", false, "full disks by RLIMIT_FSIZE, as where mounting is not allowed")
)

// TestChaos is what the package is about.
func TestChaos(t *testing.T) {
	type run struct {
		servers int
		seed    uint64
	}
	random := rand.Uint64N(1_000_000) + 1000
	runs := []run{{1, 1}, {1, random}, {3, 2}, {3, random}}
	switch {
	case *seedFlag != 0:
		runs = []run{{1, *seedFlag}, {3, *seedFlag}}
	case testing.Short():
		runs = []run{{1, random}}
	}
	for _, r := range runs {
		if *serversFlag != 0 && *serversFlag != r.servers {
			continue
		}
		t.Run(fmt.Sprintf("servers=%d/seed=%d", r.servers, r.seed), func(t *testing.T) {
			t.Parallel()
			t.Logf("again with: go test ./internal/chaos -v -chaos.servers=%d -chaos.seed=%d -chaos.duration=%s", r.servers, r.seed, *durationFlag)
			s := newStorm(t, r.servers, r.seed, *durationFlag)
			for _, x := range s.steps {
				t.Logf("planned: %6.3f %s", x.At.Seconds(), x)
			}
			s.rage()
			s.settle()
			s.judge()
		})
	}
}
