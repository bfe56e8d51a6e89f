package events

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// setting is one of prom-stream-gateway: what its value means here.
type setting func(c *Config, value string) error

// settings of prom-stream-gateway by name, with small letters and a dot between section and key. The one that its compose
// file has in the wrong section is known there as well.
func settings() map[string]setting {
	number := func(to func(*Config) *int) setting {
		return func(c *Config, value string) (err error) {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				return fmt.Errorf("%q is not a number", value)
			}
			*to(c) = n
			return nil
		}
	}
	popCount := number(func(c *Config) *int { return &c.Redis.PopCount })
	return map[string]setting{
		"redis.connectionstring": func(c *Config, value string) error {
			_, err := parseConnection(value)
			c.Redis.Address = value
			return err
		},
		"redis.metricqueueworkers":    number(func(c *Config) *int { return &c.Redis.Workers }),
		"redis.metricqueuedatabase":   number(func(c *Config) *int { return &c.Redis.Database }),
		"redis.metricqueuepopcount":   popCount,
		"metrics.metricqueuepopcount": popCount,
		"redis.metricqueuekey": func(c *Config, value string) error {
			c.Redis.Key = value
			return nil
		},
		"metrics.sortincominglabels": func(_ *Config, value string) error {
			if sort, err := parseBool(value); err != nil || sort {
				return err
			}
			return errors.New("labels are always sorted; without that a set of labels in another order would be another series")
		},
		"metrics.disablemetametrics": func(c *Config, value string) error {
			disable, err := parseBool(value)
			c.MetaMetrics = !disable
			return err
		},
	}
}

func parseBool(value string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(strings.TrimSpace(value)))
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", value)
	}
	return b, nil
}

// Apply sets what a setting of prom-stream-gateway says, whose name is that of its appsettings.json (Redis.MetricQueueKey;
// a colon or two underscores may stand for the dot, and the case does not matter). Not known: it has none of that name.
func (c *Config) Apply(name, value string) (known bool, err error) {
	key := strings.ToLower(strings.NewReplacer("__", ".", ":", ".").Replace(name))
	set, known := settings()[key]
	if !known {
		return false, nil
	}
	if strings.HasPrefix(key, "redis.") || strings.HasSuffix(key, "popcount") {
		if c.Redis == nil {
			redis := DefaultRedisConfig()
			c.Redis = &redis
		}
	}
	if err := set(c, value); err != nil {
		return true, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}

// ApplyEnvironment sets what variables such as Redis__MetricQueueKey say, of those in the form NAME=VALUE. Other variables
// are passed over, but for those of the same sections, which are errors.
func (c *Config) ApplyEnvironment(environ []string) error {
	values := map[string]string{}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		section, _, ok := strings.Cut(name, "__")
		if ok && (strings.EqualFold(section, "redis") || strings.EqualFold(section, "metrics")) {
			values[name] = value
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		known, err := c.Apply(name, values[name])
		if !known {
			err = fmt.Errorf("%s: prom-stream-gateway has no such setting", name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
