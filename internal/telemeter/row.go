package telemeter

import (
	"bytes"
	"fmt"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/expo"
	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
)

// sourceKey names the one source of a client. A push says all about it: what the next one lacks has ended.
const sourceKey = "telemeter"

// delimited is the format in which families go to the parser.
var delimited = expfmt.NewFormat(expfmt.TypeProtoDelim)

// toRow makes a row of what the judge has left of a push, as far as the rules let it, with the time of the server, for
// nothing that is taken may be older or newer than it says. Of a source that is silent for three intervals nothing is
// shown any more, which makes that a third of ttl.
func (j *judge) toRow(families []*dto.MetricFamily, catalog *series.Catalog, rules *pipeline.Pipeline, ttl time.Duration, now time.Time) (*series.Row, error) {
	source := &series.Source{
		Key: sourceKey, Labels: labels.FromStrings(j.label, j.id), Interval: ttl / 3,
	}
	var body bytes.Buffer
	kept := make(map[string]bool, len(families))
	encoder := expfmt.NewEncoder(&body, delimited)
	for _, f := range families {
		kept[f.GetName()] = true
		if err := encoder.Encode(f); err != nil {
			return nil, fmt.Errorf("encode family %s: %w", quoted(f.GetName()), err)
		}
	}
	parser := expo.NewParser(expo.Options{
		Catalog: catalog, Source: source, IgnoreTimestamps: true, NativeHistograms: true, KeepClassic: true,
		Map: func(exposed labels.Labels) (labels.Labels, bool, error) {
			if _, reason := rules.Verdict(exposed); reason != pipeline.Pass {
				name := exposed.Get(model.MetricNameLabel)
				j.refuse(baseOf(name, kept), Reason(reason), fmt.Sprintf("series %s: %s", quoted(name), reason))
				return labels.EmptyLabels(), false, nil
			}
			return series.Relative(exposed, source.Labels), true, nil
		},
	})
	result, err := parser.Parse(body.Bytes(), string(delimited), now.Truncate(time.Second).UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("parse families: %w", err)
	}
	if n := result.Duplicates; n > 0 {
		for range n {
			j.refuse("", collision, "parts of one metric have the names of others")
		}
	}
	return result.Whole, nil
}
