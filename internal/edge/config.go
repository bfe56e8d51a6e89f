package edge

import (
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"github.com/thalweg/thalweg/internal/outbox"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/scrape"
)

// Config of the process at a site.
type Config struct {
	// Send the metrics of this process too, as job thalweg with the site as instance.
	Self bool `yaml:"self"`

	Scrape   scrape.Config   `yaml:",inline"`
	Pipeline pipeline.Config `yaml:",inline"`

	// What applications and Prometheus servers write to this edge, which sends it as its own.
	Receive receive.Config `yaml:"receive"`

	// What leaves the site at most. More is refused before it is in the outbox, counted and logged; bytes_per_second
	// makes it wait there.
	Limits Limits `yaml:"limits"`

	// Frames are closed and sent this often, from 20ms to 1m. It bounds how late a sample is at the hub, and costs bytes when short.
	FlushInterval model.Duration `yaml:"flush_interval"`
	// A frame that stands alone is sent this often, from 1s to 1d. It bounds how far back a hub has to read. Lowered to a
	// quarter of the stream's max_age when that is less.
	KeyframeInterval model.Duration `yaml:"keyframe_interval"`
	// The log of frames on disk that bridges outages.
	Outbox outbox.Config `yaml:"outbox"`
	// After an outage. live_first: new rows at once, the backlog beside them. in_order: the backlog first.
	Recovery Recovery `yaml:"recovery"`
}

// Limits bound what leaves the site. Zero means no limit.
type Limits struct {
	pipeline.Limits `yaml:",inline"`

	// Bytes of frames that are sent per second, live rows before a backlog. What has to wait stays in the outbox. Hubs
	// say what they take from a site, and no more is sent either.
	BytesPerSecond units.Base2Bytes `yaml:"bytes_per_second"`
}

// Recovery says what is sent first when a link returns.
type Recovery string

const (
	LiveFirst Recovery = "live_first"
	InOrder   Recovery = "in_order"
)

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{
		Self:             true,
		Scrape:           scrape.DefaultConfig(),
		Pipeline:         pipeline.DefaultConfig(),
		FlushInterval:    model.Duration(time.Second),
		KeyframeInterval: model.Duration(10 * time.Minute),
		Outbox:           outbox.DefaultConfig(),
		Recovery:         LiveFirst,
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// Validate reports everything that is wrong, each error beginning with the key. Scrape is checked by Scrape.Resolve,
// which needs the global settings.
func (c *Config) Validate() error {
	errs := []error{c.Pipeline.Validate(), c.Limits.Validate("limits."), c.Receive.Validate("receive.", receive.Edge)}
	if c.Limits.BytesPerSecond < 0 {
		errs = append(errs, fmt.Errorf("limits.bytes_per_second: %s is negative", c.Limits.BytesPerSecond))
	}
	if d := time.Duration(c.FlushInterval); d < 20*time.Millisecond || d > time.Minute {
		errs = append(errs, fmt.Errorf("flush_interval: %s is not between 20ms and 1m", c.FlushInterval))
	}
	if d := time.Duration(c.KeyframeInterval); d < time.Second || d > 24*time.Hour {
		errs = append(errs, fmt.Errorf("keyframe_interval: %s is not between 1s and 1d", c.KeyframeInterval))
	}
	if err := c.Outbox.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("outbox.%w", err))
	}
	if c.Recovery != LiveFirst && c.Recovery != InOrder {
		errs = append(errs, fmt.Errorf("recovery: %q is not live_first or in_order", c.Recovery))
	}
	return errors.Join(errs...)
}
