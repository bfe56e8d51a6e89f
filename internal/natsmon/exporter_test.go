package natsmon

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// readerFunc is a Reader that does as told.
type readerFunc func(context.Context) ([]*Server, error)

func (readerFunc) Name() string { return "told" }

func (f readerFunc) Read(ctx context.Context) ([]*Server, error) { return f(ctx) }

// named is a Reader under another name.
type named struct {
	Reader
	name string
}

func (n named) Name() string { return n.name }

// exporterOf reads what it is given. It has no sockets, so that it can live in a bubble.
func exporterOf(t *testing.T, readers ...Reader) *Exporter {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	e := &Exporter{labelled: true, history: newHistory(), log: telemetry.NewRepeats(log, repeatEvery)}
	for _, r := range readers {
		e.targets = append(e.targets, newTarget(r, false, defaultLimits(), e.wire.of(r), e.log))
	}
	return e
}

// alive is what a server says that has nothing to say.
func alive(name string) *Server {
	s := &Server{}
	s.identify(&server.Varz{ID: "N" + name, Name: name, Now: time.Unix(100, 0), Start: time.Unix(0, 0)})
	return s
}

// scrape returns the lines of an answer, but for comments.
func scrape(t *testing.T, h http.Handler, header ...string) map[string]string {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	lines := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		lines[line[:at]] = strings.TrimSpace(line[at+1:])
	}
	return lines
}

func expectLines(t *testing.T, got map[string]string, want ...string) {
	t.Helper()
	for _, line := range want {
		at := strings.LastIndexByte(line, ' ')
		if value, ok := got[line[:at]]; !ok || value != line[at+1:] {
			t.Errorf("%s is %q, want %s", line[:at], value, line[at+1:])
		}
	}
}

// TestSlowTargetsCostOnlyTheirOwn has one server that answers, one that answers in part, one that fails, one that hangs
// until it is told that its time is over, and one that hangs for ever.
func TestSlowTargetsCostOnlyTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		e := exporterOf(t,
			named{readerFunc(func(context.Context) ([]*Server, error) { return []*Server{alive("a")}, nil }), "good"},
			named{readerFunc(func(ctx context.Context) ([]*Server, error) {
				<-ctx.Done()
				s := alive("b")
				s.fail(Jsz, ctx.Err())
				return []*Server{s}, nil
			}), "partial"},
			named{readerFunc(func(context.Context) ([]*Server, error) { return nil, errors.New("connection refused") }), "dead"},
			named{readerFunc(func(ctx context.Context) ([]*Server, error) { <-ctx.Done(); return nil, ctx.Err() }), "slow"},
			named{readerFunc(func(context.Context) ([]*Server, error) { <-release; return nil, nil }), "hung"},
		)
		begin := time.Now()
		got := scrape(t, e.Handler(), "X-Prometheus-Scrape-Timeout-Seconds", "3")
		if took := time.Since(begin); took >= 3*time.Second {
			t.Errorf("the answer took %v of a clock that only this waits on", took)
		}
		expectLines(t, got,
			`nats_up{target="good"} 1`, `nats_up{target="partial"} 1`, `nats_up{target="dead"} 0`, `nats_up{target="slow"} 0`,
			`nats_up{target="hung"} 0`,
			`nats_server_up{server="a"} 1`, `nats_server_up{server="b"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="good"} 0`,
			`nats_scrape_errors_total{endpoint="jsz",target="good"} 0`,
			`nats_scrape_errors_total{endpoint="jsz",target="partial"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="partial"} 0`,
			`nats_scrape_errors_total{endpoint="varz",target="dead"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="slow"} 1`,
			`nats_scrape_errors_total{endpoint="varz",target="hung"} 1`,
		)
		close(release)
		synctest.Wait()
		expectLines(t, scrape(t, e.Handler()), `nats_scrape_errors_total{endpoint="varz",target="hung"} 1`)
	})
}

// TestScrapesShareAReading lets two scrapes come while a reading is under way.
func TestScrapesShareAReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		release := make(chan struct{})
		e := exporterOf(t, readerFunc(func(context.Context) ([]*Server, error) {
			reads.Add(1)
			<-release
			return []*Server{alive("a")}, nil
		}))
		answers := make(chan map[string]string)
		for range 3 {
			go func() { answers <- scrape(t, e.Handler()) }()
		}
		synctest.Wait()
		close(release)
		for range 3 {
			expectLines(t, <-answers, `nats_up{target="told"} 1`)
		}
		if n := reads.Load(); n != 1 {
			t.Errorf("%d readings for three scrapes at once", n)
		}
		scrape(t, e.Handler())
		if n := reads.Load(); n != 2 {
			t.Errorf("%d readings, although a scrape came after them", n)
		}
	})
}

// TestScrapesAtOnce of a real server get the same, also where they share a reading (with -race: nobody changes it).
func TestScrapesAtOnce(t *testing.T) {
	s := startServer(t, storeOf(t))
	js := jetStreamOf(t, s)
	for _, name := range []string{"B", "A"} {
		stream := streamOf(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{name}})
		for _, c := range []string{"b", "a"} {
			if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: c}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []string{"", compatPNE} {
		h := exporterFor(t, s, Config{Embedded: true, Servers: []ServerConfig{{URL: monitorURL(s)}}, Compat: c, CompatPrefix: "gnatsd"}).Handler()
		var scrapers sync.WaitGroup
		for range 8 {
			scrapers.Go(func() {
				for range 5 {
					got := scrape(t, h)
					expectLines(t, got, `nats_up{target="embedded"} 1`, `nats_up{target="`+monitorURL(s)+`"} 1`)
					if n := only(got, "nats_consumer_pending"); n != "more than one" {
						t.Errorf("consumers: %s", n)
					}
				}
			})
		}
		scrapers.Wait()
	}
}

// TestScraperInAHurrySpoilsNothing has one scraper that asks again and again with less time than the server takes, and one
// that has enough.
func TestScraperInAHurrySpoilsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := exporterOf(t, readerFunc(func(ctx context.Context) ([]*Server, error) {
			select {
			case <-time.After(time.Second):
				return []*Server{alive("a")}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}))
		var hurry sync.WaitGroup
		hurry.Go(func() {
			for range 30 {
				scrape(t, e.Handler(), "X-Prometheus-Scrape-Timeout-Seconds", "0.1")
			}
		})
		synctest.Wait()
		expectLines(t, scrape(t, e.Handler(), "X-Prometheus-Scrape-Timeout-Seconds", "3"), `nats_up{target="told"} 1`)
		hurry.Wait()
	})
}

// TestScrapersOneAfterTheOther with the same time each get, of a server that takes longer, what there is by the time of the
// first.
func TestScrapersOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := exporterOf(t, readerFunc(func(ctx context.Context) ([]*Server, error) {
			<-ctx.Done()
			return []*Server{alive("a")}, nil
		}))
		var scrapers sync.WaitGroup
		for range 3 {
			scrapers.Go(func() { expectLines(t, scrape(t, e.Handler()), `nats_up{target="told"} 1`) })
			time.Sleep(time.Millisecond)
		}
		scrapers.Wait()
	})
}

// TestScraperThatLeavesSpoilsNothing lets the scraper go away whose request began the reading.
func TestScraperThatLeavesSpoilsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		e := exporterOf(t, readerFunc(func(ctx context.Context) ([]*Server, error) {
			select {
			case <-release:
				return []*Server{alive("a")}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}))
		ctx, leave := context.WithCancel(t.Context())
		go e.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil))
		synctest.Wait()
		answer := make(chan map[string]string)
		go func() { answer <- scrape(t, e.Handler()) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		close(release)
		expectLines(t, <-answer, `nats_up{target="told"} 1`, `nats_scrape_errors_total{endpoint="varz",target="told"} 0`)
	})
}

func TestPanicIsAnError(t *testing.T) {
	e := exporterOf(t,
		named{readerFunc(func(context.Context) ([]*Server, error) { panic("no such answer") }), "bad"},
		named{readerFunc(func(context.Context) ([]*Server, error) { return []*Server{alive("a")}, nil }), "good"},
	)
	expectLines(t, scrape(t, e.Handler()),
		`nats_up{target="bad"} 0`, `nats_up{target="good"} 1`, `nats_scrape_errors_total{endpoint="varz",target="bad"} 1`)

	s := alive("a")
	askAll(t.Context(), s, 1, []question{{Jsz, func(context.Context) (func(*Server), error) { panic("no such answer") }}})
	if err := s.Errors[Jsz]; err == nil || !strings.Contains(err.Error(), "no such answer") {
		t.Errorf("panic of a question: %v", err)
	}
}

// TestServersOfOneName has one server read in two ways, and another one of the same name.
func TestServersOfOneName(t *testing.T) {
	read := func(id string) readerFunc {
		return func(context.Context) ([]*Server, error) {
			s := alive("a")
			s.ID = id
			return []*Server{s}, nil
		}
	}
	e := exporterOf(t, named{read("N1"), "first"}, named{read("N1"), "again"}, named{read("N2"), "other"})
	expectLines(t, scrape(t, e.Handler()),
		`nats_scrape_omitted_objects{kind="server",target="first"} 0`,
		`nats_scrape_omitted_objects{kind="server",target="again"} 0`,
		`nats_scrape_omitted_objects{kind="server",target="other"} 1`)
}

// TestNamesStayWithTheirServers has the first of two servers of one name go and come back as another one, which it is after a
// restart. The second one does not take its place.
func TestNamesStayWithTheirServers(t *testing.T) {
	now := time.Unix(0, 0)
	first := ""
	read := func(id *string) readerFunc {
		return func(context.Context) ([]*Server, error) {
			if *id == "" {
				return nil, errors.New("connection refused")
			}
			s := alive("a")
			s.ID, s.Varz.ID, s.At = *id, *id, now
			return []*Server{s}, nil
		}
	}
	second := "N2"
	e := exporterOf(t, named{read(&first), "first"}, named{read(&second), "second"})
	expect := func(id string) {
		t.Helper()
		got := scrape(t, e.Handler())
		if _, there := got[`nats_server_info{id="`+id+`",server="a"}`]; there != (id != "") {
			t.Errorf("the name is not of %q", id)
		}
		if n := only(got, "nats_server_info"); (n == "1") != (id != "") {
			t.Errorf("%s of that name", n)
		}
	}
	expect("N2") // which is there alone
	first = "N1"
	expect("N2")
	second = ""
	expect("")
	second = "N3" // a restart
	expect("N3")
	second = ""
	now = now.Add(rememberPeer)
	expect("N1")
	second = "N3"
	expect("N1")
}

// TestServersOfOneNameBehindOneTarget are heard in any order, and it is always the same one that has the name.
func TestServersOfOneNameBehindOneTarget(t *testing.T) {
	var order []string
	e := exporterOf(t, readerFunc(func(context.Context) (servers []*Server, _ error) {
		for _, id := range order {
			s := alive("a")
			s.ID, s.Varz.ID = id, id
			servers = append(servers, s)
		}
		return servers, nil
	}))
	for _, order = range [][]string{{"N1", "N2"}, {"N2", "N1"}, {"N2", "N1"}, {"N1", "N2"}} {
		expectLines(t, scrape(t, e.Handler()), `nats_server_info{id="N1",server="a"} 1`, `nats_scrape_omitted_objects{kind="server",target="told"} 1`)
	}
}

// TestClustersOfOneName are noticed by what their servers do not have: routes to each other.
func TestClustersOfOneName(t *testing.T) {
	read := func(name, routed string) readerFunc {
		return func(context.Context) ([]*Server, error) {
			s := alive(name)
			s.Cluster, s.Routes = "east", &server.Routez{Routes: []*server.RouteInfo{{RemoteID: "N" + routed, RemoteName: routed}}}
			return []*Server{s}, nil
		}
	}
	for other, want := range map[string]bool{"a": false, "d": true} {
		var log strings.Builder
		e := exporterOf(t, named{read("a", "b"), "first"}, named{read("c", other), "second"})
		e.log = telemetry.NewRepeats(slog.New(slog.NewTextHandler(&log, nil)), repeatEvery)
		scrape(t, e.Handler())
		if got := strings.Contains(log.String(), "no route to each other"); got != want {
			t.Errorf("a route from c to %s: %s", other, log.String())
		}
	}
}

// TestFormats of answers: OpenMetrics would lose the types of the basic counters.
func TestFormats(t *testing.T) {
	e := exporterOf(t, readerFunc(func(context.Context) ([]*Server, error) { return []*Server{alive("a")}, nil }))
	for accept, want := range map[string]string{
		"": "text/plain; version=0.0.4",
		"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5":                                   "text/plain; version=0.0.4",
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,text/plain;q=0.1": "application/vnd.google.protobuf",
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		e.Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Content-Type"); !strings.HasPrefix(got, want) {
			t.Errorf("Accept %q: %q", accept, got)
		}
	}
}

func TestScrapeTimeout(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": defaultTimeout, "10": 10 * time.Second, "2.5": 2500 * time.Millisecond, "1e300": maxTimeout, "Inf": maxTimeout,
		"0": defaultTimeout, "-1": defaultTimeout, "NaN": defaultTimeout, "soon": defaultTimeout,
	} {
		h := http.Header{}
		h.Set("X-Prometheus-Scrape-Timeout-Seconds", header)
		if got := scrapeTimeout(h); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

// TestWhoIsLabelled says when the basic metrics name their server.
func TestWhoIsLabelled(t *testing.T) {
	s := startServer(t, "")
	url := ServerConfig{URL: "http://127.0.0.1:1"}
	for want, configs := range map[bool][]Options{
		false: {
			{Config: Config{Embedded: true}, Embedded: s},
			{Config: Config{Servers: []ServerConfig{url}}},
			{Config: Config{Servers: []ServerConfig{url}}, Embedded: s}, // not for the embedded one, which has a listener of its own
		},
		true: {
			{Config: Config{Embedded: true, Servers: []ServerConfig{url}}, Embedded: s},
			{Config: Config{Servers: []ServerConfig{url, url}}},
			{Config: Config{System: []SystemConfig{{URLs: []string{"nats://127.0.0.1:1"}}}}},
		},
	} {
		for i, o := range configs {
			e := exporterFor(t, o.Embedded, o.Config)
			if e.labelled != want {
				t.Errorf("%v, case %d: labelled is %v", want, i, e.labelled)
			}
		}
	}
}

// TestOnlyTheEmbeddedServer is what its own listener serves, whatever else is read.
func TestOnlyTheEmbeddedServer(t *testing.T) {
	s := startServer(t, "")
	e := exporterFor(t, s, Config{Servers: []ServerConfig{{URL: "http://127.0.0.1:1"}}})
	expectLines(t, scrape(t, e.EmbeddedHandler()), `nats_up{target="embedded"} 1`)
	all := scrape(t, e.Handler())
	expectLines(t, all, `nats_up{target="http://127.0.0.1:1"} 0`)
	for line := range all {
		if strings.Contains(line, "embedded") {
			t.Errorf("%s, although the embedded server is not to be among them", line)
		}
	}
}
