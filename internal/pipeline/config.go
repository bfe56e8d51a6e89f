package pipeline

import (
	"errors"
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/promql/parser"
)

// Config says which series pass, and under which labels.
type Config struct {
	// Selectors of the series that may leave the site, as in /federate; a series passes if one of them selects it.
	// Empty (and no match_file): everything passes. up, scrape_* and the job thalweg always pass.
	Match []string `yaml:"match"`
	// File with further selectors, one a line; # begins a comment. Read again on reload.
	MatchFile string `yaml:"match_file"`
	// Relabelling of every series that passed match, as metric_relabel_configs in Prometheus.
	RelabelConfigs []*relabel.Config `yaml:"relabel_configs"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{} }

// Validate reports everything that is wrong, each error beginning with the key. It completes RelabelConfigs, which are
// ready for use only after it.
func (c *Config) Validate() error {
	_, err := ParseMatch(c.Match)
	errs := []error{err}
	for i, r := range c.RelabelConfigs {
		if r == nil {
			errs = append(errs, fmt.Errorf("relabel_configs[%d]: empty rule", i))
			continue
		}
		if err := r.Validate(model.UTF8Validation); err != nil {
			errs = append(errs, fmt.Errorf("relabel_configs[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// ParseMatch parses series selectors such as up{job="node"}. The error joins one for each bad selector, which begins
// with match[i].
func ParseMatch(match []string) ([][]*labels.Matcher, error) {
	sets := make([][]*labels.Matcher, 0, len(match))
	var errs []error
	for i, s := range match {
		set, err := ParseSelector(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("match[%d]: %w", i, err))
			continue
		}
		sets = append(sets, set)
	}
	return sets, errors.Join(errs...)
}

// ParseSelector parses one series selector.
func ParseSelector(s string) ([]*labels.Matcher, error) {
	set, err := parser.NewParser(parser.Options{}).ParseMetricSelector(s)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", s, err)
	}
	return set, nil
}
