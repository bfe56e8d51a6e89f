package hub

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/alecthomas/units"

	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/push"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/store"
	"github.com/thalweg/thalweg/internal/telemeter"
)

// Config of the process at the centre.
type Config struct {
	// Name of this hub in logs, metrics and pages. Default: site.
	Name string `yaml:"name"`
	// Which of the 64 parts of the sites this hub takes, as in 0-31,40. Hubs with equal parts are replicas.
	Parts Parts `yaml:"parts"`

	Store store.Config `yaml:",inline"`

	// The /federate endpoint.
	Federate federate.Config `yaml:"federate"`
	// Selectors of the series that are taken, as in /federate. Empty: everything is taken. up, scrape_* and the job
	// thalweg always are.
	Match []string `yaml:"match"`
	// Labels, and their values, that every series must have, as in {tenant: a}. A series without is dropped; nothing is
	// excepted.
	RequiredLabels pipeline.RequiredLabels `yaml:"required_labels"`
	// What the users of the web configuration may read at /federate, on the status page and in the JSON API. Absent or
	// empty: everybody reads everything. Otherwise a user who stands in no view reads nothing. The hub does not start
	// with views if nobody has to log in, which the file of --web.config.file says. /metrics and /metrics/sites are
	// about this process and not restricted.
	Views []View `yaml:"views"`
	// What one site may use. More is refused, counted and logged; the other sites are not affected.
	Limits Limits `yaml:"limits"`
	// Sites that are treated differently, by name.
	Sites map[string]Site `yaml:"sites"`
	// Refuse sites that are not listed in sites.
	StrictSites bool `yaml:"strict_sites"`
	// What applications and Prometheus servers that have no edge write to this hub. Each sender is a site.
	Receive receive.Config `yaml:"receive"`
	// Destinations that get every row of all sites, those of outages included, by remote write.
	RemoteWrite []remotewrite.Config `yaml:"remote_write"`
	// A Push Gateway that gets the last row of every source. Absent: there is none.
	Pushgateway *push.ClientConfig `yaml:"pushgateway"`
	// Endpoints for telemeter clients, each of which becomes a site. Absent: there are none.
	Telemeter *telemeter.Config `yaml:"telemeter"`
}

// Limits bound what one site may use at a hub.
type Limits struct {
	pipeline.Limits `yaml:",inline"`

	// Sources (such as scrape targets) alive at a time. The rows of further ones are refused.
	Sources int `yaml:"sources"`
	// Decoded size of one frame.
	FrameBytes units.Base2Bytes `yaml:"frame_bytes"`
	// Bytes of messages per second, with a burst of ten seconds and one frame of frame_bytes. Messages beyond it are not
	// looked into, and their rows are missing. Edges are told, and stay below it.
	BytesPerSecond units.Base2Bytes `yaml:"bytes_per_second"`
	// Permits 0 in series, sources, frame_bytes and bytes_per_second, which means no limit then.
	AllowUnlimited bool `yaml:"allow_unlimited"`
}

// Site is how a hub treats one site.
type Site struct {
	// Selectors of the series that are taken from this site, in addition to the hub's own. Empty: no further rule.
	Match []string `yaml:"match"`
	// Limits of this site. An absent key means the hub's limit.
	Limits SiteLimits `yaml:"limits"`
	// The site is listed as missing on pages and in metrics while no rows come. False: it may be absent for long.
	Expected bool `yaml:"expected"`
}

// SiteLimits replace those of the hub where they are set.
type SiteLimits struct {
	// Series alive at a time.
	Series *int `yaml:"series"`
	// Series alive at a time of one source.
	SeriesPerSource *int `yaml:"series_per_source"`
	// Series that were not alive within the last hour, per hour.
	NewSeriesPerHour *int `yaml:"new_series_per_hour"`
	// Samples per second.
	SamplesPerSecond *int `yaml:"samples_per_second"`
	// Labels of a series.
	Labels *int `yaml:"labels"`
	// Longest name of a label, in bytes.
	LabelNameLength *int `yaml:"label_name_length"`
	// Longest value of a label, in bytes.
	LabelValueLength *int `yaml:"label_value_length"`
	// Sources alive at a time.
	Sources *int `yaml:"sources"`
	// Decoded size of one frame.
	FrameBytes *units.Base2Bytes `yaml:"frame_bytes"`
	// Bytes of messages per second.
	BytesPerSecond *units.Base2Bytes `yaml:"bytes_per_second"`
}

// View is what some users may read.
type View struct {
	// Names from basic_auth_users in the file of --web.config.file. A user may stand in several views and reads what any
	// of them has.
	Users []string `yaml:"users"`
	// Selectors of the series that they may read, as in /federate. A series has to match one of them.
	Match []string `yaml:"match"`
}

// PushgatewayOutput is the name of the output that Config.Pushgateway is, beside those of RemoteWrite.
const PushgatewayOutput = "pushgateway"

// DefaultConfig is what an absent key means.
func DefaultConfig() Config {
	return Config{
		Parts:    AllParts,
		Store:    store.DefaultConfig(),
		Federate: federate.DefaultConfig(),
		Limits:   DefaultLimits(),
	}
}

// DefaultLimits is what an absent key of limits means.
func DefaultLimits() Limits {
	return Limits{
		Limits: pipeline.Limits{Series: 1_000_000}, Sources: 10_000, FrameBytes: 8 * units.MiB,
		BytesPerSecond: lane.DefaultBytesPerSecond,
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

// UnmarshalYAML decodes over the defaults.
func (s *Site) UnmarshalYAML(unmarshal func(any) error) error {
	*s = Site{Expected: true}
	type plain Site
	return unmarshal((*plain)(s))
}

// Validate reports everything that is wrong, each error beginning with the key. Names of sites are not its business.
func (c *Config) Validate() error {
	errs := []error{c.Store.Validate()}
	if c.Parts == 0 {
		errs = append(errs, errors.New("parts: names no part"))
	}
	if err := c.Federate.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("federate.%w", err))
	}
	_, err := pipeline.ParseMatch(c.Match)
	errs = append(errs, err, c.RequiredLabels.Validate(), c.Limits.validate("limits."))
	for i := range c.Views {
		errs = append(errs, c.Views[i].validate(fmt.Sprintf("views[%d].", i)))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sites)) {
		site := c.Sites[name]
		for i, selector := range site.Match {
			if _, err := pipeline.ParseSelector(selector); err != nil {
				errs = append(errs, fmt.Errorf("sites.%s.match[%d]: %w", name, i, err))
			}
		}
		limits := c.SiteLimits(name)
		errs = append(errs, limits.validate("sites."+name+".limits."))
	}
	if c.StrictSites && len(c.Sites) == 0 {
		errs = append(errs, errors.New("strict_sites: would refuse everybody, sites is empty"))
	}
	errs = append(errs, c.Receive.Validate("receive.", receive.Hub), c.validateTelemeter())
	errs = append(errs, under("remote_write", remotewrite.ValidateAll(c.RemoteWrite))...)
	for i := range c.RemoteWrite {
		if c.RemoteWrite[i].Prometheus.Name == PushgatewayOutput {
			errs = append(errs, fmt.Errorf("remote_write[%d].name: %q is the name of the Push Gateway", i, PushgatewayOutput))
		}
	}
	if c.Pushgateway != nil {
		errs = append(errs, under("pushgateway.", c.Pushgateway.Validate())...)
	}
	return errors.Join(errs...)
}

// under puts what stands before the key of each joined error before it.
func under(prefix string, err error) []error {
	if err == nil {
		return nil
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for i, err := range errs {
		errs[i] = fmt.Errorf("%s%w", prefix, err)
	}
	return errs
}

func (c *Config) validateTelemeter() error {
	if c.Telemeter == nil {
		return nil
	}
	errs := under("telemeter.", c.Telemeter.Validate())
	if c.Telemeter.Label == c.Store.SiteLabel {
		errs = append(errs, fmt.Errorf("telemeter.label: %q is hub.site_label too", c.Telemeter.Label))
	}
	return errors.Join(errs...)
}

func (v *View) validate(prefix string) error {
	var errs []error
	if len(v.Users) == 0 {
		errs = append(errs, fmt.Errorf("%susers: names nobody", prefix))
	}
	for i, user := range v.Users {
		if user == "" {
			errs = append(errs, fmt.Errorf("%susers[%d]: is empty", prefix, i))
		}
	}
	if len(v.Match) == 0 {
		errs = append(errs, fmt.Errorf(`%smatch: selects nothing; {__name__!=""} selects everything`, prefix))
	}
	for i, selector := range v.Match {
		if set, err := pipeline.ParseSelector(selector); err != nil {
			errs = append(errs, fmt.Errorf("%smatch[%d]: %w", prefix, i, err))
		} else if len(set) == 0 {
			errs = append(errs, fmt.Errorf(`%smatch[%d]: selects nothing; {__name__!=""} selects everything`, prefix, i))
		}
	}
	return errors.Join(errs...)
}

// SiteLimits returns the limits of a site.
func (c *Config) SiteLimits(site string) Limits {
	l, s := c.Limits, c.Sites[site].Limits
	replace(&l.Series, s.Series)
	replace(&l.SeriesPerSource, s.SeriesPerSource)
	replace(&l.NewSeriesPerHour, s.NewSeriesPerHour)
	replace(&l.SamplesPerSecond, s.SamplesPerSecond)
	replace(&l.Labels, s.Labels)
	replace(&l.LabelNameLength, s.LabelNameLength)
	replace(&l.LabelValueLength, s.LabelValueLength)
	replace(&l.Sources, s.Sources)
	replace(&l.FrameBytes, s.FrameBytes)
	replace(&l.BytesPerSecond, s.BytesPerSecond)
	return l
}

func replace[T any](limit *T, by *T) {
	if by != nil {
		*limit = *by
	}
}

func (l *Limits) validate(prefix string) error {
	errs := []error{l.Limits.Validate(prefix)}
	check := func(key string, value int64) {
		switch {
		case value < 0:
			errs = append(errs, fmt.Errorf("%s%s: %d is negative", prefix, key, value))
		case value == 0 && !l.AllowUnlimited:
			errs = append(errs, fmt.Errorf("%s%s: 0 means no limit, which needs hub.limits.allow_unlimited: true", prefix, key))
		}
	}
	if l.Series >= 0 { // else it is complained of
		check("series", int64(l.Series))
	}
	check("sources", int64(l.Sources))
	check("frame_bytes", int64(l.FrameBytes))
	check("bytes_per_second", int64(l.BytesPerSecond))
	return errors.Join(errs...)
}
