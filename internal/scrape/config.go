package scrape

import (
	"fmt"

	promconfig "github.com/prometheus/prometheus/config"
)

// Config says what an edge scrapes.
type Config struct {
	// Jobs, exactly as in Prometheus. Service discovery: static_configs, file_sd_configs, http_sd_configs and
	// dns_sd_configs; a program built with -tags kubernetes has kubernetes_sd_configs too. With enable_compression, targets at loopback, link-local and private addresses are asked not to
	// compress, since decompression costs more than all else, and others for zstd or gzip. The target label
	// __scrape_encoding__ (identity, gzip, zstd) overrides it; gzip is what Prometheus does.
	Jobs []*promconfig.ScrapeConfig `yaml:"scrape_configs"`
	// Scrape the targets of a site close together, so that a frame holds many rows and costs less. False: spread them
	// over the interval as Prometheus does.
	Align bool `yaml:"align"`
}

// DefaultConfig is what an absent key means.
func DefaultConfig() Config { return Config{Align: true} }

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	for _, job := range c.Jobs {
		if job != nil {
			job.SetDirectory(dir)
		}
	}
}

// Resolve applies the global settings to each job and checks the result, as Prometheus does when it loads a file.
// Jobs are ready for use only after it. Errors begin with the key; all are reported by calling yield.
func (c *Config) Resolve(global promconfig.GlobalConfig, yield func(error)) {
	first := map[string]int{}
	for i, job := range c.Jobs {
		if err := job.Validate(global); err != nil {
			yield(fmt.Errorf("scrape_configs[%d]: %w", i, err))
		}
		if job == nil {
			continue
		}
		if j, taken := first[job.JobName]; taken {
			yield(fmt.Errorf("scrape_configs[%d]: job name %q is taken by scrape_configs[%d]", i, job.JobName, j))
			continue
		}
		first[job.JobName] = i
	}
}
