package natsmon

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	dto "github.com/prometheus/client_model/go"
)

// metric is a family of metrics, and how to find its value in a T: a server, a stream, a route.
type metric[T any] struct {
	name, help string
	kind       dto.MetricType
	value      func(T) float64
	pair       *dto.LabelPair // one more label, with which several metrics share a family; or nil
}

// gauge is a metric that goes up and down. The value NaN means that there is none.
func gauge[T any](name, help string, value func(T) float64) metric[T] {
	return metric[T]{name, help, dto.MetricType_GAUGE, value, nil}
}

// counter is a metric that only grows while the server lives. The value NaN means that there is none.
func counter[T any](name, help string, value func(T) float64) metric[T] {
	return metric[T]{name, help, dto.MetricType_COUNTER, value, nil}
}

// with is the metric with one more label.
func (m metric[T]) with(label, value string) metric[T] {
	m.pair = pair(label, value)
	return m
}

var absent = math.NaN()

// truth is 1 or 0.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// labels are sorted by name. They are shared by all metrics of one thing, and never changed.
type labels []*dto.LabelPair

func pair(name, value string) *dto.LabelPair {
	value = strings.ToValidUTF8(value, "\uFFFD")
	return &dto.LabelPair{Name: &name, Value: &value}
}

// with returns the labels and one more. An empty value is no label, as everywhere in Prometheus.
func (l labels) with(name, value string) labels {
	if value == "" {
		return l
	}
	return l.and(pair(name, value))
}

func (l labels) and(p *dto.LabelPair) labels {
	at, _ := slices.BinarySearchFunc(l, p.GetName(), func(q *dto.LabelPair, name string) int {
		return strings.Compare(q.GetName(), name)
	})
	return slices.Insert(slices.Clip(l), at, p)
}

// String tells labels apart.
func (l labels) String() string {
	var s strings.Builder
	for _, p := range l {
		fmt.Fprintf(&s, "%s=%q,", p.GetName(), p.GetValue())
	}
	return s.String()
}

// builder makes families of what servers say at one moment. It is used once, by one goroutine.
type builder struct {
	labelled bool
	history  *history
	compat   *compat // nil without

	byName   map[string]*dto.MetricFamily
	servers  map[[2]string]bool
	accounts map[[2]string]string // by cluster and name: the ID of the account that has the name
	streams  map[streamKey]*stream
	// accountUse is what the servers of a cluster say of an account's part of JetStream.
	accountUse map[streamKey]*server.AccountDetail
}

// newBuilder returns a builder without metrics. Without labelled the thirteen basic metrics have no labels for the server,
// which is right if there is only one. History is kept from one builder to the next. Compat and prefix are those of Config.
func newBuilder(labelled bool, history *history, compat, prefix string) *builder {
	b := &builder{
		labelled: labelled,
		history:  history,
		byName:   map[string]*dto.MetricFamily{},
		servers:  map[[2]string]bool{},
		accounts: map[[2]string]string{},
		streams:  map[streamKey]*stream{},

		accountUse: map[streamKey]*server.AccountDetail{},
	}
	if compat == compatPNE {
		b.compat = newCompat(prefix)
	}
	return b
}

// add takes what a server says, which must not change until families has been called. It reports false, and takes
// nothing, if it has a server of that name and cluster already, as when a server is read in two ways.
func (b *builder) add(s *Server) bool {
	key := s.key()
	if b.servers[key] {
		return false
	}
	b.servers[key] = true
	b.addServer(s)
	return true
}

// families returns what there is of all servers, sorted by name. The builder is of no use afterwards.
func (b *builder) families() []*dto.MetricFamily {
	b.addStreams()
	b.addAccountUses()
	list := make([]*dto.MetricFamily, 0, len(b.byName))
	for _, name := range slices.Sorted(maps.Keys(b.byName)) {
		list = append(list, b.byName[name])
	}
	return list
}

// record adds what the table says of one thing, which has the given labels.
func record[T any](b *builder, t []metric[T], l labels, of T) {
	for i := range t {
		m := &t[i]
		v := m.value(of)
		if math.IsNaN(v) {
			continue
		}
		if m.pair != nil {
			b.sample(m.name, m.help, m.kind, l.and(m.pair), v)
			continue
		}
		b.sample(m.name, m.help, m.kind, l, v)
	}
}

// sample adds one value. A metric and its parts are one allocation, for there can be a hundred thousand.
func (b *builder) sample(name, help string, kind dto.MetricType, l labels, v float64) {
	f := b.byName[name]
	if f == nil {
		f = newFamily(name, help, kind)
		b.byName[name] = f
	}
	if kind == dto.MetricType_COUNTER {
		c := &struct {
			metric  dto.Metric
			counter dto.Counter
			value   float64
		}{value: v}
		c.counter.Value = &c.value
		c.metric.Counter, c.metric.Label = &c.counter, l
		f.Metric = append(f.Metric, &c.metric)
		return
	}
	g := &struct {
		metric dto.Metric
		gauge  dto.Gauge
		value  float64
	}{value: v}
	g.gauge.Value = &g.value
	g.metric.Gauge, g.metric.Label = &g.gauge, l
	f.Metric = append(f.Metric, &g.metric)
}

func newFamily(name, help string, kind dto.MetricType) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Help: &help, Type: kind.Enum()}
}
