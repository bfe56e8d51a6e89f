package config

import (
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/events"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/natsmon"
)

// Config is the whole file. It is read-only once loaded.
type Config struct {
	// Name of this site in every series and subject: 1 to 64 letters, digits, _ and -. Default: the host name up to
	// its first dot.
	Site string `yaml:"site"`
	// Directory for everything that outlives the process: outbox, positions of the hub, the embedded server's stream.
	DataDir string `yaml:"data_dir"`
	// Settings for all scrape jobs, and labels for the outside.
	Global Global `yaml:"global"`
	// How to reach NATS. Absent or without urls: a server embedded in this process, on loopback.
	NATS NATS `yaml:"nats"`
	// Present: this process is an edge, which scrapes and sends.
	Edge *Edge `yaml:"edge"`
	// Present: this process is a hub, which receives and serves /federate.
	Hub *Hub `yaml:"hub"`
	// Present: this process is an event gateway, which aggregates what short-lived processes throw at a queue.
	Gateway *events.Config `yaml:"gateway"`
	// Present: this process is an exporter of metrics of NATS servers: the one embedded here, and any others. Beside an edge
	// they are rows of job nats, too, every global.scrape_interval; edge.match has to let them through.
	NATSExporter *natsmon.Config `yaml:"nats_exporter"`

	places places
	// roleless: it is no mistake that no role is on.
	roleless bool
}

// NATS says how to reach NATS, or how to run it.
type NATS struct {
	// Run a server in this process. {}: with the defaults. Excludes urls.
	Embedded *natsd.Config `yaml:"embedded"`

	Client bus.Config `yaml:",inline"`
}

// Edge is the section of the role at a site.
type Edge struct {
	// Where this edge sends to, if that is not what the top-level nats says: for a process that is a hub of one system
	// and an edge of the next. Keys as in nats, except embedded; it replaces the top-level section as a whole.
	NATS *bus.Config `yaml:"nats"`

	edge.Config `yaml:",inline"`
}

// Hub is the section of the role at the centre.
type Hub struct {
	// Where this hub reads from, if that is not what the top-level nats says. Keys as in nats, except embedded; it
	// replaces the top-level section as a whole.
	NATS *bus.Config `yaml:"nats"`

	hub.Config `yaml:",inline"`
}

// Global holds what Prometheus' global block says about scraping. What it says about rules and queries has no place
// here.
type Global struct {
	// How often targets are scraped, and how often the own metrics are sampled.
	ScrapeInterval model.Duration `yaml:"scrape_interval"`
	// Timeout of a scrape; not above the interval. Default: 10s, or the interval if that is less.
	ScrapeTimeout model.Duration `yaml:"scrape_timeout"`
	// At an edge: added to every series that lacks them. At a hub: added to what /federate serves. $NAME and ${NAME}
	// in values stand for environment variables.
	ExternalLabels labels.Labels `yaml:"external_labels"`
	// Largest uncompressed body of a scrape. 0: 128 MiB.
	BodySizeLimit units.Base2Bytes `yaml:"body_size_limit"`
	// Most samples of a scrape after relabelling; a scrape with more fails. 0: no limit.
	SampleLimit uint `yaml:"sample_limit"`
	// Most targets of a job; the scrapes of a job with more fail. 0: no limit.
	TargetLimit uint `yaml:"target_limit"`
	// Most labels of a series; a scrape with more fails. 0: no limit.
	LabelLimit uint `yaml:"label_limit"`
	// Longest label name; a scrape with a longer one fails. 0: no limit.
	LabelNameLengthLimit uint `yaml:"label_name_length_limit"`
	// Longest label value; a scrape with a longer one fails. 0: no limit.
	LabelValueLengthLimit uint `yaml:"label_value_length_limit"`
	// Formats to ask targets for, best first. Default: as in Prometheus.
	ScrapeProtocols []promconfig.ScrapeProtocol `yaml:"scrape_protocols"`
	// Ask for native histograms.
	ScrapeNativeHistograms *bool `yaml:"scrape_native_histograms"`
	// Keep the classic form of a histogram that is also there as a native one.
	AlwaysScrapeClassicHistograms bool `yaml:"always_scrape_classic_histograms"`
	// Turn classic histograms into native ones with custom buckets.
	ConvertClassicHistogramsToNHCB bool `yaml:"convert_classic_histograms_to_nhcb"`
	// Add scrape_timeout_seconds, scrape_sample_limit and scrape_body_size_bytes to every scrape.
	ExtraScrapeMetrics *bool `yaml:"extra_scrape_metrics"`
	// File that failed scrapes are logged to, as JSON, for jobs that name no other.
	ScrapeFailureLogFile string `yaml:"scrape_failure_log_file"`
	// utf8 or legacy: which metric and label names are valid. Default: utf8.
	MetricNameValidationScheme model.ValidationScheme `yaml:"metric_name_validation_scheme"`
	// How targets are asked to escape names: allow-utf-8, underscores, dots or values. Default: allow-utf-8.
	MetricNameEscapingScheme string `yaml:"metric_name_escaping_scheme"`
}

// DefaultConfig is what an absent key means. Site is the host name, and may be no valid one.
func DefaultConfig() Config {
	return Config{Site: hostSite(), DataDir: "data", Global: DefaultGlobal(), NATS: DefaultNATS()}
}

// DefaultGlobal is what an absent key of global means.
func DefaultGlobal() Global {
	p := promconfig.DefaultGlobalConfig
	return Global{
		ScrapeInterval:             model.Duration(15 * time.Second),
		ScrapeTimeout:              p.ScrapeTimeout,
		ScrapeNativeHistograms:     p.ScrapeNativeHistograms,
		ExtraScrapeMetrics:         p.ExtraScrapeMetrics,
		MetricNameValidationScheme: p.MetricNameValidationScheme,
		MetricNameEscapingScheme:   p.MetricNameEscapingScheme,
	}
}

// DefaultNATS is what an absent key of nats means.
func DefaultNATS() NATS { return NATS{Client: bus.DefaultConfig()} }

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// UnmarshalYAML decodes over the defaults.
func (n *NATS) UnmarshalYAML(unmarshal func(any) error) error {
	*n = DefaultNATS()
	type plain NATS
	return unmarshal((*plain)(n))
}

// edgeSection and hubSection keep the methods of the embedded Config from being taken for those of the section.
type (
	edgeSection struct {
		NATS   *bus.Config `yaml:"nats"`
		Config edge.Config `yaml:",inline"`
	}
	hubSection struct {
		NATS   *bus.Config `yaml:"nats"`
		Config hub.Config  `yaml:",inline"`
	}
)

// UnmarshalYAML decodes over the defaults.
func (e *Edge) UnmarshalYAML(unmarshal func(any) error) error {
	section := edgeSection{Config: edge.DefaultConfig()}
	err := unmarshal(&section)
	*e = Edge{NATS: section.NATS, Config: section.Config}
	return err
}

// UnmarshalYAML decodes over the defaults.
func (h *Hub) UnmarshalYAML(unmarshal func(any) error) error {
	section := hubSection{Config: hub.DefaultConfig()}
	err := unmarshal(&section)
	*h = Hub{NATS: section.NATS, Config: section.Config}
	return err
}

// UnmarshalYAML decodes over the defaults, and has Prometheus check the block.
func (g *Global) UnmarshalYAML(unmarshal func(any) error) error {
	*g = Global{}
	type plain Global
	if err := unmarshal((*plain)(g)); err != nil {
		return err
	}
	if g.ScrapeInterval == 0 {
		g.ScrapeInterval = DefaultGlobal().ScrapeInterval
	}
	// Prometheus' default interval is a minute: what it checks must be what we use.
	checked := promconfig.GlobalConfig{}
	err := checked.UnmarshalYAML(func(v any) error {
		if err := unmarshal(v); err != nil {
			return err
		}
		reflect.ValueOf(v).Elem().FieldByName("ScrapeInterval").Set(reflect.ValueOf(g.ScrapeInterval))
		return nil
	})
	if err != nil {
		return err
	}
	g.ScrapeTimeout = checked.ScrapeTimeout
	g.ScrapeNativeHistograms = checked.ScrapeNativeHistograms
	g.ExtraScrapeMetrics = checked.ExtraScrapeMetrics
	g.MetricNameValidationScheme = checked.MetricNameValidationScheme
	return nil
}

// Prometheus returns the same as Prometheus' type.
func (g *Global) Prometheus() promconfig.GlobalConfig {
	p := promconfig.DefaultGlobalConfig
	p.ScrapeInterval = g.ScrapeInterval
	p.ScrapeTimeout = g.ScrapeTimeout
	p.ExternalLabels = g.ExternalLabels
	p.BodySizeLimit = g.BodySizeLimit
	p.SampleLimit = g.SampleLimit
	p.TargetLimit = g.TargetLimit
	p.LabelLimit = g.LabelLimit
	p.LabelNameLengthLimit = g.LabelNameLengthLimit
	p.LabelValueLengthLimit = g.LabelValueLengthLimit
	p.ScrapeProtocols = g.ScrapeProtocols
	p.ScrapeNativeHistograms = g.ScrapeNativeHistograms
	p.AlwaysScrapeClassicHistograms = g.AlwaysScrapeClassicHistograms
	p.ConvertClassicHistogramsToNHCB = g.ConvertClassicHistogramsToNHCB
	p.ExtraScrapeMetrics = g.ExtraScrapeMetrics
	p.ScrapeFailureLogFile = g.ScrapeFailureLogFile
	p.MetricNameValidationScheme = g.MetricNameValidationScheme
	p.MetricNameEscapingScheme = g.MetricNameEscapingScheme
	return p
}

// Embedded returns the settings of the server to run in this process, nil if there is none to run.
func (c *Config) Embedded() *natsd.Config {
	if c.NATS.Embedded != nil {
		return c.NATS.Embedded
	}
	used := c.Edge != nil && c.Edge.NATS == nil || c.Hub != nil && c.Hub.NATS == nil || c.Gateway != nil && c.Gateway.NATS != nil && c.Hub == nil
	if !used || len(c.NATS.Client.URLs) > 0 {
		return nil
	}
	d := natsd.DefaultConfig()
	return &d
}

// EdgeClient returns what the edge uses to reach NATS. Without URLs it means the embedded server.
func (c *Config) EdgeClient() bus.Config {
	if c.Edge != nil && c.Edge.NATS != nil {
		return *c.Edge.NATS
	}
	return c.NATS.Client
}

// HubClient returns what the hub uses to reach NATS. Without URLs it means the embedded server.
func (c *Config) HubClient() bus.Config {
	if c.Hub != nil && c.Hub.NATS != nil {
		return *c.Hub.NATS
	}
	return c.NATS.Client
}

func hostSite() string {
	host, err := os.Hostname()
	if err != nil {
		return ""
	}
	site, _, _ := strings.Cut(host, ".")
	return site
}
