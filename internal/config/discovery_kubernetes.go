//go:build kubernetes

package config

// kubernetes_sd_configs, in builds with -tags kubernetes: it alone adds about 28 MB to the program.
import _ "github.com/prometheus/prometheus/discovery/kubernetes"
