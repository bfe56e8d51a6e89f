package scrape

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/series"
)

// Labels by which relabelling switches a single target.
const (
	convertLabel = "__convert_classic_histograms_to_nhcb__"
	classicLabel = "__always_scrape_classic_histograms__"
	nativeLabel  = "__scrape_native_histograms__"
	socketLabel  = "__unix_socket__"
	// encodingLabel is ours: how the target may compress its answers (identity, gzip or zstd), whatever
	// enable_compression and the address say. Prometheus ignores it.
	encodingLabel = "__scrape_encoding__"
)

// target is one endpoint to scrape, after relabelling. It is immutable.
type target struct {
	source   *series.Source
	url      *url.URL
	socket   string // path of a Unix socket to connect to instead of url's host
	interval time.Duration
	timeout  time.Duration
	native   bool
	classic  bool
	convert  bool
	encoding string // of answers; empty: see encoding
}

// newTarget makes a target from the labels that discovery found. It is nil if relabelling drops it.
func newTarget(cfg *promconfig.ScrapeConfig, own, group model.LabelSet) (*target, error) {
	b := labels.NewBuilder(labels.EmptyLabels())
	discovered(b, cfg, own, group)
	if !relabel.ProcessBuilder(b, cfg.RelabelConfigs...) {
		return nil, nil
	}
	address := b.Get(model.AddressLabel)
	if address == "" {
		return nil, errors.New("no address")
	}
	if err := promconfig.CheckTargetAddress(model.LabelValue(address)); err != nil {
		return nil, err
	}
	t := &target{socket: b.Get(socketLabel)}
	if err := t.setTimes(b); err != nil {
		return nil, err
	}
	if err := t.setSwitches(b); err != nil {
		return nil, err
	}
	if b.Get(model.InstanceLabel) == "" {
		b.Set(model.InstanceLabel, address)
	}
	t.url = targetURL(b, cfg.Params)
	b.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Name, model.ReservedLabelPrefix) {
			b.Del(l.Name)
		}
	})
	public := b.Labels()
	err := public.Validate(func(l labels.Label) error {
		if !model.LabelValue(l.Value).IsValid() {
			return fmt.Errorf("label %s: invalid value %q", l.Name, l.Value)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.source = &series.Source{Key: sourceKey(public, t), Labels: public, Interval: t.interval}
	return t, nil
}

// discovered sets the labels of a target before relabelling, as Prometheus' PopulateDiscoveredLabels does.
func discovered(b *labels.Builder, cfg *promconfig.ScrapeConfig, own, group model.LabelSet) {
	for name, value := range group {
		b.Set(string(name), string(value))
	}
	for name, value := range own {
		b.Set(string(name), string(value))
	}
	defaults := []labels.Label{
		{Name: model.JobLabel, Value: cfg.JobName},
		{Name: model.ScrapeIntervalLabel, Value: cfg.ScrapeInterval.String()},
		{Name: model.ScrapeTimeoutLabel, Value: cfg.ScrapeTimeout.String()},
		{Name: model.MetricsPathLabel, Value: cfg.MetricsPath},
		{Name: model.SchemeLabel, Value: cfg.Scheme},
		{Name: convertLabel, Value: strconv.FormatBool(cfg.ConvertClassicHistogramsToNHCBEnabled())},
		{Name: classicLabel, Value: strconv.FormatBool(cfg.AlwaysScrapeClassicHistogramsEnabled())},
		{Name: nativeLabel, Value: strconv.FormatBool(cfg.ScrapeNativeHistogramsEnabled())},
	}
	for name, values := range cfg.Params {
		if len(values) > 0 {
			defaults = append(defaults, labels.Label{Name: model.ParamLabelPrefix + name, Value: values[0]})
		}
	}
	for _, l := range defaults {
		if b.Get(l.Name) == "" {
			b.Set(l.Name, l.Value)
		}
	}
}

func (t *target) setTimes(b *labels.Builder) (err error) {
	if t.interval, err = duration(b, model.ScrapeIntervalLabel); err != nil {
		return err
	}
	if t.timeout, err = duration(b, model.ScrapeTimeoutLabel); err != nil {
		return err
	}
	if t.timeout > t.interval {
		return fmt.Errorf("scrape timeout %s is greater than scrape interval %s", t.timeout, t.interval)
	}
	return nil
}

func duration(b *labels.Builder, label string) (time.Duration, error) {
	d, err := model.ParseDuration(b.Get(label))
	if err == nil && d == 0 {
		err = errors.New("must not be 0")
	}
	if err != nil {
		return 0, fmt.Errorf("label %s: %w", label, err)
	}
	return time.Duration(d), nil
}

func (t *target) setSwitches(b *labels.Builder) (err error) {
	if t.native, err = boolean(b, nativeLabel); err != nil {
		return err
	}
	if t.classic, err = boolean(b, classicLabel); err != nil {
		return err
	}
	if t.convert, err = boolean(b, convertLabel); err != nil {
		return err
	}
	switch t.encoding = b.Get(encodingLabel); t.encoding {
	case "", identity, gzipped, zstandard:
		return nil
	}
	return fmt.Errorf("label %s: %.100q is none of %s, %s, %s", encodingLabel, t.encoding, identity, gzipped, zstandard)
}

func boolean(b *labels.Builder, label string) (bool, error) {
	v := b.Get(label)
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("label %s: %w", label, err)
	}
	return on, nil
}

// equal reports whether both are the same target, scraped in the same way.
func (t *target) equal(o *target) bool {
	return t.source.Key == o.source.Key && t.interval == o.interval && t.timeout == o.timeout &&
		t.native == o.native && t.classic == o.classic && t.convert == o.convert && t.encoding == o.encoding
}

// targetURL takes the first value of each parameter from its label, since relabelling may have changed it.
func targetURL(b *labels.Builder, params url.Values) *url.URL {
	query := url.Values{}
	for name, values := range params {
		query[name] = append([]string(nil), values...)
	}
	b.Range(func(l labels.Label) {
		name, ok := strings.CutPrefix(l.Name, model.ParamLabelPrefix)
		if !ok {
			return
		}
		if len(query[name]) > 0 {
			query[name][0] = l.Value
		} else {
			query[name] = []string{l.Value}
		}
	})
	return &url.URL{
		Scheme:   b.Get(model.SchemeLabel),
		Host:     b.Get(model.AddressLabel),
		Path:     b.Get(model.MetricsPathLabel),
		RawQuery: query.Encode(),
	}
}

// sourceKey identifies a target by what its series and its requests look like. How often it is scraped is no part of
// it, so that a changed interval goes on with the same source. The hash tells targets apart; job and instance are for
// readers, and cut where they are endless.
func sourceKey(public labels.Labels, t *target) string {
	h := xxhash.New()
	h.Write(public.Bytes(nil))
	h.WriteString(t.url.String())
	h.WriteString(t.socket)
	return fmt.Sprintf("scrape/%.100s/%.100s/%016x", public.Get(model.JobLabel), public.Get(model.InstanceLabel), h.Sum64())
}
