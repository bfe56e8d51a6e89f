package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/store"
)

// roleVariable makes the test binary one of the processes.
const roleVariable = "THALWEG_CHAOS"

const site = "ams-1"

// speed is how much faster the edge's clock runs, so that minutes of its policies pass in seconds.
const speed = 30

// task is what a process is told.
type task struct {
	Role  string
	Dir   string
	URL   string    // for edge and hub
	Port  int       // for the server
	Start time.Time // of the whole, for the edge's clock
}

// Files in the directory of a process.
const (
	acceptedFile = "accepted" // edge: key T bits epoch first-frame last-frame
	recordedFile = "recorded" // hub: batch key T bits, and a line "start" for each process
	gapsFile     = "gaps"     // hub, at its orderly end: what the output lacks
	statusFile   = "status"   // edge: how it is, now and then
	calmFile     = "calm"     // edge: made by the test when it wants few rows
)

func TestMain(m *testing.M) {
	text := os.Getenv(roleVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the test is gone when its end of the pipe is
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("process", t.Role)
	roles := map[string]func(context.Context, task, *slog.Logger) error{"server": runServer, "edge": runEdge, "hub": runHub}
	if err := roles[t.Role](ctx, t, logger); err != nil {
		logger.Error("process ends", "err", err)
		os.Exit(1)
	}
}

func streamConfig() bus.StreamConfig {
	c := bus.DefaultStreamConfig()
	c.MaxBytes = 256 * units.MiB
	return c
}

func busConfig(url string) bus.Config {
	c := bus.DefaultConfig()
	c.URLs, c.Stream = []string{url}, streamConfig()
	return c
}

func runServer(ctx context.Context, t task, logger *slog.Logger) error {
	cfg := natsd.DefaultConfig()
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", t.Port)
	s, err := natsd.Start(natsd.Options{Config: cfg, StoreDir: t.Dir, Root: bus.DefaultRoot, Stream: streamConfig(), Logger: logger})
	if err != nil {
		return err
	}
	<-ctx.Done()
	s.Close()
	return nil
}

// runEdge makes rows and writes down those that are accepted.
func runEdge(ctx context.Context, t task, logger *slog.Logger) error {
	conn, err := bus.Connect(bus.Options{Config: busConfig(t.URL), Site: site, Name: "edge", Logger: logger})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := edge.DefaultConfig()
	cfg.FlushInterval = model.Duration(100 * time.Millisecond)
	cfg.Outbox.ResendWindow = model.Duration(24 * time.Hour) // whatever the server loses can be sent again
	cfg.KeyframeInterval = model.Duration(45 * time.Second)  // of the fast clock
	e, err := edge.New(edge.Options{
		Site: site, Config: cfg, Dir: filepath.Join(t.Dir, "outbox"), Conn: conn, Logger: logger, Version: "chaos", Lookback: 5 * time.Minute,
		Now: func() time.Time { return t.Start.Add(time.Since(t.Start) * speed) },
	})
	if err != nil {
		return err
	}
	accepted, err := os.OpenFile(filepath.Join(t.Dir, acceptedFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	runCtx, stop := context.WithCancel(context.Background())
	parts.Go(func() { _ = e.Run(runCtx) })
	err = makeRows(ctx, e, accepted, t.Dir)
	stop()
	parts.Wait()
	return errors.Join(err, accepted.Close(), e.Close())
}

// makeRows appends rows of a few sources until ctx ends, and flushes now and then.
func makeRows(ctx context.Context, e *edge.Edge, accepted *os.File, dir string) error {
	catalog := series.NewCatalog()
	var columns []series.Column
	for i := range 3 {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
	}
	schema := catalog.Extend(catalog.Empty(), columns)
	var sources []*series.Source
	for i := range 4 {
		sources = append(sources, &series.Source{
			Key: fmt.Sprintf("static/%d", i), Labels: labels.FromStrings("instance", strconv.Itoa(i), "job", "chaos"), Interval: time.Second,
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last, calm := int64(0), false
	var lines strings.Builder
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if n%10 == 0 && !calm {
			_, err := os.Stat(filepath.Join(dir, calmFile))
			calm = err == nil
		}
		if calm && n%25 != 0 {
			continue
		}
		source := sources[rand.IntN(len(sources))]
		last = max(last+1, time.Now().UnixMilli())
		row := series.Row{Source: source, Schema: schema, T: last, Values: []float64{float64(n), rand.Float64(), math.Float64frombits(rand.Uint64())}}
		first := e.Status().Newest.Number + 1
		if err := e.Sink(&row); err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%s %s %s\n", rowKey(&row), e.Epoch(), strconv.FormatUint(first, 10))
		if !calm && rand.IntN(8) != 0 {
			continue
		}
		if err := e.Flush(); err != nil {
			return err
		}
		newest := e.Status().Newest.Number
		text := strings.ReplaceAll(lines.String(), "\n", fmt.Sprintf(" %d\n", newest))
		if _, err := accepted.WriteString(text); err != nil {
			return err
		}
		lines.Reset()
		if err := os.WriteFile(filepath.Join(dir, statusFile), fmt.Appendf(nil, "%+v\n", e.Status()), 0o600); err != nil {
			return err
		}
	}
}

// rowKey tells a row from all others and says what it holds: source, time, values bit for bit.
func rowKey(r *series.Row) string {
	key := fmt.Sprintf("%s %d ", r.Source.Key, r.T)
	for _, v := range r.Values {
		key += fmt.Sprintf("%016x", math.Float64bits(v))
	}
	return key
}

// recorder is a destination that writes down what it is given.
type recorder struct {
	file  *os.File
	batch int
	lines strings.Builder
}

func (r *recorder) Row(_ *lane.Delivery, row *series.Row) {
	fmt.Fprintf(&r.lines, "%d %s\n", r.batch, rowKey(row))
}

func (r *recorder) Flush(context.Context) error {
	_, err := r.file.WriteString(r.lines.String())
	r.lines.Reset()
	r.batch++
	return err
}

func runHub(ctx context.Context, t task, logger *slog.Logger) error {
	conn, err := bus.Connect(bus.Options{Config: busConfig(t.URL), Name: "hub", Logger: logger})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := hub.DefaultConfig()
	st, err := store.New(store.Options{Config: cfg.Store})
	if err != nil {
		return err
	}
	h, err := hub.New(hub.Options{Config: cfg, Name: "hub", Conn: conn, Store: st, Catalog: series.NewCatalog(), Logger: logger})
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(t.Dir, recordedFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString("\nstart\n"); err != nil {
		return err
	}
	out, err := hub.NewOutput(hub.OutputOptions{Name: "recorder", Dir: t.Dir, Hub: h, Destination: &recorder{file: file}, Oldest: true})
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	errs := make(chan error, 2)
	parts.Go(func() { errs <- h.Run(ctx) })
	parts.Go(func() { errs <- out.Run(ctx) })
	err = <-errs
	if ctx.Err() == nil {
		return fmt.Errorf("a part of the hub ended by itself: %w", err)
	}
	parts.Wait()
	var gaps strings.Builder
	for _, g := range out.Gaps(1 << 20) {
		fmt.Fprintf(&gaps, "%s %s %d %d %d\n", g.Site, g.Epoch, g.From, g.To, g.Rows)
	}
	return errors.Join(err, os.WriteFile(filepath.Join(t.Dir, gapsFile), []byte(gaps.String()), 0o600), out.Close())
}

// readLines calls f with the fields of every whole line of a file that may not be there yet.
func readLines(name string, f func([]string)) error {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	for s.Scan() {
		f(strings.Fields(s.Text()))
	}
	return s.Err()
}
