package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
)

// Config says how rows of many sites become one set of series.
type Config struct {
	// Label that carries the name of the site.
	SiteLabel string `yaml:"site_label"`
	// What happens to a series that has the site label already. export: its label is renamed to exported_site. drop:
	// the series is dropped. reject: the whole row is refused. Dropped and refused ones are counted.
	OnConflict OnConflict `yaml:"on_conflict"`
	// A series whose newest sample is older than this is not served, unless three intervals of its target are longer.
	Lookback model.Duration `yaml:"lookback"`
}

// OnConflict says what happens to a series that has the site label already.
type OnConflict string

const (
	Export OnConflict = "export"
	Drop   OnConflict = "drop"
	Reject OnConflict = "reject"
)

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{SiteLabel: "site", OnConflict: Export, Lookback: model.Duration(5 * time.Minute)}
}

// Validate reports everything that is wrong, each error beginning with the key.
func (c *Config) Validate() error {
	var errs []error
	if !model.UTF8Validation.IsValidLabelName(c.SiteLabel) || c.SiteLabel == model.MetricNameLabel {
		errs = append(errs, fmt.Errorf("site_label: %q is not a valid label name", c.SiteLabel))
	}
	switch c.OnConflict {
	case Export, Drop, Reject:
	default:
		errs = append(errs, fmt.Errorf("on_conflict: %q is not export, drop or reject", c.OnConflict))
	}
	if c.Lookback <= 0 {
		errs = append(errs, fmt.Errorf("lookback: %s is not positive", c.Lookback))
	}
	return errors.Join(errs...)
}
