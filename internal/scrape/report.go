package scrape

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// report is what every row says about its scrape.
type report struct {
	up          bool
	duration    time.Duration
	scraped     int
	kept        int
	added       int
	timeout     time.Duration
	sampleLimit uint
	bodyBytes   int // uncompressed; -1 when it was too large
}

// reportColumns are the columns for reports, in the order of report.values. Their metadata is Prometheus'.
func reportColumns(extra bool) []series.Column {
	columns := []series.Column{
		reportColumn("up", "targets", "Health of the scrape target. 1 means the target is healthy, 0 if the scrape failed."),
		reportColumn("scrape_duration_seconds", "seconds", "Duration of the last scrape in seconds."),
		reportColumn("scrape_samples_scraped", "samples", "Number of samples last scraped."),
		reportColumn("scrape_samples_post_metric_relabeling", "samples",
			"Number of samples remaining after metric relabeling was applied."),
		reportColumn("scrape_series_added", "series", "Number of series in the last scrape."),
	}
	if extra {
		columns = append(columns,
			reportColumn("scrape_timeout_seconds", "seconds", "The configured scrape timeout for a target."),
			reportColumn("scrape_sample_limit", "samples",
				"The configured sample limit for a target. Returns zero if there is no limit configured."),
			reportColumn("scrape_body_size_bytes", "bytes",
				"The uncompressed size of the last scrape response, if successful. "+
					"Scrapes failing because body_size_limit is exceeded report -1, other scrape failures report 0."),
		)
	}
	return columns
}

func reportColumn(name, unit, help string) series.Column {
	return series.Column{
		Labels: labels.FromStrings(model.MetricNameLabel, name),
		Family: series.Family{Name: name, Type: model.MetricTypeGauge, Help: help, Unit: unit},
	}
}

// fill writes the report into the first columns of a row.
func (r *report) fill(values []float64, extra bool) {
	values[0] = 0
	if r.up {
		values[0] = 1
	}
	values[1] = r.duration.Seconds()
	values[2] = float64(r.scraped)
	values[3] = float64(r.kept)
	values[4] = float64(r.added)
	if extra {
		values[5] = r.timeout.Seconds()
		values[6] = float64(r.sampleLimit)
		values[7] = float64(r.bodyBytes)
	}
}
