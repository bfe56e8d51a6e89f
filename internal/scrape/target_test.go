package scrape

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/series"
)

// configs parses scrape configs as Prometheus does.
func configs(t testing.TB, yaml string) []*promconfig.ScrapeConfig {
	t.Helper()
	c, err := promconfig.Load("scrape_configs:\n"+yaml, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	scrape, err := c.GetScrapeConfigs()
	if err != nil {
		t.Fatal(err)
	}
	return scrape
}

func TestNewTarget(t *testing.T) {
	cfg := configs(t, `
- job_name: node
  scrape_interval: 5s
  params: {collect: [cpu, disk]}
  relabel_configs:
  - {source_labels: [__meta_drop], regex: "yes", action: drop}
  - {source_labels: [__meta_interval], regex: "(.+)", target_label: __scrape_interval__}
  - {source_labels: [__meta_param], regex: "(.+)", target_label: __param_collect}
  - {source_labels: [__meta_dc], target_label: dc}
`)[0]
	group := model.LabelSet{"__meta_dc": "ams", "env": "prod"}
	f := func(own model.LabelSet, wantLabels, wantURL, wantErr string) *target {
		t.Helper()
		got, err := newTarget(cfg, own, group)
		if wantErr != "" {
			if err == nil || err.Error() != wantErr {
				t.Errorf("%v: error %v, want %s", own, err, wantErr)
			}
			return nil
		}
		if err != nil || got == nil {
			t.Errorf("%v: target %v, error %v", own, got, err)
			return nil
		}
		if l := got.source.Labels.String(); l != wantLabels || got.url.String() != wantURL {
			t.Errorf("%v:\n got %s %s\nwant %s %s", own, l, got.url, wantLabels, wantURL)
		}
		return got
	}
	a := f(model.LabelSet{"__address__": "h:9100", "__internal": "x"},
		`{dc="ams", env="prod", instance="h:9100", job="node"}`, "http://h:9100/metrics?collect=cpu&collect=disk", "")
	if a.interval != 5*time.Second || a.timeout != 5*time.Second || !strings.HasPrefix(a.source.Key, "scrape/node/h:9100/") {
		t.Errorf("target %+v", a)
	}
	b := f(model.LabelSet{"__address__": "h:9100", "__meta_interval": "7s"},
		`{dc="ams", env="prod", instance="h:9100", job="node"}`, "http://h:9100/metrics?collect=cpu&collect=disk", "")
	if b.source.Key != a.source.Key || b.equal(a) {
		t.Error("another interval must be the same source and another target")
	}
	c := f(model.LabelSet{"__address__": "h:9100", "__meta_param": "mem"},
		`{dc="ams", env="prod", instance="h:9100", job="node"}`, "http://h:9100/metrics?collect=mem&collect=disk", "")
	if c.source.Key == a.source.Key {
		t.Error("another URL must be another source")
	}
	f(model.LabelSet{"__address__": "h", "instance": "i", "job": "j", "env": "", "__scheme__": "https", "__metrics_path__": "/m"},
		`{dc="ams", instance="i", job="j"}`, "https://h/m?collect=cpu&collect=disk", "")
	f(model.LabelSet{}, "", "", "no address")
	f(model.LabelSet{"__address__": "http://h"}, "", "", `"http://h" is not a valid hostname`)
	f(model.LabelSet{"__address__": "h", "__meta_interval": "0s"}, "", "", "label __scrape_interval__: must not be 0")
	f(model.LabelSet{"__address__": "h", "__meta_interval": "x"}, "", "", `label __scrape_interval__: not a valid duration string: "x"`)
	f(model.LabelSet{"__address__": "h", "__meta_interval": "1s"}, "", "", "scrape timeout 5s is greater than scrape interval 1s")
	f(model.LabelSet{"__address__": "h", "__scrape_native_histograms__": "x"}, "", "",
		`label __scrape_native_histograms__: strconv.ParseBool: parsing "x": invalid syntax`)
	f(model.LabelSet{"__address__": "h", "x": "\xff"}, "", "", `label x: invalid value "\xff"`)
	if got, err := newTarget(cfg, model.LabelSet{"__address__": "h", "__meta_drop": "yes"}, group); got != nil || err != nil {
		t.Errorf("dropped target is %v, %v", got, err)
	}
}

func TestMapper(t *testing.T) {
	source := &series.Source{Labels: labels.FromStrings("job", "node", "instance", "h:1")}
	b := labels.NewBuilder(labels.EmptyLabels())
	mapped := func(yaml string, exposed ...string) (string, error) {
		t.Helper()
		m := newMapper(configs(t, "- job_name: node\n"+yaml)[0], source.Labels)
		sb := labels.NewScratchBuilder(4)
		for i := 0; i < len(exposed); i += 2 {
			sb.Add(exposed[i], exposed[i+1])
		}
		sb.Sort()
		l, keep, err := m.column(sb.Labels())
		if err != nil || !keep {
			return "", err
		}
		return source.SeriesLabels(b, &series.Column{Labels: l}).String(), nil
	}
	f := func(yaml, want string, exposed ...string) {
		t.Helper()
		if got, err := mapped(yaml, exposed...); err != nil || got != want {
			t.Errorf("%s %q:\n got %s, %v\nwant %s", yaml, exposed, got, err, want)
		}
	}
	f("", `{__name__="a", instance="h:1", job="node"}`, "__name__", "a")
	f("", `{__name__="a", exported_exported_job="y", exported_job="x", instance="h:1", job="node"}`,
		"__name__", "a", "job", "y", "exported_job", "x")
	f("", `{__name__="a", instance="h:1", job="node"}`, "__name__", "a", "job", "")
	honor := "  honor_labels: true\n"
	f(honor, `{__name__="a", instance="h:1", job="other"}`, "__name__", "a", "job", "other")
	f(honor, `{__name__="a", job="node"}`, "__name__", "a", "instance", "")
	rules := `
  metric_relabel_configs:
  - {source_labels: [__name__], regex: "drop.*", action: drop}
  - {regex: "instance|x", action: labeldrop}
`
	f(rules, "", "__name__", "dropped")
	f(rules, `{__name__="a", job="node"}`, "__name__", "a", "x", "1")

	e := func(yaml, want string, exposed ...string) {
		t.Helper()
		if _, err := mapped(yaml, exposed...); err == nil || err.Error() != want {
			t.Errorf("%s %q: error %v, want %s", yaml, exposed, err, want)
		}
	}
	limits := "  label_limit: 3\n  label_name_length_limit: 8\n  label_value_length_limit: 5\n"
	e(limits, "label_limit exceeded: limit 3, found 4: series a", "__name__", "a", "x", "1")
	e(limits+"  honor_labels: true\n", "label_value_length_limit exceeded: limit 5, found 6: series a, label job",
		"__name__", "a", "job", "123456", "instance", "")
	e("  label_name_length_limit: 8\n", "label_name_length_limit exceeded: limit 8, found 9: series a, label longlabel",
		"__name__", "a", "longlabel", "1")
	e("  metric_relabel_configs: [{regex: __name__, action: labeldrop}]\n",
		`series {instance="h:1", job="node"} has no name`, "__name__", "a")
	e("  metric_name_validation_scheme: legacy\n",
		`series {__name__="a.b", instance="h:1", job="node"} has an invalid name or label name`, "__name__", "a.b")
}

func TestReasons(t *testing.T) {
	known := map[reason]bool{}
	for _, r := range reasons() {
		known[r] = true
	}
	f := func(err error, want reason) {
		t.Helper()
		if got := reasonOf(err); got != want || !known[got] {
			t.Errorf("%v: reason %q, want %q", err, got, want)
		}
	}
	f(&fetchError{bodySize, &expo.LimitError{}}, bodySize)
	f(&expo.LimitError{}, limit)
	f(&expo.SyntaxError{Err: errors.New("x")}, syntax)
	f(&expo.ContentTypeError{Err: errors.New("x")}, contentType)
	f(&targetLimitError{}, targetLimit)
	f(&nameError{errors.New("x")}, badName)
	f(errors.New("x"), other)
}
