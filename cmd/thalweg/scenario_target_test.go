package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

// scrapeTarget is a scrape target that does as a script says.
type scrapeTarget struct {
	address string
	server  *http.Server // nil while connections are refused

	mu       sync.Mutex
	mode     string
	body     []byte
	requests int
	ticks    int // highest value of the counter that was served
}

func (t *scrapeTarget) set(mode string, body []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mode, t.body = mode, body
}

func (t *scrapeTarget) counts() (requests, ticks int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests, t.ticks
}

// resume begins to take connections again, unless it does.
func (t *scrapeTarget) resume() error {
	if t.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", t.address)
	if err == nil {
		t.serve(l)
	}
	return err
}

func (t *scrapeTarget) serve(l net.Listener) {
	t.server = &http.Server{Handler: t}
	go t.server.Serve(l) // until refuse
}

// refuse ends all connections and takes no more.
func (t *scrapeTarget) refuse() {
	if t.server != nil {
		_ = t.server.Close() // nothing is to be saved
		t.server = nil
	}
}

func (t *scrapeTarget) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	t.requests++
	mode, body := t.mode, t.body
	if mode == "counter" {
		t.ticks++
		body = fmt.Appendf(nil, "# HELP ticks_total Scrapes served.\n# TYPE ticks_total counter\nticks_total %d\n", t.ticks)
	}
	t.mu.Unlock()
	if mode == "noise" {
		for i := range 5000 {
			body = fmt.Appendf(body, "noise{i=\"%d\"} %v\n", i, rand.Float64())
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	if bytes.HasSuffix(body, []byte("# EOF\n")) {
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
	}
	switch mode {
	case "endless":
		line := bytes.Repeat([]byte("filler 1\n"), 1000)
		for r.Context().Err() == nil {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	case "trickle":
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := w.Write([]byte("#")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	default:
		_, _ = w.Write(body) // who does not wait for it does not want it
	}
}

func cmdTarget(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "target NAME serve FILE|counter|noise|garbage|endless|trickle|refuse"
	usageOf(ts, !neg && len(args) >= 2, usage)
	name, mode, s := args[0], args[1], of(ts)
	t := s.targets[name]
	if t == nil {
		l, err := s.ports.listen()
		ts.Check(err)
		t = &scrapeTarget{address: l.Addr().String()}
		t.serve(l)
		s.targets[name] = t
		ts.Setenv(name, t.address)
	}
	var body []byte
	switch mode {
	case "serve":
		usageOf(ts, len(args) == 3, usage)
		body = []byte(ts.ReadFile(args[2]))
	case "garbage":
		body = []byte("\x7fELF\x02\x01\x01 a program, say\n")
	case "counter", "noise", "endless", "trickle":
	case "refuse":
		t.refuse()
		return
	default:
		usageOf(ts, false, usage)
	}
	t.set(mode, body)
	ts.Check(t.resume())
}

func targetOf(ts *testscript.TestScript, name string) *scrapeTarget {
	t := of(ts).targets[name]
	if t == nil {
		ts.Fatalf("there is no target %s", name)
	}
	return t
}

func cmdScraped(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "scraped NAME N")
	t := targetOf(ts, args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	before, _ := t.counts()
	eventually(ts, func() error {
		if now, _ := t.counts(); now < before+n {
			return fmt.Errorf("%s was scraped %d times, want %d", args[0], now-before, n)
		}
		return nil
	})
}

// cmdNewest waits until a hub shows what a counter served last, or later.
func cmdNewest(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 3, "newest ADDRESS SITE NAME")
	_, served := targetOf(ts, args[2]).counts()
	eventually(ts, func() error {
		_, body, err := request("GET", federateURL(args[0], fmt.Sprintf("ticks_total{site=%q}", args[1])))
		if err != nil {
			return err
		}
		values, err := exposition(body)
		if err != nil {
			return err
		}
		for _, value := range values {
			if v, err := strconv.ParseFloat(value, 64); err == nil && int(v) >= served {
				return nil
			}
		}
		return fmt.Errorf("scrape %d is not the newest: %s", served, body)
	})
}

// cmdEveryScrape reads the whole stream as a hub does, and looks for each value that the counter has served so far.
func cmdEveryScrape(ts *testscript.TestScript, neg bool, args []string) {
	h, args := option(args, "holes", "0")
	token, args := option(args, "token", "")
	usageOf(ts, !neg && len(args) == 3, "every-scrape [-holes=N] [-token=TOKEN] NAME NATS SITE")
	holes, err := strconv.Atoi(h)
	ts.Check(err)
	config := bus.DefaultConfig()
	config.URLs = []string{"nats://" + args[1]}
	if token != "" {
		config.TokenFile = ts.MkAbs("scenario.token")
		ts.Check(os.WriteFile(config.TokenFile, []byte(token), 0o600))
	}
	_, served := targetOf(ts, args[0]).counts()
	eventually(ts, func() error {
		seen, err := ticksInStream(config, args[2])
		if err != nil {
			return err
		}
		var missing []string
		for v := 1; v <= served; v++ {
			switch n := seen[v]; {
			case n == 0:
				missing = append(missing, strconv.Itoa(v))
			case n > 1:
				of(ts).fail(ts, "scrape %d of %d is there %d times", v, served, n)
			}
		}
		if len(missing) > holes {
			return fmt.Errorf("of %d scrapes these are not there: %s", served, strings.Join(missing, ", "))
		}
		ts.Logf("%d scrapes, not there: %d", served, len(missing))
		return nil
	})
}

// ticksInStream counts the rows with each value of ticks_total.
func ticksInStream(config bus.Config, site string) (map[int]int, error) {
	conn, err := bus.Connect(bus.Options{Config: config, Name: "scenario", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen := map[int]int{}
	catalog := series.NewCatalog()
	receiver := lane.NewReceiver(lane.ReceiverConfig{Decoder: func(name string) (frame.DecoderConfig, bool) {
		return frame.DecoderConfig{Catalog: catalog}, name == site
	}})
	count := func(_ *lane.Delivery, row *series.Row) {
		for i, c := range row.Schema.Columns() {
			if row.Whole() && i < len(row.Values) && row.Has(i) && c.Labels.Get(model.MetricNameLabel) == "ticks_total" && !math.IsNaN(row.Values[i]) {
				seen[int(row.Values[i])]++
			}
		}
	}
	caughtUp, stop := context.WithCancel(ctx)
	reader, err := conn.NewReader(bus.ReaderOptions{
		Name: "scenario", Subjects: []string{conn.Root().AllLanes()},
		Handle: func(m bus.Message) error {
			from, l, err := conn.Root().ParseLane(m.Subject)
			if err != nil || from != site {
				return nil
			}
			receiver.Step(lane.Message{Site: from, Backfill: l == bus.Backfill, Sequence: m.Sequence, Payload: m.Payload}, lane.Handler{Row: count})
			return nil
		},
		CaughtUp: stop,
	})
	if err != nil {
		return nil, err
	}
	if err := reader.Run(caughtUp); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return seen, ctx.Err()
}
