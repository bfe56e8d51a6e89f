package remotewrite

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
)

// Config is one element of hub.remote_write.
type Config struct {
	// Prometheus has the keys of Prometheus' remote_write, checked as there. Defaults differ in queue_config.max_shards
	// and retry_on_http_429.
	Prometheus promconfig.RemoteWriteConfig `yaml:",inline"`

	// What happens to rows that arrive late, after an outage: send, which a receiver with an out-of-order window takes, or
	// drop. What is dropped, or not taken, is listed as a gap of this destination.
	OutOfOrder OutOfOrder `yaml:"out_of_order"`
	// Where a destination begins whose name is new: now, or at the oldest row in the stream.
	Start Start `yaml:"start"`
}

// OutOfOrder says what happens to rows that arrive late.
type OutOfOrder string

const (
	SendOutOfOrder OutOfOrder = "send"
	DropOutOfOrder OutOfOrder = "drop"
)

// Start says where a new destination begins.
type Start string

const (
	StartNow    Start = "now"
	StartOldest Start = "oldest"
)

// defaultMaxShards is how many requests are under way at a time. Prometheus' 50 is for one process that may have to catch
// up with itself; here each shard remembers the series it sends, and the stream is the queue.
const defaultMaxShards = 8

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	c := Config{Prometheus: promconfig.DefaultRemoteWriteConfig, OutOfOrder: SendOutOfOrder, Start: StartNow}
	c.Prometheus.QueueConfig.MaxShards = defaultMaxShards
	// Prometheus drops what a receiver has no time for, since it would run out of memory. The stream does not.
	c.Prometheus.QueueConfig.RetryOnRateLimit = true
	return c
}

// UnmarshalYAML decodes over the defaults, and has Prometheus check its keys.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = DefaultConfig()
	const absent = math.MinInt
	shards := &c.Prometheus.QueueConfig.MaxShards
	*shards = absent
	type plain Config
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	byDefault := *shards == absent
	if byDefault {
		*shards = promconfig.DefaultQueueConfig.MaxShards // which min_shards, that does nothing here, is compared with
	}
	var checked promconfig.RemoteWriteConfig
	err := checked.UnmarshalYAML(func(v any) error {
		into := reflect.ValueOf(v).Elem() // of a type of its own
		into.Set(reflect.ValueOf(c.Prometheus).Convert(into.Type()))
		return nil
	})
	if byDefault {
		*shards = defaultMaxShards
	}
	return err
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) { c.Prometheus.SetDirectory(dir) }

// notInName are the characters that a URL's host may have and a name should not.
var notInName = regexp.MustCompile(`[^A-Za-z0-9_.:-]+`)

// OutputName is the name of the destination in logs, metrics and pages, and that of its cursor: with another name it is
// another destination, which begins anew.
func (c *Config) OutputName() string {
	if c.Prometheus.Name != "" {
		return c.Prometheus.Name
	}
	return strings.Trim(notInName.ReplaceAllString(c.Prometheus.URL.Host, "_"), "_")
}

var outputName = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

// maxOutputName is checked apart of the expression, which would be compiled into as many copies at every start.
const maxOutputName = 64

// Validate reports everything that is wrong, each error beginning with the key. It fills in what Prometheus fills in when
// it validates.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if u := c.Prometheus.URL; u == nil || u.URL == nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		fail("url: is not an http:// or https:// URL")
	} else if n := c.OutputName(); len(n) > maxOutputName || !outputName.MatchString(n) {
		fail("name: %q is not 1 to 64 letters, digits, _, ., : and -", n)
	}
	for i, rule := range c.Prometheus.WriteRelabelConfigs {
		if err := rule.Validate(model.UTF8Validation); err != nil {
			fail("write_relabel_configs[%d]: %w", i, err)
		}
	}
	q := &c.Prometheus.QueueConfig
	positive := func(key string, d model.Duration) {
		if d <= 0 {
			fail("%s: %s is not positive", key, d)
		}
	}
	positive("remote_timeout", c.Prometheus.RemoteTimeout)
	positive("queue_config.min_backoff", q.MinBackoff)
	positive("queue_config.max_backoff", q.MaxBackoff)
	positive("metadata_config.send_interval", c.Prometheus.MetadataConfig.SendInterval)
	if q.SampleAgeLimit < 0 {
		fail("queue_config.sample_age_limit: %s is negative", q.SampleAgeLimit)
	}
	switch c.OutOfOrder {
	case SendOutOfOrder, DropOutOfOrder:
	default:
		fail("out_of_order: %q is not send or drop", c.OutOfOrder)
	}
	switch c.Start {
	case StartNow, StartOldest:
	default:
		fail("start: %q is not now or oldest", c.Start)
	}
	return errors.Join(errs...)
}

// ValidateAll validates a list of destinations, whose names have to be unique. Each error begins with the index, as in
// [0].url, which a caller puts the key of the list before.
func ValidateAll(list []Config) error {
	var errs []error
	taken := map[string]int{}
	for i := range list {
		err := list[i].Validate()
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				errs = append(errs, fmt.Errorf("[%d].%w", i, e))
			}
			continue
		}
		n := list[i].OutputName()
		if first, ok := taken[n]; ok {
			errs = append(errs, fmt.Errorf("[%d].name: %q is the name of [%d], too; give one of them another", i, n, first))
		}
		taken[n] = i
	}
	return errors.Join(errs...)
}

// Ignored lists the keys that are set and do nothing here.
func (c *Config) Ignored() []string {
	var keys []string
	add := func(key string, set bool) {
		if set {
			keys = append(keys, key)
		}
	}
	q, d := &c.Prometheus.QueueConfig, promconfig.DefaultQueueConfig
	add("queue_config.capacity", q.Capacity != d.Capacity)
	add("queue_config.min_shards", q.MinShards != d.MinShards)
	add("queue_config.batch_send_deadline", q.BatchSendDeadline != d.BatchSendDeadline)
	add("failed_request_logging", c.Prometheus.FailedRequestLogging)
	return keys
}
