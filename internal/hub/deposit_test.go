package hub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemeter"
)

// pushed is a row of n series with the values v, v+1, ...
func pushed(c *center, n int, v float64) *series.Row {
	var columns []series.Column
	row := &series.Row{
		Source: &series.Source{Key: "telemeter", Labels: labels.FromStrings("_id", "a"), Interval: time.Minute}, T: time.Now().UnixMilli(),
	}
	for i := range n {
		columns = append(columns, series.Synthetic(fmt.Sprintf("metric_%d", i), "A metric."))
		row.Values = append(row.Values, v+float64(i))
	}
	row.Schema = c.catalog.Extend(c.catalog.Empty(), columns)
	return row
}

func (c *center) deposit(t *testing.T, site string, n int, v float64) {
	t.Helper()
	if err := c.Deposits().Store(t.Context(), site, 0, pushed(c, n, v)); err != nil {
		t.Fatal(err)
	}
}

// Rows that two hubs deposit in turn, of different shapes, are one sequence to both, of which nothing is missing.
func TestDepositsOfTwoHubsAreOneLane(t *testing.T) {
	server := bustest.NewServer(t)
	small := func(c *Config) { c.Limits.FrameBytes = 16 << 10 } // so that a row takes several frames
	hubs := []*center{startHub(t, bustest.Hub(t, server), small), startHub(t, bustest.Hub(t, server), small)}
	for i := range 8 {
		hubs[i%2].deposit(t, "a", 100+1000*(i%3), float64(i))
	}
	for _, c := range hubs {
		c.rows(t, "a", 8)
		if s := c.site("a"); s.Missing.Total() != 0 || s.Missing.Gaps != 0 || s.Waiting || s.Live.Problem != "" || s.Live.Last.Number <= 8 {
			t.Errorf("%+v", s)
		}
		if n := c.series(); n != 100+1000*(7%3) {
			t.Errorf("the store has %d series, want those of the last row", n)
		}
	}
	// A hub that begins now has the same, and when the stream has forgotten the site another epoch begins.
	late := startHub(t, bustest.Hub(t, server), small)
	late.rows(t, "a", 8)
	purge(t, server, hubs[0].conn.Root().Lane("a", bus.Live))
	late.deposit(t, "a", 3, 0)
	for _, c := range append(hubs, late) {
		c.rows(t, "a", 9)
		if s := c.site("a"); s.Missing.Total() != 0 || s.Missing.Gaps != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func purge(t *testing.T, server *bustest.Server, subject string) {
	t.Helper()
	nc, err := nats.Connect(server.URL(), nats.UserInfo("@hub", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), bustest.StreamConfig().Name)
	if err == nil {
		err = stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What is beyond the limits of a site is not stored, and its sender is told; readers have nothing more to refuse.
func TestDepositsWithinLimits(t *testing.T) {
	server := bustest.NewServer(t)
	c := startHub(t, bustest.Hub(t, server), func(c *Config) { c.Limits.Series = 1000 })
	f := func(n, want int) {
		t.Helper()
		row, refused := pushed(c, n, 1), 0
		left, err := c.Deposits().Filter("a", []*series.Row{row}, func(r *series.Row, column uint32, why pipeline.Reason) {
			if refused++; r != row || why != pipeline.OverSeries {
				t.Errorf("column %d is refused because of %q", column, why)
			}
		})
		if err == nil {
			err = c.Deposits().Commit(t.Context(), "a", left)
		}
		if err != nil || refused != want {
			t.Errorf("%d samples are refused, want %d: %v", refused, want, err)
		}
	}
	f(200, 0)
	f(1200, 200)
	f(5000, 4000)
	c.rows(t, "a", 3)
	if s := c.site("a"); s.Usage.Held != 0 || c.series() != 1000 || s.Missing.Total() != 0 {
		t.Errorf("readers refuse %d series and have %d, %d rows are missing", s.Usage.Held, c.series(), s.Missing.Total())
	}
	config, _ := c.configured()
	config.Limits.Series, config.Limits.SamplesPerSecond = 400, 5
	if err := c.Apply(*config); err != nil {
		t.Fatal(err)
	}
	f(400, 0) // beyond the rate, which readers let in, too
	c.rows(t, "a", 4)
	if s := c.site("a"); len(s.Refused()) != 0 || s.Missing.Total() != 0 {
		t.Errorf("readers refuse %v, %d rows are missing", s.Refused(), s.Missing.Total())
	}
	_, err := c.Deposits().Filter("a", []*series.Row{pushed(c, 1, 1)}, func(*series.Row, uint32, pipeline.Reason) { t.Error("a sample is refused") })
	if early, ok := errors.AsType[*pipeline.EarlyError](err); !ok || early.Wait < time.Second {
		t.Errorf("samples beyond the rate: %v", err)
	}
}

// Every deposit that succeeds is there once, whoever was faster.
func TestDepositsAtTheSameTime(t *testing.T) {
	server := bustest.NewServer(t)
	hubs := []*center{startHub(t, bustest.Hub(t, server)), startHub(t, bustest.Hub(t, server))}
	var stored atomic.Uint64
	var tasks sync.WaitGroup
	for i := range 6 {
		tasks.Go(func() {
			for k := range 5 {
				if err := hubs[i%2].Deposits().Store(t.Context(), "a", 0, pushed(hubs[i%2], 10, float64(k))); err == nil {
					stored.Add(1)
				}
			}
		})
	}
	tasks.Wait()
	if stored.Load() < 5 {
		t.Fatalf("%d deposits succeeded", stored.Load())
	}
	for _, c := range hubs {
		c.rows(t, "a", stored.Load())
		if s := c.site("a"); s.Missing.Total() != 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestDepositsKeepTheirSpacing(t *testing.T) {
	server := bustest.NewServer(t)
	one, other := startHub(t, bustest.Hub(t, server)), newHub(t, bustest.Hub(t, server)) // which does not run: its clock is set
	if err := one.Deposits().Store(t.Context(), "a", time.Hour, pushed(one, 1, 1)); err != nil {
		t.Fatal(err)
	}
	f := func(name string, err error) {
		t.Helper()
		early, ok := errors.AsType[*telemeter.EarlyError](err)
		if !ok || early.Wait <= 0 || early.Wait > time.Hour {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("ready", other.Deposits().Ready(t.Context(), "a", time.Hour))
	f("store", other.Deposits().Store(t.Context(), "a", time.Hour, pushed(other, 1, 2)))
	if err := other.Deposits().Ready(t.Context(), "b", time.Hour); err != nil {
		t.Errorf("another site: %v", err)
	}
	other.now = func() time.Time { return time.Now().Add(time.Hour) }
	if err := other.Deposits().Ready(t.Context(), "a", time.Hour); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	other.now = func() time.Time { return time.Now().Add(-2 * time.Hour) } // the clock was set right
	if err := other.Deposits().Ready(t.Context(), "a", time.Hour); err != nil {
		t.Errorf("after a row from the future: %v", err)
	}
}

// The lane of an edge is its own.
func TestDepositsLeaveEdgesAlone(t *testing.T) {
	server := bustest.NewServer(t)
	c := startHub(t, bustest.Hub(t, server), func(c *Config) {
		c.Sites, c.StrictSites = map[string]Site{"a": {}}, true
	})
	edge := newWriter(t, server.URL(), "a", 1, 5)
	edge.live(2)
	err := c.Deposits().Store(t.Context(), "a", 0, pushed(c, 1, 1))
	if !errors.Is(err, telemeter.ErrTaken) || !errors.Is(c.Deposits().Ready(t.Context(), "a", 0), telemeter.ErrTaken) {
		t.Errorf("behind an edge: %v", err)
	}
	edge.live(1)
	edge.publish(bus.Live, []byte("no frame"))
	if err := c.Deposits().Store(t.Context(), "a", 0, pushed(c, 1, 1)); !errors.Is(err, telemeter.ErrTaken) {
		t.Errorf("behind garbage: %v", err)
	}
	if err := c.Deposits().Store(t.Context(), "b", 0, pushed(c, 1, 1)); !errors.Is(err, telemeter.ErrNotAdmitted) {
		t.Errorf("a site that is not listed: %v", err)
	}
	c.rows(t, "a", 3)
}

// A row whose acknowledgement is lost with the connection is stored once, and that is known.
func TestDepositWhoseAnswerIsLost(t *testing.T) {
	server := bustest.NewServer(t)
	observer := startHub(t, bustest.Hub(t, server))
	proxy := bustest.NewProxy(t, server.Addr())
	conn := bustest.Connected(t, bus.Options{Config: bustest.Config(proxy.URL())})
	c := newHub(t, conn)
	c.deposit(t, "a", 1, 1)
	p := c.Deposits().depositor("a")
	end, err := p.look(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	p.follow(&end)
	messages, err := p.encode([]*deposit{{rows: []*series.Row{pushed(c, 1, 2)}}})
	if err != nil {
		t.Fatal(err)
	}
	proxy.LoseAnswers(true)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.publish(ctx, &messages[0]) }()
	observer.rows(t, "a", 2)
	proxy.LoseAnswers(false)
	proxy.Cut()
	if err := <-done; err != nil {
		t.Error(err)
	}
	observer.deposit(t, "a", 1, 3)
	observer.rows(t, "a", 3)
}

// A row may be larger than a message, but not a series.
func TestDepositTooLargeForAMessage(t *testing.T) {
	c := startHub(t, bustest.Hub(t, bustest.NewServer(t)))
	wide, help := pushed(c, 1, 0), pushed(c, 1, 0)
	columns := make([]series.Column, 100_000)
	wide.Values = make([]float64, len(columns))
	for i := range columns {
		columns[i] = series.Synthetic(fmt.Sprintf("m_%x", uint64(i+1)*0x9e3779b97f4a7c15), "")
		wide.Values[i] = float64(uint64(i+1) * 0x9e3779b97f4a7c15)
	}
	wide.Schema = c.catalog.Extend(c.catalog.Empty(), columns)
	if err := c.Deposits().Store(t.Context(), "a", 0, wide); err != nil {
		t.Error(err)
	}
	c.rows(t, "a", 1)
	if s := c.site("a"); s.Messages < 2 || c.series() != len(columns) {
		t.Errorf("%d series in %d messages", c.series(), s.Messages)
	}
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte('0' + rand.IntN(64)) // does not compress to half
	}
	help.Schema = c.catalog.Extend(c.catalog.Empty(), []series.Column{series.Synthetic("m", string(noise))})
	if err := c.Deposits().Store(t.Context(), "a", 0, help); !errors.Is(err, telemeter.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if err := c.commit(t, "a", pushed(c, 1, 1)); err != nil {
		t.Errorf("the next one: %v", err)
	}
	c.rows(t, "a", 2)
}
