package events

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/prometheus/model/relabel"
)

// Config of the event gateway.
type Config struct {
	// HOST:PORT of a listener of its own, with /metrics and / as prom-stream-gateway has them. Empty: /gateway/metrics of
	// the web listener.
	ListenAddress string `yaml:"listen_address"`
	// TLS of that listener, as in Prometheus' web configuration. Without cert_file it is plain text.
	TLSServerConfig web.TLSConfig `yaml:"tls_server_config"`
	// Take events from a list of a Redis server.
	Redis *RedisConfig `yaml:"redis"`
	// Take events from NATS, as they are published to SUBJECT_ROOT.v1.events.SITE.
	NATS *NATSConfig `yaml:"nats"`
	// Take events from POST /api/v1/events.
	HTTP bool `yaml:"http"`
	// Origins of web pages that may post events, or "*" for all of them.
	CORSOrigins []string `yaml:"cors_origins"`
	// Show metrics of the gateway itself under the names of prom-stream-gateway.
	MetaMetrics bool `yaml:"meta_metrics"`
	// Relabelling of events before they are aggregated, as metric_relabel_configs in Prometheus.
	RelabelConfigs []*relabel.Config `yaml:"relabel_configs"`
	// What is kept at most.
	Limits Limits `yaml:"limits"`
	// How long a series is kept after its last event. The field ttl of an event overrides it. 0s: for ever.
	TTL model.Duration `yaml:"ttl"`
}

// NATSConfig says which events are taken from NATS. Where NATS is, what stands at the hub of the process says or, without
// one, the top-level nats.
type NATSConfig struct {
	// SUBJECT_ROOT.v1.events.SITE for one site, with * for all of them. Empty: all of them or, in a process that is an edge
	// and no hub, its own site.
	Subject string `yaml:"subject"`
}

// Limits bound what is kept. Events that would go beyond them are dropped and counted.
type Limits struct {
	// Series of all metrics; a histogram or summary with all its parts is one. Their labels and buckets may take 1 KiB each on
	// average.
	Series int `yaml:"series"`
	// Series of one metric.
	SeriesPerMetric int `yaml:"series_per_metric"`
	// Series of summaries with quantiles, each of which takes 70 to 170 kB.
	Summaries int `yaml:"summaries"`
	// Size of what stands in one element of the queue, which may be several events.
	EventBytes units.Base2Bytes `yaml:"event_bytes"`
	// Labels of a series.
	Labels int `yaml:"labels"`
	// Length of the name of a label, in bytes.
	LabelNameLength int `yaml:"label_name_length"`
	// Length of the value of a label, in bytes.
	LabelValueLength int `yaml:"label_value_length"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{HTTP: true, MetaMetrics: true, Limits: DefaultLimits()}
}

// DefaultLimits are those of DefaultConfig.
func DefaultLimits() Limits {
	return Limits{
		Series: 1_000_000, SeriesPerMetric: 100_000, Summaries: 1000, EventBytes: 64 * units.KiB,
		Labels: 64, LabelNameLength: 128, LabelValueLength: 1024,
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// UnmarshalYAML decodes over the defaults.
func (l *Limits) UnmarshalYAML(unmarshal func(any) error) error {
	*l = DefaultLimits()
	type plain Limits
	return unmarshal((*plain)(l))
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.TLSServerConfig.SetDirectory(dir)
	if c.Redis != nil {
		c.Redis.PasswordFile = config.JoinDir(dir, c.Redis.PasswordFile)
		c.Redis.TLSConfig.SetDirectory(dir)
	}
}

// Validate reports everything that is wrong, each error beginning with the key. It completes RelabelConfigs, which are
// ready for use only after it.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ListenAddress == "" {
		if c.TLSServerConfig.IsEnabled() {
			fail("tls_server_config: is for listen_address, which is empty; the web listener has --web.config.file")
		}
	} else if _, _, err := net.SplitHostPort(c.ListenAddress); err != nil {
		fail("listen_address: %q is not HOST:PORT", c.ListenAddress)
	}
	for i, r := range c.RelabelConfigs {
		if r == nil {
			fail("relabel_configs[%d]: empty rule", i)
		} else if err := r.Validate(model.LegacyValidation); err != nil {
			fail("relabel_configs[%d]: %w", i, err)
		}
	}
	for _, l := range []struct {
		key   string
		value int
	}{
		{"series", c.Limits.Series}, {"series_per_metric", c.Limits.SeriesPerMetric}, {"summaries", c.Limits.Summaries},
		{"event_bytes", int(c.Limits.EventBytes)}, {"labels", c.Limits.Labels}, {"label_name_length", c.Limits.LabelNameLength},
		{"label_value_length", c.Limits.LabelValueLength},
	} {
		if l.value <= 0 {
			fail("limits.%s: %d is not positive", l.key, l.value)
		}
	}
	if c.Limits.EventBytes > maxEventBytes {
		fail("limits.event_bytes: %s is more than %s", c.Limits.EventBytes, maxEventBytes)
	}
	if c.Limits.Labels > maxCompared {
		fail("limits.labels: %d is more than %d", c.Limits.Labels, maxCompared)
	}
	if c.TTL != 0 && time.Duration(c.TTL) < time.Second {
		fail("ttl: %s is neither 0s nor at least 1s", c.TTL)
	}
	if c.Redis != nil {
		if err := c.Redis.Validate(); err != nil {
			errs = append(errs, err)
		}
		if c.Redis.Replicas && c.NATS != nil {
			fail("nats: replicas have their sums in Redis, and take events from there and by HTTP; run another gateway for those of NATS")
		}
	}
	return errors.Join(errs...)
}

// maxEventBytes bounds limits.event_bytes: a payload is in memory as a whole.
const maxEventBytes = 64 * units.MiB
