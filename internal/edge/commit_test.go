package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/outbox"
	"github.com/thalweg/thalweg/internal/series"
)

// row makes a row that differs from all others of the sender.
func (s *sender) row(t int64) *series.Row {
	return &series.Row{Source: s.source, Schema: s.schema, T: t, Values: []float64{1, float64(t), 0, -1, s.salt}}
}

// commit accepts and commits a row.
func (s *sender) commit(ctx context.Context, row *series.Row) error {
	return s.edge.Commit(ctx, func(sink series.Sink) error { return sink(row) })
}

// waiting counts the callers of Commit whose rows were accepted.
func (s *sender) waiting() int {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	return len(s.edge.commits)
}

// A thousand callers that wait at a time share one flush, and what they committed is there once.
func TestCommitsShareAFlush(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	s.edge.turn <- struct{}{} // nobody flushes yet
	var callers sync.WaitGroup
	const n = 1000
	for i := range n {
		row := s.row(time.Now().UnixMilli() + int64(i))
		s.rows[rowKey(row)] = true
		callers.Go(func() {
			if err := s.commit(t.Context(), row); err != nil {
				t.Error(err)
			}
		})
	}
	bustest.WaitFor(t, "all callers", func() bool { return s.waiting() == n })
	if frames := s.edge.outbox.Stats().Frames; frames != 0 {
		t.Fatalf("%d frames are in the outbox before anybody flushed", frames)
	}
	<-s.edge.turn
	callers.Wait()
	if frames := s.edge.outbox.Stats().Frames; frames != 1 {
		t.Errorf("%d frames are in the outbox, want one of all callers", frames)
	}
	if n := testutil.ToFloat64(s.edge.metrics.commits); n != 1 || s.waiting() != 0 {
		t.Errorf("%v flushes, and %d callers are remembered", n, s.waiting())
	}
	p.reading.expect(s)
}

// What was committed survives the process, without a flush of any other kind. Callers come and go all the time.
func TestCommitted(t *testing.T) {
	t.Parallel()
	p := single(t)
	dir := t.TempDir()
	s := prepare(t, p.proxy.URL(), dir)
	var mu sync.Mutex
	var callers sync.WaitGroup
	begun := time.Now().UnixMilli()
	for i := range 20 {
		callers.Go(func() {
			for k := range 20 {
				row := s.row(begun + int64(20*i+k))
				if err := s.commit(t.Context(), row); err != nil {
					t.Error(err)
				}
				mu.Lock()
				s.rows[rowKey(row)] = true
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	if err := s.edge.outbox.Close(); err != nil { // as a crash would, but for the lock
		t.Fatal(err)
	}
	again := start(t, p.proxy.URL(), dir)
	again.rows = s.rows
	p.reading.expect(again)
}

// An error of the outbox is told to those whose rows it took, and to nobody before or after them.
func TestCommitOfLostRows(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir(), func(o *Options) { o.Config.Outbox.MaxBytes = 20_000 })
	if err := s.commit(t.Context(), s.row(1)); err != nil {
		t.Fatal(err)
	}
	s.edge.turn <- struct{}{}
	begun, lost := make(chan struct{}), make(chan struct{})
	var callers sync.WaitGroup
	var refused atomic.Int32
	begin := func(row *series.Row, want error, before func()) {
		callers.Go(func() {
			err := s.edge.Commit(t.Context(), func(sink series.Sink) error {
				before()
				return sink(row)
			})
			if !errors.Is(err, want) {
				t.Errorf("row %d: got %v, want %v", row.T, err, want)
			}
			if err != nil && refused.Add(1) == 2 {
				close(lost)
			}
		})
	}
	begin(s.row(2), outbox.ErrKeyframeNeeded, func() {})
	large := &series.Row{Source: &series.Source{Key: "static/wide", Labels: s.source.Labels}, Schema: wide(40_000), T: 3, Values: []float64{1}}
	begin(large, outbox.ErrKeyframeNeeded, func() {})
	begin(s.row(4), nil, func() {
		close(begun)
		<-lost // its row comes behind the loss
	})
	<-begun
	bustest.WaitFor(t, "two callers with rows", func() bool { return s.waiting() == 2 })
	<-s.edge.turn
	callers.Wait()
	s.allStored()
	p.reading.lacks(2, frame.CauseUnwritten)
}

// Who gives up is not waited for, and the others are served.
func TestCommitGivenUp(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := start(t, p.proxy.URL(), t.TempDir())
	s.edge.turn <- struct{}{}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if err := s.commit(ctx, s.row(1)); !errors.Is(err, gone) || s.waiting() != 0 {
		t.Errorf("error is %v, %d callers are remembered", err, s.waiting())
	}
	<-s.edge.turn
	if err := s.commit(t.Context(), s.row(2)); err != nil {
		t.Error(err)
	}
	refused := errors.New("refused")
	if err := s.edge.Commit(t.Context(), func(series.Sink) error { return refused }); err != refused {
		t.Errorf("error is %v", err)
	}
	if err := s.edge.Commit(t.Context(), func(series.Sink) error { return nil }); err != nil {
		t.Errorf("without a row: %v", err)
	}
	s.rows[rowKey(s.row(1))], s.rows[rowKey(s.row(2))] = true, true
	p.reading.expect(s)
}

// BenchmarkCommit has callers that each wait for a row of 40 counters, as remote write has it, and then make the next one.
// The frames of few callers hold few rows: B/sample says what that costs.
func BenchmarkCommit(b *testing.B) {
	for _, callers := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkCommit(b, callers) })
	}
}

func benchmarkCommit(b *testing.B, callers int) {
	const width = 40
	server := bustest.NewServer(b)
	conn := bustest.Connect(b, bus.Options{Config: bustest.Config(server.URL()), Site: site})
	o := Options{Site: site, Config: DefaultConfig(), Dir: b.TempDir(), Conn: conn, Logger: slog.New(slog.DiscardHandler), Lookback: 5 * time.Minute}
	o.Config.FlushInterval = model.Duration(time.Second)
	e, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	catalog := series.NewCatalog()
	var columns []series.Column
	for i := range width {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d_total", i), "A metric."))
	}
	schema := catalog.Extend(catalog.Empty(), columns)
	var next atomic.Int64
	var tasks sync.WaitGroup
	begun := time.Now()
	for c := range callers {
		tasks.Go(func() {
			row := series.Row{
				Source: &series.Source{Key: fmt.Sprint("write/", c), Labels: labels.FromStrings("job", "j", "instance", fmt.Sprint(c))},
				Schema: schema, Columns: make([]uint32, width), Values: make([]float64, width),
			}
			for i := range width {
				row.Columns[i] = uint32(i)
			}
			for next.Add(1) <= int64(b.N) {
				row.T = time.Now().UnixMilli()
				for i := range row.Values {
					row.Values[i] += float64(i * (c + 7) % 97)
				}
				if err := e.Commit(b.Context(), func(sink series.Sink) error { return sink(&row) }); err != nil {
					b.Error(err)
				}
			}
		})
	}
	tasks.Wait()
	rows, bytes, frames := testutil.ToFloat64(e.metrics.rows), testutil.ToFloat64(e.metrics.frameBytes), testutil.ToFloat64(e.metrics.frames)
	b.ReportMetric(bytes/(rows*width), "B/sample")
	b.ReportMetric(rows/frames, "rows/frame")
	b.ReportMetric(frames/time.Since(begun).Seconds(), "frames/s")
}
