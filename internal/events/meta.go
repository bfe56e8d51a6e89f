package events

import (
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// Metrics of the gateway itself under the names that prom-stream-gateway gave them. No event can touch them.
const (
	metaInfo      = "prom_stream_gateway_info"
	metaEmptyPops = "prom_stream_gateway_redis_queue_empty_pops_total"
	metaPending   = "prom_stream_gateway_redis_queue_pending_size"
	metaDropped   = "prom_stream_gateway_dropped_metrics_total"
	metaProcessed = "prom_stream_gateway_processed_metrics_total"
)

// meta counts for them. There is one reader; pages of events are told of the workers in turn.
type meta struct {
	key     string // of the queue
	shown   bool
	workers []worker
	turn    int
	pending float64 // in the list
	claimed float64 // those that were taken out of the list and have not been read
}

type worker struct {
	processed, dropped, emptyPops float64
}

func newMeta(c *Config) meta {
	m := meta{shown: c.MetaMetrics, workers: make([]worker, 1)}
	if c.Redis != nil {
		m.key, m.workers = c.Redis.Key, make([]worker, c.Redis.Workers)
	}
	return m
}

func (m *meta) names() map[string]bool {
	return map[string]bool{metaInfo: true, metaEmptyPops: true, metaPending: true, metaDropped: true, metaProcessed: true}
}

// next is whose turn it is.
func (m *meta) next() *worker {
	w := &m.workers[m.turn]
	m.turn = (m.turn + 1) % len(m.workers)
	return w
}

func (m *meta) count(processed, dropped int) {
	w := m.next()
	w.processed += float64(processed)
	w.dropped += float64(dropped)
}

// families are what is exposed, in the order in which the original has it.
func (m *meta) families() []exposed {
	one := func(name, help string, typ model.MetricType) exposed {
		return exposed{name: name, help: help, typ: typ}
	}
	info := one(metaInfo, "Event gateway, compatible with prom-stream-gateway: aggregates metrics that are sent as JSON events.", model.MetricTypeGauge)
	info.metrics = []exposedMetric{{labels: labels.EmptyLabels(), value: 1}}
	if !m.shown || m.key == "" {
		return []exposed{info}
	}
	queue := labels.FromStrings("queueKey", m.key)
	pending := one(metaPending, "Events that wait in the queue, and those that were taken out of it and not read.", model.MetricTypeGauge)
	pending.metrics = []exposedMetric{{labels: queue, value: m.pending + m.claimed}}
	empty := one(metaEmptyPops, "Waits for events that ended without one.", model.MetricTypeCounter)
	dropped := one(metaDropped, "Events that were not aggregated.", model.MetricTypeCounter)
	processed := one(metaProcessed, "Events that were aggregated.", model.MetricTypeCounter)
	for i, w := range m.workers {
		ls := labels.FromStrings("queueKey", m.key, "worker", strconv.Itoa(i))
		empty.metrics = append(empty.metrics, exposedMetric{labels: ls, value: w.emptyPops})
		dropped.metrics = append(dropped.metrics, exposedMetric{labels: ls, value: w.dropped})
		processed.metrics = append(processed.metrics, exposedMetric{labels: ls, value: w.processed})
	}
	return []exposed{info, empty, pending, dropped, processed}
}
