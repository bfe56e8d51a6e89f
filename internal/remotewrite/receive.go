package remotewrite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/telemetry"
	"github.com/thalweg/thalweg/internal/writeproto"
)

// Commit takes rows of a site and returns when they are durable: all of them, or an error. Rows are valid until it
// returns. The samples of a series are in the order of their time, and so are the rows of a source unless its schema
// changes between them; calls that have some of the same series come one after the other. An error that is a *Refusal
// says what to answer; after any other one the sender is asked to come again.
type Commit func(ctx context.Context, site string, rows []*series.Row) error

// Refusal is an error of Commit that is an answer.
type Refusal struct {
	Status     int
	RetryAfter time.Duration // 0: no such header
	Err        error
}

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

// ReceiverOptions of NewReceiver. Catalog, Site, Commit and Logger are required.
type ReceiverOptions struct {
	Catalog *series.Catalog
	// Site says whose series a request brings. Who may send has been decided before.
	Site   func(*http.Request) string
	Commit Commit
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
	// MaxBody bounds a request, before and after decompression. Default 32 MiB.
	MaxBody int
	// MaxSeries bounds the series that are known of a site. Beyond it the sources that are idle for longest are forgotten,
	// and while there are none, further series are refused. Default 1,000,000.
	MaxSeries int
}

const (
	defaultMaxBody   = 32 << 20
	defaultMaxSeries = 1_000_000
	// maxUnderWay bounds the requests of a site that are served at a time; others are asked to come again.
	maxUnderWay = 128
	// commitTimeout bounds how long a sender waits for its samples to be durable.
	commitTimeout = 30 * time.Second
	// comeAgain is what senders are told to wait where this side has trouble.
	comeAgain = 5 * time.Second
	// maxAhead is how far a sample may be ahead of the clock, as in Prometheus.
	maxAhead = 10 * time.Minute
	// maxBodies bounds the bytes of requests in memory, compressed and decompressed, maxSiteBodies those of one site.
	maxBodies, maxSiteBodies = 512 << 20, 128 << 20
	// keptCap bounds what is kept of a request for the next one, in samples; keptBody is that of its bytes.
	keptCap  = 1 << 16
	keptBody = 4 << 20
)

// Receiver is the handler of /api/v1/write. It is safe for concurrent use.
type Receiver struct {
	options ReceiverOptions
	seed    maphash.Seed
	metrics *receiveMetrics
	repeats *telemetry.Repeats

	bodies sync.Pool    // of *requestBody
	plans  sync.Pool    // of *plan
	bytes  atomic.Int64 // of bodies

	mu    sync.Mutex
	sites map[string]*intake
}

// requestBody is what a request takes up until its rows are made.
type requestBody struct {
	compressed bytes.Buffer
	raw        []byte
	batch      *writeproto.Batch
	bytes      int64 // that are booked
}

// book takes note that a body needs so many more bytes, if there is room for them.
func (r *Receiver) book(in *intake, b *requestBody, n int) error {
	b.bytes += int64(n)
	site, all := in.bytes.Add(int64(n)), r.bytes.Add(int64(n))
	if site > maxSiteBodies || all > maxBodies {
		return &failed{reply{status: http.StatusServiceUnavailable, retryAfter: comeAgain, text: "too many bytes of requests are under way"}}
	}
	return nil
}

func (r *Receiver) unbook(in *intake, b *requestBody) {
	in.bytes.Add(-b.bytes)
	r.bytes.Add(-b.bytes)
	b.bytes = 0
}

// bookingReader books what it reads.
type bookingReader struct {
	io.Reader
	book func(n int) error
}

func (r bookingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if full := r.book(n); full != nil {
		err = full
	}
	return n, err
}

// large reports whether the request, or one before it, takes up much.
func (b *requestBody) large() bool {
	return b.compressed.Cap() > keptBody || cap(b.raw) > keptBody || b.batch.Cap() > keptCap
}

// NewReceiver returns a handler that knows no series.
func NewReceiver(o ReceiverOptions) *Receiver {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.MaxSeries == 0 {
		o.MaxSeries = defaultMaxSeries
	}
	r := &Receiver{
		options: o, seed: maphash.MakeSeed(), repeats: telemetry.NewRepeats(o.Logger, time.Minute), sites: map[string]*intake{},
	}
	r.metrics = newReceiveMetrics(r)
	r.bodies.New = func() any { return &requestBody{batch: writeproto.NewBatch(r.seed)} }
	r.plans.New = func() any { return &plan{} }
	return r
}

// Metrics returns the collectors of the receiver.
func (r *Receiver) Metrics() []prometheus.Collector { return r.metrics.all() }

// reply is the answer to a request.
type reply struct {
	status     int
	retryAfter time.Duration
	text       string
	written    count
}

// failed is an error that has an answer.
type failed struct{ reply }

func (f *failed) Error() string { return f.text }

func fail(status int, format string, args ...any) error {
	return &failed{reply{status: status, text: fmt.Sprintf(format, args...)}}
}

// ServeHTTP answers 204 when all samples of a request are durable, and 400 when those are that can be taken but some
// cannot. After any other answer nothing was taken.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	begin := time.Now()
	message, a := r.serve(w, req)
	h := w.Header()
	if message == writeproto.V2 {
		h.Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(a.written.samples))
		h.Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(a.written.histograms))
		h.Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(a.written.exemplars))
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(a.retryAfter.Seconds()))))
	}
	r.metrics.answered(message, &a, time.Since(begin))
	if a.text != "" {
		http.Error(w, a.text, a.status)
		return
	}
	w.WriteHeader(a.status)
}

// serve does what a request asks for. The message is 0 if it is none that is known.
func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) (writeproto.Message, reply) {
	message, err := checkHeader(w, req)
	if err != nil {
		return message, r.explain(req, "", err)
	}
	site := r.options.Site(req)
	in := r.intake(site)
	select {
	case in.underWay <- struct{}{}:
		defer func() { <-in.underWay }()
	default:
		return message, reply{status: http.StatusServiceUnavailable, retryAfter: comeAgain, text: "too many requests are under way"}
	}
	p := r.plans.Get().(*plan)
	defer r.release(p)
	if err := r.plan(p, w, req, in, message); err != nil {
		return message, r.explain(req, site, err)
	}
	if err := r.commit(req.Context(), site, p); err != nil {
		return message, r.explain(req, site, err)
	}
	r.metrics.count(p)
	if p.refused.total > 0 {
		r.repeats.Log(slog.LevelWarn, "refused "+site, "samples of remote write refused", slog.String("site", site),
			slog.Int("refused", p.refused.total), slog.String("example", p.refused.example()))
	}
	a := reply{status: http.StatusNoContent, written: p.written}
	if a.text = p.refused.text(); a.text != "" {
		a.status = http.StatusBadRequest
	}
	return message, a
}

// checkHeader says which message a request holds, before anything of its body is read.
func checkHeader(w http.ResponseWriter, req *http.Request) (writeproto.Message, error) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return 0, fail(http.StatusMethodNotAllowed, "remote write is POST")
	}
	message := writeproto.V1
	if contentType := req.Header.Get("Content-Type"); contentType != "" {
		media, params, err := mime.ParseMediaType(contentType)
		switch proto := params["proto"]; {
		case err != nil || media != "application/x-protobuf":
			return 0, fail(http.StatusUnsupportedMediaType, "Content-Type is %.100q; application/x-protobuf is taken", contentType)
		case proto == "io.prometheus.write.v2.Request":
			message = writeproto.V2
		case proto != "" && proto != "prometheus.WriteRequest":
			return 0, fail(http.StatusUnsupportedMediaType, "Content-Type is %.100q; the messages prometheus.WriteRequest and io.prometheus.write.v2.Request are taken", contentType)
		}
	}
	// Senders of the first years name no encoding, and mean snappy.
	if encoding := req.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "snappy") {
		return message, fail(http.StatusUnsupportedMediaType, "Content-Encoding is %.100q; snappy is taken", encoding)
	}
	return message, nil
}

// plan reads a request and makes its rows. Nothing of the request is in memory then but the plan.
func (r *Receiver) plan(p *plan, w http.ResponseWriter, req *http.Request, in *intake, message writeproto.Message) error {
	body := r.bodies.Get().(*requestBody)
	defer func() {
		r.unbook(in, body)
		if !body.large() {
			body.batch.Reset()
			r.bodies.Put(body)
		}
	}()
	book := func(n int) error { return r.book(in, body, n) }
	if err := body.read(w, req, r.options.MaxBody, book); err != nil {
		return err
	}
	select {
	case in.decoding <- struct{}{}:
		defer func() { <-in.decoding }()
	case <-req.Context().Done():
		return req.Context().Err()
	}
	if err := body.decompress(r.options.MaxBody, book); err != nil {
		return err
	}
	if err := body.batch.Decode(message, body.raw); err != nil {
		return malformed(err)
	}
	p.large = body.large()
	return p.prepare(req.Context(), in, body.batch, maphash.Bytes(r.seed, body.compressed.Bytes()), r.options.Now().UnixMilli())
}

func malformed(err error) error {
	status := http.StatusBadRequest
	if errors.Is(err, writeproto.ErrTooMany) {
		status = http.StatusRequestEntityTooLarge
	}
	return fail(status, "decode request: %v", err)
}

// read reads the body of a request.
func (b *requestBody) read(w http.ResponseWriter, req *http.Request, limit int, book func(n int) error) error {
	b.compressed.Reset()
	if _, err := b.compressed.ReadFrom(bookingReader{http.MaxBytesReader(w, req.Body, int64(limit)), book}); err != nil {
		if _, beyond := errors.AsType[*http.MaxBytesError](err); beyond {
			return fail(http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", limit)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fail(http.StatusBadRequest, "read request: %v", err)
		}
		return fmt.Errorf("read request: %w", err)
	}
	return nil
}

// decompress makes raw of what was read.
func (b *requestBody) decompress(limit int, book func(n int) error) error {
	n, err := s2.DecodedLen(b.compressed.Bytes())
	if err != nil {
		return fail(http.StatusBadRequest, "decompress request: %v", err)
	}
	if n > limit {
		return fail(http.StatusBadRequest, "the request has %d bytes when it is decompressed, %d are taken", n, limit)
	}
	if err := book(n); err != nil {
		return err
	}
	if b.raw, err = s2.Decode(b.raw[:cap(b.raw)], b.compressed.Bytes()); err != nil {
		b.raw = b.raw[:0]
		return fail(http.StatusBadRequest, "decompress request: %v", err)
	}
	return nil
}

// commit makes the rows of a plan durable, but for what is beyond limits. If that fails the site forgets that they were there.
func (r *Receiver) commit(ctx context.Context, site string, p *plan) (err error) {
	landed := false
	defer func() { p.land(landed) }()
	if len(p.rows) > 0 {
		// A sender that goes away now sends the same again, and may as well find it stored.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		err := r.options.Commit(ctx, site, p.rows)
		if e, ok := errors.AsType[*Excess](err); ok {
			p.exceed(e)
		} else if err != nil {
			return err
		}
	}
	landed = true
	return nil
}

// release keeps the memory of a plan for the next request.
func (r *Receiver) release(p *plan) {
	if p.capacity() <= keptCap {
		p.reset()
		r.plans.Put(p)
	}
}

// explain turns an error into an answer.
func (r *Receiver) explain(req *http.Request, site string, err error) reply {
	if f, ok := errors.AsType[*failed](err); ok {
		return f.reply
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		r.repeats.Log(slog.LevelWarn, "not taken "+site, "remote write not taken", slog.String("site", site), slog.Int("status", refusal.Status), slog.Any("err", err))
		return reply{status: refusal.Status, retryAfter: refusal.RetryAfter, text: refusal.Error()}
	}
	if req.Context().Err() == nil {
		r.repeats.Log(slog.LevelError, "commit", "remote write cannot be stored", slog.String("site", site), slog.Any("err", err))
	}
	return reply{status: http.StatusServiceUnavailable, retryAfter: comeAgain, text: "the samples cannot be stored now"}
}

// intake returns what is known of a site.
func (r *Receiver) intake(site string) *intake {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.sites[site]
	if in == nil {
		in = newIntake(&r.options, r.seed)
		r.sites[strings.Clone(site)] = in
	}
	return in
}

// size is how much is known of all sites.
func (r *Receiver) size() (series, sources int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, in := range r.sites {
		a, b := in.size()
		series, sources = series+a, sources+b
	}
	return series, sources
}
