package natsd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/bus"
)

const (
	// storageEvery is how often JetStream's health is looked at while nothing hints that it is bad.
	storageEvery = 15 * time.Second
	hintsEvery   = 200 * time.Millisecond
	// storageRetryMin is how often the disk is looked at while JetStream cannot write. The pause grows to
	// storageRetryMax when JetStream fails again and again although the disk seems good.
	storageRetryMin = time.Second
	storageRetryMax = time.Minute
	// A disk has space again when so much is free, or this part of it if that is less: with every block that somebody
	// deletes, JetStream would start and fail.
	freeEnough     = 64 << 20
	freeEnoughPart = 20
	// probeBytes are written to see whether the disk takes them: quotas and broken disks do not show in what is free.
	probeBytes = 1 << 20
)

// storage sees to it that JetStream can write. A write that fails, as on a full disk, leaves JetStream in an error that
// it keeps when there is space again: publishes get no answer, and in a cluster it may turn itself off. So JetStream is
// started anew, in the running server, once the disk takes data again.
//
// Until then a single server refuses publishes in so many words. Without an answer every client would wait for its
// timeout, give up its connection and make another.
type storage struct {
	*Server
	config  server.JetStreamConfig
	root    bus.Root
	stream  string
	report  func(problem string)
	hint    <-chan struct{}
	refusal *nats.Conn // answers publishes meanwhile; nil if nothing does

	up          prometheus.Gauge
	restarts    prometheus.Counter
	refused     prometheus.Counter
	free        prometheus.GaugeFunc
	lastProblem string
}

func newStorage(s *Server, o *Options, options *server.Options) *storage {
	st := &storage{
		Server: s, root: o.Root, stream: o.Stream.Name, report: o.Report, hint: s.logger.trouble,
		config: server.JetStreamConfig{ // as the server makes it when it starts
			StoreDir:     options.StoreDir,
			SyncInterval: options.SyncInterval,
			SyncAlways:   options.SyncAlways,
			Strict:       !options.NoJetStreamStrict,
			MaxMemory:    options.JetStreamMaxMemory,
			MaxStore:     options.JetStreamMaxStore,
			Domain:       options.JetStreamDomain,
			CompressOK:   true,
			UniqueTag:    options.JetStreamUniqueTag,
		},
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_natsd_jetstream_up", Help: "1 while JetStream of the embedded server can store messages.",
		}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_natsd_jetstream_restarts_total",
			Help: "Times that JetStream was started anew in the running server after it could not write.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_natsd_refused_publishes_total", Help: "Frames refused because JetStream could not write.",
		}),
	}
	st.free = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "thalweg_natsd_store_free_bytes",
		Help: "Space left for the embedded server's files; NaN where the system does not say.",
	}, func() float64 { free, _ := diskSpace(options.StoreDir); return free })
	if st.report == nil {
		st.report = func(string) {}
	}
	st.up.Set(1)
	return st
}

func (s *storage) metrics() []prometheus.Collector {
	return []prometheus.Collector{s.up, s.restarts, s.refused, s.free}
}

// run works until ctx ends.
func (s *storage) run(ctx context.Context) {
	defer s.answer()
	s.report("")
	backOff, restarted := storageRetryMin, time.Time{}
	for ctx.Err() == nil {
		problem := s.problem()
		if problem == "" {
			s.tell("")
			s.wait(ctx, hintsEvery, nil)
			s.wait(ctx, storageEvery, s.hint)
			continue
		}
		s.refuse(problem)
		if obstacle := s.obstacle(); obstacle != nil {
			s.tell(obstacle.Error())
			s.wait(ctx, storageRetryMin, nil)
			continue
		}
		if time.Since(restarted) > storageRetryMax {
			backOff = storageRetryMin
		}
		restarted = time.Now()
		s.restart(problem)
		s.tell(s.problem())
		s.wait(ctx, backOff, nil)
		backOff = min(2*backOff, storageRetryMax)
	}
}

// wait returns after a while, at a hint, or when ctx ends.
func (s *storage) wait(ctx context.Context, d time.Duration, hint <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-hint:
	case <-ctx.Done():
	}
}

// warnSmall says so if the disk will be full before the stream is.
func (s *storage) warnSmall(maxBytes float64) {
	used, err := s.nats.Jsz(nil)
	if err != nil {
		return
	}
	if free, _ := diskSpace(s.config.StoreDir); free < maxBytes-float64(used.Store) {
		s.log.Warn("disk will be full before the stream is: set nats.stream.max_bytes lower, or make room", "dir", s.config.StoreDir,
			"free_bytes", int64(free), "stored_bytes", used.Store, "max_bytes", int64(maxBytes))
	}
}

// tell passes on what is wrong, "" for nothing. Only beginning and end are logged: how much is free may change at each
// look.
func (s *storage) tell(problem string) {
	switch {
	case problem == s.lastProblem:
		return
	case problem == "":
		s.log.Info("JetStream can store messages again")
		s.up.Set(1)
	case s.lastProblem == "":
		s.log.Error("JetStream cannot store messages; edges keep them", "err", problem, "dir", s.config.StoreDir)
		s.up.Set(0)
	}
	s.lastProblem = problem
	s.report(problem)
}

// problem is why JetStream cannot store messages, "" if it can as far as is known.
func (s *storage) problem() string {
	if !s.nats.JetStreamEnabled() {
		return "JetStream is off: it could not write"
	}
	health := s.nats.Healthz(&server.HealthzOptions{Details: true})
	for _, e := range health.Errors {
		if strings.Contains(e.Error, writeError) {
			return e.Error
		}
	}
	return ""
}

// writeError stands in what the server says of a stream, or of its part in a cluster, that cannot be written. For what
// it says otherwise, such as of a directory that is no stream or of a replica that lags, starting anew is no cure.
const writeError = " write error: "

// obstacle says why it is too early to start JetStream: the disk does not take data.
func (s *storage) obstacle() error {
	free, size := diskSpace(s.config.StoreDir)
	if enough := min(freeEnough, size/freeEnoughPart); free < enough {
		return fmt.Errorf("disk of %q is full: %.0f MiB are free, JetStream goes on from %.0f MiB", s.config.StoreDir, free/(1<<20), enough/(1<<20))
	}
	return probe(s.config.StoreDir)
}

// probe writes something.
func probe(dir string) (err error) {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}()
	if _, err := f.Write(make([]byte, probeBytes)); err != nil {
		return err
	}
	return f.Sync()
}

// restart stops JetStream and starts it again. What is stored stays, and so do the connections of sites.
func (s *storage) restart(problem string) {
	if err := s.nats.ShutdownJetStream(); err != nil {
		s.log.Error("stop JetStream", "err", err)
		return
	}
	// The server turns JetStream off by itself too, in the background, and as leader of a cluster waits 2 s before. What
	// is started before the end of that is stopped by it in the middle, and in a cluster its streams may never follow
	// their leaders again.
	if s.nats.JetStreamConfig() != nil {
		return
	}
	s.answer() // first: from here on publishes may be stored again
	s.log.Warn("starting JetStream anew, as the disk takes data", "after", problem)
	config := s.config
	if err := s.nats.EnableJetStream(&config); err != nil {
		s.log.Error("start JetStream", "err", err)
		if err := s.nats.ShutdownJetStream(); err != nil { // it is half on
			s.log.Error("stop JetStream", "err", err)
		}
		return
	}
	s.restarts.Inc()
	// The consumers of hubs are gone, and nothing tells them but a new connection.
	if _, err := s.disconnect(func(c *server.ConnInfo) bool { return c.Account == accountCore }); err != nil {
		s.log.Warn("let hubs connect again", "err", err)
	}
}

// refuse answers publishes in JetStream's place from now on, if nobody else can store them.
func (s *storage) refuse(problem string) {
	if s.refusal != nil || !s.capturesLanes() {
		return
	}
	c, err := s.startRefusing(problem)
	if err != nil {
		s.log.Warn("refuse publishes in JetStream's place", "err", err)
		return
	}
	s.refusal = c
}

func (s *storage) startRefusing(problem string) (_ *nats.Conn, err error) {
	text, err := json.Marshal(server.JSPubAckResponse{Error: &server.ApiError{
		Code: http.StatusServiceUnavailable, ErrCode: uint16(server.JSStorageResourcesExceededErr),
		Description: "the NATS server cannot write to its disk: " + strings.TrimSpace(problem[strings.LastIndexByte(problem, ':')+1:]),
	}})
	if err != nil {
		return nil, err
	}
	core := s.Core()
	c, err := nats.Connect("", nats.InProcessServer(s.nats), nats.UserInfo(core.User, core.Password), nats.Name("storage"), nats.NoReconnect())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if _, err := c.Subscribe(s.root.AllLanes(), func(m *nats.Msg) {
		if m.Reply != "" && m.Respond(text) == nil {
			s.refused.Inc()
		}
	}); err != nil {
		return nil, err
	}
	return c, nil
}

// capturesLanes reports whether the frames of sites are stored by this server and no other.
func (s *storage) capturesLanes() bool {
	if s.nats.JetStreamIsClustered() {
		return false
	}
	info, err := s.nats.Jsz(&server.JSzOptions{Account: accountCore, Streams: true, Config: true})
	if err != nil {
		return false
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			if stream.Name == s.stream && stream.Config != nil && slices.Contains(stream.Config.Subjects, s.root.AllLanes()) {
				return true
			}
		}
	}
	return false
}

// answer leaves the answers to JetStream again.
func (s *storage) answer() {
	if s.refusal != nil {
		s.refusal.Close()
		s.refusal = nil
	}
}
