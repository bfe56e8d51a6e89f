package telemetry

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Build says which program this is.
type Build struct {
	Version   string // "" if unknown
	Revision  string // of the sources, "" if unknown
	GoVersion string
}

// ReadBuild completes a version, set at link time or "", with what the Go toolchain wrote into the binary.
func ReadBuild(version string) Build {
	b := Build{Version: version, GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}

// Metrics is the registry of the process, with what is about the process as a whole already in it.
type Metrics struct {
	*prometheus.Registry
	reloadOK   prometheus.Gauge
	reloadTime prometheus.Gauge
}

// NewMetrics returns a registry with the metrics of the Go runtime, of the process, of the build and of reloads.
func NewMetrics(b Build) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_config_last_reload_successful",
			Help: "Whether the last attempt to load the configuration file succeeded.",
		}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "thalweg_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in use was loaded.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "thalweg_build_info",
		Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{
			"version": b.Version, "revision": b.Revision, "goversion": b.GoVersion,
			"goos": runtime.GOOS, "goarch": runtime.GOARCH,
		},
	})
	build.Set(1)
	m.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.reloadOK, m.reloadTime,
	)
	return m
}

// Loaded records that the configuration was loaded at a time, or that an attempt to do so ended with an error.
func (m *Metrics) Loaded(at time.Time, err error) {
	if err != nil {
		m.reloadOK.Set(0)
		return
	}
	m.reloadOK.Set(1)
	m.reloadTime.Set(float64(at.UnixMilli()) / 1000)
}
