package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"

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
	// Labels, and their values, that every series must have behind relabelling and external labels, as in {tenant: a}.
	// A series without is dropped; nothing is excepted.
	RequiredLabels RequiredLabels `yaml:"required_labels"`
	// Which label values leave the site as pseudonyms only.
	Anonymize AnonymizeConfig `yaml:"anonymize"`
}

// RequiredLabels are labels with the values that every series must have.
type RequiredLabels map[string]string

// Validate reports everything that is wrong, each error beginning with the key.
func (r RequiredLabels) Validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r)) {
		switch {
		case !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel:
			errs = append(errs, fmt.Errorf("required_labels: %q is not a valid label name", name))
		case r[name] == "":
			errs = append(errs, fmt.Errorf("required_labels.%s: is empty; name the value that every series must have", name))
		}
	}
	return errors.Join(errs...)
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Anonymize: DefaultAnonymizeConfig()} }

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
	errs = append(errs, c.RequiredLabels.Validate(), c.Anonymize.Validate("anonymize."))
	return errors.Join(errs...)
}

// AnonymizeConfig says whose values leave the site as pseudonyms only.
type AnonymizeConfig struct {
	// Labels whose values are replaced, in series, in what all series of a target have in common (such as instance),
	// and in exemplars. Empty: nothing is replaced.
	Labels []string `yaml:"labels"`
	// hmac: HMAC-SHA256 of the label's name, a zero byte and the value. telemeter: the hash of a telemeter-client, for
	// migration, 12 characters of SHA-256 of key and value.
	Mode AnonymizeMode `yaml:"mode"`
	// Characters of a pseudonym, from 8 to 43, each worth 6 bits. In mode telemeter it is 12 always.
	Length int `yaml:"length"`
	// File with the key of this site, at least 32 bytes without the white space around them, such as
	// "openssl rand -hex 32" makes. In mode telemeter: the salt, of any length.
	KeyFile string `yaml:"key_file"`
	// File with the key before, so that "thalweg reveal" still knows the pseudonyms that it made.
	PreviousKeyFile string `yaml:"previous_key_file"`
}

// AnonymizeMode is how pseudonyms are made.
type AnonymizeMode string

const (
	ModeHMAC      AnonymizeMode = "hmac"
	ModeTelemeter AnonymizeMode = "telemeter"
)

// DefaultAnonymizeConfig is what an absent key of anonymize means.
func DefaultAnonymizeConfig() AnonymizeConfig {
	return AnonymizeConfig{Mode: ModeHMAC, Length: 16}
}

// UnmarshalYAML decodes over the defaults.
func (c *AnonymizeConfig) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultAnonymizeConfig()
	type plain AnonymizeConfig
	return unmarshal((*plain)(c))
}

// Validate reports everything that is wrong, each error beginning with the prefix and the key.
func (c *AnonymizeConfig) Validate(prefix string) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(prefix+format, args...)) }
	for i, name := range c.Labels {
		switch {
		case !model.UTF8Validation.IsValidLabelName(name):
			fail("labels[%d]: %q is not a valid label name", i, name)
		case name == model.MetricNameLabel || name == model.BucketLabel || name == model.QuantileLabel:
			fail("labels[%d]: nobody could read the metrics without the values of %q; drop them instead", i, name)
		case slices.Contains(c.Labels[:i], name):
			fail("labels[%d]: %q is there twice", i, name)
		}
	}
	if c.Mode != ModeHMAC && c.Mode != ModeTelemeter {
		fail("mode: %q is not hmac or telemeter", c.Mode)
	}
	if c.Length < minPseudonym || c.Length > maxPseudonym {
		fail("length: %d is not between %d and %d", c.Length, minPseudonym, maxPseudonym)
	}
	switch {
	case len(c.Labels) > 0 && c.KeyFile == "":
		fail("key_file: is not set; without a key of this site anybody could work the values out")
	case len(c.Labels) == 0 && c.KeyFile != "":
		fail("labels: is empty, so that key_file would protect nothing")
	}
	if c.PreviousKeyFile != "" && c.KeyFile == "" {
		fail("previous_key_file: is set, but key_file is not")
	}
	return errors.Join(errs...)
}

// Limits bound what one site may use. Zero means no limit.
type Limits struct {
	// Series alive at a time, counted exactly: those of the last whole row of each source, those of partial rows until
	// they end. The series beyond it are refused until there is room.
	Series int `yaml:"series"`
	// Series alive at a time of one source, such as a scrape target.
	SeriesPerSource int `yaml:"series_per_source"`
	// Series that were not alive within the last hour, per hour. Needs series, which alone counts in the first hour of
	// a process: everything is new to it then.
	NewSeriesPerHour int `yaml:"new_series_per_hour"`
	// Samples per second, with a burst of two minutes. The rows beyond it are refused, each as a whole.
	SamplesPerSecond int `yaml:"samples_per_second"`
	// Labels of a series, its name among them. A series with more is dropped.
	Labels int `yaml:"labels"`
	// Longest name of a label, in bytes. A series with a longer one is dropped.
	LabelNameLength int `yaml:"label_name_length"`
	// Longest value of a label, in bytes. A series with a longer one is dropped.
	LabelValueLength int `yaml:"label_value_length"`
}

// Validate reports everything that is wrong, each error beginning with the prefix and the key.
func (l *Limits) Validate(prefix string) error {
	var errs []error
	for _, k := range []struct {
		key   string
		value int
	}{
		{"series", l.Series}, {"series_per_source", l.SeriesPerSource}, {"new_series_per_hour", l.NewSeriesPerHour},
		{"samples_per_second", l.SamplesPerSecond}, {"labels", l.Labels}, {"label_name_length", l.LabelNameLength},
		{"label_value_length", l.LabelValueLength},
	} {
		if k.value < 0 {
			errs = append(errs, fmt.Errorf("%s%s: %d is negative", prefix, k.key, k.value))
		}
	}
	if l.NewSeriesPerHour > 0 && l.Series == 0 {
		errs = append(errs, fmt.Errorf("%snew_series_per_hour: needs series, which bounds what a restart brings", prefix))
	}
	return errors.Join(errs...)
}

// ParseMatch parses series selectors such as up{job="node"}. The error joins one for each bad selector, which begins
// with match[i].
func ParseMatch(match []string) (Selection, error) {
	sets := make(Selection, 0, len(match))
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
