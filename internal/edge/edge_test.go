package edge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
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
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

const site = "ams-1"

// logs keeps what is logged, for tests that wait for it, and hands it on.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
	next io.Writer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	return l.next.Write(p)
}

// count counts the lines that have all the words.
func (l *logs) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for line := range strings.SplitSeq(l.text.String(), "\n") {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

const planned = `msg="live lane goes on"`

// sender is a running edge and what its inputs do.
type sender struct {
	t      *testing.T
	edge   *Edge
	conn   *bus.Conn
	logs   *logs
	ahead  *atomic.Int64 // of the edge's clock before the real one, in nanoseconds
	schema *series.Schema
	source *series.Source
	last   int64
	salt   float64         // tells the rows of two processes apart
	rows   map[string]bool // that were accepted
	cancel context.CancelFunc
	done   chan struct{}
}

// start begins a process of a site. What changes the options runs before.
func start(t *testing.T, url, dir string, change ...func(*Options)) *sender {
	t.Helper()
	s := prepare(t, url, dir, change...)
	s.run()
	return s
}

// prepare is start without running it.
func prepare(t *testing.T, url, dir string, change ...func(*Options)) *sender {
	t.Helper()
	s := &sender{t: t, logs: &logs{next: t.Output()}, ahead: &atomic.Int64{}, rows: map[string]bool{}, done: make(chan struct{}), salt: rand.Float64()}
	logger := slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.conn = bustest.Connect(t, bus.Options{Config: bustest.Config(url), Site: site, Logger: logger})
	o := Options{
		Site: site, Config: DefaultConfig(), Dir: dir, Conn: s.conn, Logger: logger, Version: "1.2.3", Lookback: 5 * time.Minute,
		Now: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) },
	}
	o.Config.FlushInterval = model.Duration(time.Minute) // tests flush
	for _, f := range change {
		f(&o)
	}
	catalog := series.NewCatalog()
	var columns []series.Column
	for i := range 5 {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
	}
	s.schema = catalog.Extend(catalog.Empty(), columns)
	s.source = &series.Source{Key: "static/a", Labels: labels.FromStrings("instance", "a", "job", "j"), Interval: time.Second}
	var err error
	if s.edge, err = New(o); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sender) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		_ = s.edge.Run(ctx)
	}()
	s.t.Cleanup(s.stop)
}

// stop ends the process in order.
func (s *sender) stop() {
	select {
	case <-s.done:
		return
	default:
	}
	s.cancel()
	<-s.done
	if err := s.edge.Close(); err != nil {
		s.t.Error(err)
	}
}

// sink makes and accepts rows, and flushes.
func (s *sender) sink(n int) {
	s.t.Helper()
	for range n {
		s.last = max(s.last+1, time.Now().UnixMilli())
		row := series.Row{Source: s.source, Schema: s.schema, T: s.last, Values: []float64{1, float64(s.last), math.Pi * float64(s.last), -1, s.salt}}
		if err := s.edge.Sink(&row); err != nil {
			s.t.Fatal(err)
		}
		s.rows[rowKey(&row)] = true
	}
	if err := s.edge.Flush(); err != nil {
		s.t.Fatal(err)
	}
}

// rowKey tells a row from all others, bit for bit.
func rowKey(r *series.Row) string {
	return fmt.Sprintf("%s %d %x", r.Source.Key, r.T, r.Values)
}

// plannedTimes waits until the edge has begun to publish n times: it has looked at both lanes then.
func (s *sender) plannedTimes(n int) {
	s.t.Helper()
	bustest.WaitFor(s.t, fmt.Sprintf("session %d", n), func() bool { return s.logs.count(planned) >= n })
}

// allStored waits until the server has everything.
func (s *sender) allStored() {
	s.t.Helper()
	bustest.WaitFor(s.t, "acknowledgements", func() bool { return s.edge.outbox.Stats().UnackedFrames == 0 })
}

func (s *sender) noLoss() {
	s.t.Helper()
	if n := testutil.ToFloat64(s.edge.metrics.serverLosses); n != 0 {
		s.t.Errorf("the edge believes that the server lost frames, %v times", n)
	}
}

// reading is the other end: what a hub gets.
type reading struct {
	t    *testing.T
	conn *bus.Conn

	mu       sync.Mutex
	rows     map[string]int
	messages map[bus.Lane]int
	frames   map[bus.Lane]map[frame.ID]int
	receiver *lane.Receiver
	problems []string
	losses   []frame.Loss
}

// read begins to read all lanes from the beginning.
func read(t *testing.T, conn *bus.Conn) *reading {
	t.Helper()
	catalog := series.NewCatalog()
	r := &reading{
		t: t, conn: conn, rows: map[string]int{}, messages: map[bus.Lane]int{},
		frames: map[bus.Lane]map[frame.ID]int{bus.Live: {}, bus.Backfill: {}},
		receiver: lane.NewReceiver(lane.ReceiverConfig{Decoder: func(string) (frame.DecoderConfig, bool) {
			return frame.DecoderConfig{Catalog: catalog}, true
		}}),
	}
	reader, err := conn.NewReader(bus.ReaderOptions{
		Name: "test", Subjects: []string{conn.Root().AllLanes()},
		Handle: func(m bus.Message) error { return r.take(m) },
		Reset: func(bus.Reset) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.receiver.Restart()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = reader.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func (r *reading) take(m bus.Message) error {
	name, l, err := r.conn.Root().ParseLane(m.Subject)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages[l]++
	for rest := m.Payload; len(rest) > 0; {
		h, _, behind, err := frame.Split(rest)
		if err != nil {
			break
		}
		r.frames[l][h.ID]++
		rest = behind
	}
	r.receiver.Step(lane.Message{Site: name, Backfill: l == bus.Backfill, Sequence: m.Sequence, Payload: m.Payload}, lane.Handler{
		Row:     func(_ *lane.Delivery, row *series.Row) { r.rows[rowKey(row)]++ },
		Loss:    func(_ string, l frame.Loss) { r.losses = append(r.losses, l) },
		Problem: func(p lane.Problem) { r.problems = append(r.problems, fmt.Sprintf("%s: %s: %v", l, p.Reason, p.Err)) },
	})
	return nil
}

func (r *reading) count(l bus.Lane) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages[l]
}

// expect waits until all rows of the senders came, and checks that each came once and that nothing is missing.
func (r *reading) expect(senders ...*sender) {
	r.t.Helper()
	want := map[string]bool{}
	for _, s := range senders {
		for key := range s.rows {
			want[key] = true
		}
	}
	bustest.WaitFor(r.t, "all rows", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for key := range want {
			if r.rows[key] == 0 {
				return false
			}
		}
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, n := range r.rows {
		if n > 1 || !want[key] {
			r.t.Errorf("row %s came %d times", key, n)
		}
	}
	if gaps := r.receiver.Site(site).Ledger.Gaps(); len(gaps) > 0 {
		r.t.Errorf("gaps: %+v", gaps)
	}
}

// once checks that no frame stands on a lane twice.
func (r *reading) once(l bus.Lane) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, n := range r.frames[l] {
		if n > 1 {
			r.t.Errorf("frame %s stands %d times on the %s lane", id, n, l)
		}
	}
}

// A server and a link to it that can be harmed.
type place struct {
	servers []*bustest.Server
	proxy   *bustest.Proxy
	hub     *bus.Conn
	reading *reading
	leader  func() *bustest.Server // of the stream, in a cluster
}

func single(t *testing.T) *place {
	t.Helper()
	server := bustest.NewServer(t)
	p := &place{servers: []*bustest.Server{server}, proxy: bustest.NewProxy(t, server.Addr()), hub: bustest.Hub(t, server)}
	p.reading = read(t, p.hub)
	p.leader = func() *bustest.Server { return server }
	return p
}

// cluster has the edge connected to a server that does not lead the stream.
func cluster(t *testing.T) *place {
	t.Helper()
	servers := bustest.NewCluster(t)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	config := bustest.Config(urls...)
	config.Stream.Replicas = 3
	p := &place{servers: servers, hub: bustest.Connected(t, bus.Options{Config: config})}
	bustest.EnsureStream(t, p.hub)
	p.reading = read(t, p.hub)
	p.leader = func() (leader *bustest.Server) {
		bustest.WaitFor(t, "leader of the stream", func() bool {
			data, err := p.hub.Request(t.Context(), "$JS.API.STREAM.INFO."+config.Stream.Name, nil)
			var info struct {
				Cluster struct {
					Leader string `json:"leader"`
				} `json:"cluster"`
			}
			if err != nil || json.Unmarshal(data, &info) != nil {
				return false
			}
			for i, s := range servers {
				if info.Cluster.Leader == fmt.Sprintf("n%d", i+1) {
					leader = s
				}
			}
			return leader != nil
		})
		return leader
	}
	for _, s := range servers {
		if s != p.leader() {
			p.proxy = bustest.NewProxy(t, s.Addr())
		}
	}
	return p
}
