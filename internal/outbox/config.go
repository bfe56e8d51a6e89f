package outbox

import (
	"fmt"
	"time"

	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"
)

// Config bounds the log of frames that an edge keeps on disk in data_dir/outbox.
type Config struct {
	// The oldest frames are dropped when the outbox grows beyond this; what was not stored by the server yet becomes a
	// gap that hubs are told of.
	MaxBytes units.Base2Bytes `yaml:"max_bytes"`
	// Frames that have been here for longer are dropped likewise. Time in which the edge does not run does not count, nor
	// does what happens to the clock.
	MaxAge model.Duration `yaml:"max_age"`
	// flush: one fsync for every flush of frames, nothing accepted is lost when the machine dies. none: the operating
	// system decides, the last half minute may be lost then.
	Sync Sync `yaml:"sync"`
	// Frames are kept this long after the server stored them, and sent again if the server lost them (power loss).
	ResendWindow model.Duration `yaml:"resend_window"`
	// Bound for the rate at which a backlog is sent after an outage, in bytes per second, beside the live frames.
	// 0: what the link allows.
	BackfillBytesPerSecond units.Base2Bytes `yaml:"backfill_bytes_per_second"`
}

// Sync says when appended frames are forced to disk.
type Sync string

const (
	SyncFlush Sync = "flush"
	SyncNone  Sync = "none"
)

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{
		MaxBytes:     units.GiB,
		MaxAge:       model.Duration(7 * 24 * time.Hour),
		Sync:         SyncFlush,
		ResendWindow: model.Duration(10 * time.Minute),
	}
}

// UnmarshalYAML decodes over the defaults.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	type plain Config
	return unmarshal((*plain)(c))
}

// Validate reports the first thing that is wrong, beginning with the key.
func (c *Config) Validate() error {
	switch {
	case c.MaxBytes < units.MiB:
		return fmt.Errorf("max_bytes: %s is less than 1MiB", c.MaxBytes)
	case time.Duration(c.MaxAge) < time.Minute:
		return fmt.Errorf("max_age: %s is less than 1m", c.MaxAge)
	case c.Sync != SyncFlush && c.Sync != SyncNone:
		return fmt.Errorf("sync: %q is not flush or none", c.Sync)
	case c.BackfillBytesPerSecond < 0:
		return fmt.Errorf("backfill_bytes_per_second: %s is negative", c.BackfillBytesPerSecond)
	}
	return nil
}
