package hub

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/thalweg/thalweg/internal/lane"
)

// siteCollector gives what is known of each site as metrics.
type siteCollector struct{ hub *Hub }

var (
	siteLastRow = prometheus.NewDesc("thalweg_site_last_row_timestamp_seconds", "When a row of the site last reached the store, by the hub's clock.", []string{"site"}, nil)
	siteMissing = prometheus.NewDesc("thalweg_site_rows_missing", "Rows of the site that exist and this hub does not have, by cause, within the last 7 days.", []string{"site", "cause"}, nil)
	siteRows    = prometheus.NewDesc("thalweg_site_rows_total", "Rows of the site that came.", []string{"site"}, nil)
	siteSamples = prometheus.NewDesc("thalweg_site_samples_total", "Samples of the site that came.", []string{"site"}, nil)
	siteBytes   = prometheus.NewDesc("thalweg_site_bytes_total", "Bytes of the site's messages that were read.", []string{"site"}, nil)
	siteSkew    = prometheus.NewDesc("thalweg_site_clock_skew_seconds", "How far the clock of the site is ahead of the hub's, at its last hello.", []string{"site"}, nil)
	siteActive  = prometheus.NewDesc("thalweg_site_active_series", "Series of the site that are alive and let in.", []string{"site"}, nil)
	siteHeld    = prometheus.NewDesc("thalweg_site_refused_series", "Series of the site that are there and that limits refuse at the moment.", []string{"site"}, nil)
	siteRefused = prometheus.NewDesc("thalweg_site_refused_total", "What rules and limits have refused of the site: series when they appeared, whole rows, or messages (bytes_per_second).", []string{"site", "reason"}, nil)
	siteWaiting = prometheus.NewDesc("thalweg_site_waiting_for_keyframe", "Whether the live lane of the site cannot be decoded before a keyframe comes.", []string{"site"}, nil)
)

// overBytes is the reason of messages that were not looked into.
const overBytes = "bytes_per_second"

// Describe implements prometheus.Collector.
func (siteCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{siteLastRow, siteMissing, siteRows, siteSamples, siteBytes, siteActive, siteHeld, siteRefused, siteSkew, siteWaiting} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c siteCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.hub.Sites() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Name)
		}
		counter := func(d *prometheus.Desc, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), s.Name)
		}
		last := 0.0
		if !s.LastRow.IsZero() {
			last = float64(s.LastRow.UnixMilli()) / 1000
		}
		gauge(siteLastRow, last)
		for c, rows := range s.Missing.Rows {
			if c := lane.Cause(c); rows > 0 || c == lane.NotArrived {
				ch <- prometheus.MustNewConstMetric(siteMissing, prometheus.GaugeValue, float64(rows), s.Name, c.String())
			}
		}
		counter(siteRows, s.Rows)
		counter(siteSamples, s.Samples)
		counter(siteBytes, s.Bytes)
		gauge(siteActive, float64(s.Usage.Series))
		gauge(siteHeld, float64(s.Usage.Held))
		for reason, n := range s.Refused() {
			ch <- prometheus.MustNewConstMetric(siteRefused, prometheus.CounterValue, float64(n), s.Name, reason)
		}
		if !s.Greeted.IsZero() {
			gauge(siteSkew, s.Skew.Seconds())
		}
		waiting := 0.0
		if s.Waiting {
			waiting = 1
		}
		gauge(siteWaiting, waiting)
	}
}
