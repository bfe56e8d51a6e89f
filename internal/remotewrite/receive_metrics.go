package remotewrite

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/thalweg/thalweg/internal/writeproto"
)

// reason why something of a request was not taken. The set is closed.
type reason uint8

const (
	badLabels    reason = iota // invalid, twice the same, or no name
	badSymbols                 // references to what is not in the table
	badHistogram               // contradicts itself
	badExemplar                // too long, or not to be read
	noSamples                  // a series with none
	outOfOrder                 // older than the newest sample of its series
	duplicate                  // as old as the newest sample, and another value
	outOfBounds                // too far ahead
	kindChanged                // its series changes between floats and histograms too often
	overSeries                 // no room for another series
	overLimit                  // Commit says so
	reasons
)

var reasonNames = [reasons]string{
	"labels", "symbols", "histogram", "exemplar", "no_samples", "out_of_order", "duplicate", "out_of_bounds", "kind_changed", "series_limit",
	"limits",
}

// words are those of Prometheus, which some senders look for.
var words = [reasons]string{
	outOfOrder:  "out of order sample",
	duplicate:   "duplicate sample for timestamp",
	outOfBounds: "out of bounds: timestamp is too far in the future",
	kindChanged: "series changed between floats and histograms less than a minute ago",
}

// maxMessages bounds the problems that an answer names, maxMessage what it says of one, in bytes.
const maxMessages, maxMessage = 10, 300

// problems are what is wrong with parts of a request.
type problems struct {
	by       [reasons]int // samples, or 1 for what is none
	total    int
	messages []string // the first ones, to be answered
	more     int      // further ones
	quiet    string   // the first one that is not answered
}

// add notes a problem that makes the answer a 400.
func (p *problems) add(why reason, samples int, message func() string) {
	p.by[why] += max(samples, 1)
	p.total += max(samples, 1)
	if len(p.messages) < maxMessages {
		p.messages = append(p.messages, shortened(message()))
	} else {
		p.more++
	}
}

// addQuietly notes a problem that is no reason for another answer.
func (p *problems) addQuietly(why reason, samples int, message func() string) {
	p.by[why] += max(samples, 1)
	p.total += max(samples, 1)
	if p.quiet == "" {
		p.quiet = shortened(message())
	}
}

func shortened(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "..."
}

// text is for the answer; "" if there is nothing to say.
func (p *problems) text() string {
	text := strings.Join(p.messages, "\n")
	if p.more > 0 {
		text += "\nand " + strconv.Itoa(p.more) + " more"
	}
	return text
}

// example is for the log.
func (p *problems) example() string {
	if len(p.messages) > 0 {
		return p.messages[0]
	}
	return p.quiet
}

type receiveMetrics struct {
	requests                       *prometheus.CounterVec
	seconds                        *prometheus.HistogramVec
	samples, histograms, exemplars prometheus.Counter
	repeated                       prometheus.Counter
	refused                        *prometheus.CounterVec
	metadata                       prometheus.Counter
	series, sources                prometheus.GaugeFunc
}

func newReceiveMetrics(r *Receiver) *receiveMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "thalweg_remote_write_receive_" + name, Help: help})
	}
	m := &receiveMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_remote_write_receive_requests_total",
			Help: "Requests of remote write senders, by version of the message and status of the answer.",
		}, []string{"message", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "thalweg_remote_write_receive_request_duration_seconds",
			Help: "Time from the header of a request to its answer, which is when its samples are durable.", Buckets: prometheus.DefBuckets,
		}, []string{"message"}),
		samples:    counter("samples_total", "Floats of remote write senders that were taken, repeated ones included."),
		histograms: counter("histograms_total", "Native histograms of remote write senders that were taken, repeated ones included."),
		exemplars:  counter("exemplars_total", "Exemplars of remote write senders that were taken."),
		repeated:   counter("repeated_samples_total", "Samples that were there already, equal to the bit, and not stored again."),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_remote_write_receive_refused_total",
			Help: "Samples, exemplars and empty series of remote write senders that were not taken, by reason. The answer names the first ones.",
		}, []string{"reason"}),
		metadata: counter("refused_metadata_total", "Metadata of remote write senders that was not taken: too long, too much, or not to be read."),
		series: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "thalweg_remote_write_receive_series", Help: "Series of remote write senders that are known.",
		}, func() float64 { n, _ := r.size(); return float64(n) }),
		sources: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "thalweg_remote_write_receive_sources", Help: "Sources of remote write senders that are known: one for each job and instance.",
		}, func() float64 { _, n := r.size(); return float64(n) }),
	}
	for _, message := range []string{"1.0", "2.0"} {
		for _, code := range []string{"204", "400", "503"} {
			m.requests.WithLabelValues(message, code)
		}
		m.seconds.WithLabelValues(message)
	}
	m.requests.WithLabelValues("unknown", "415")
	for _, name := range reasonNames {
		m.refused.WithLabelValues(name)
	}
	return m
}

func (m *receiveMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.seconds, m.samples, m.histograms, m.exemplars, m.repeated, m.refused, m.metadata, m.series, m.sources}
}

// answered counts a request.
func (m *receiveMetrics) answered(message writeproto.Message, a *reply, took time.Duration) {
	name := "unknown"
	switch message {
	case writeproto.V1:
		name = "1.0"
	case writeproto.V2:
		name = "2.0"
	}
	m.requests.WithLabelValues(name, strconv.Itoa(a.status)).Inc()
	m.seconds.WithLabelValues(name).Observe(took.Seconds())
}

// count counts what became of a request whose rows are durable.
func (m *receiveMetrics) count(p *plan) {
	m.samples.Add(float64(p.written.samples))
	m.histograms.Add(float64(p.written.histograms))
	m.exemplars.Add(float64(p.written.exemplars))
	m.repeated.Add(float64(p.repeated))
	m.metadata.Add(float64(p.metadata))
	for i, n := range p.refused.by {
		if n > 0 {
			m.refused.WithLabelValues(reasonNames[i]).Add(float64(n))
		}
	}
}
