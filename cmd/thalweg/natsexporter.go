package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/natsmon"
	"github.com/thalweg/thalweg/internal/node"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// defaultMonitoringURL is the monitoring port of a server on this machine.
const defaultMonitoringURL = "http://127.0.0.1:8222"

func newNATSExporterCommand() *cobra.Command {
	var (
		file, listen string
		targets      natsTargetFlags
		log          telemetry.LogOptions
		web          webFlags
	)
	c := &cobra.Command{
		Use:   "nats-exporter [URL...]",
		Short: "Serve metrics of NATS servers",
		Long: `Serve metrics of NATS servers at /metrics. Each URL is the monitoring port of a server (http_port); with
--system.url one connection of the system account reads all servers of a cluster, which need no such
port. Without either it reads ` + defaultMonitoringURL + `. What stands in a file, with all that one can
say of each server, is docs/config.md#nats_exporter.

The listener is open to everybody who reaches it, as those of other exporters are: it serves nothing but
metrics. --listen-address=127.0.0.1:9100 keeps it to this machine.`,
		Example: `  thalweg nats-exporter http://nats-1:8222 http://nats-2:8222
  thalweg nats-exporter --system.url=nats://nats-1:4222 --system.credentials-file=sys.creds
  thalweg nats-exporter --compat=prometheus-nats-exporter`,
		RunE: func(c *cobra.Command, urls []string) error {
			if file == "" && len(urls)+len(targets.system.URLs) == 0 {
				urls = []string{defaultMonitoringURL}
			}
			if err := targets.complete(c.Flags(), urls); err != nil {
				return err
			}
			change := func(e *natsmon.Config) {
				if c.Flags().Changed("listen-address") || e.ListenAddress == "" {
					e.ListenAddress = listen
				}
				targets.apply(c.Flags(), urls, e)
			}
			load := func() (*config.Config, error) { return config.LoadNATSExporter(file, change) }
			cfg, err := load()
			if err != nil && file == "" {
				return &usageError{err}
			}
			if err != nil {
				return fmt.Errorf("the configuration is not valid:\n%w", err)
			}
			if file == "" && !c.Flags().Changed("web.listen-address") {
				web.listen = "" // several exporters on a machine must not meet there
			}
			return run(c.Context(), node.Options{
				Config: cfg, Load: load, ListenAddress: web.listen, WebConfigFile: web.config, ExternalURL: web.external, Version: build().Version,
			}, log, c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config.file", "", "configuration file with a section nats_exporter; default: none is needed")
	f.StringVar(&listen, "listen-address", ":9100", "address of /metrics; default: listen_address of the file, or :9100")
	targets.add(f)
	web.add(f)
	f.Lookup("web.listen-address").Usage = "address of the status page and the metrics of this process itself; default: as given with a file, none without"
	addLogFlags(f, &log)
	return c
}

// natsTargetFlags say what is read, and how to get in.
type natsTargetFlags struct {
	basicAuth promconfig.BasicAuth
	tls       promconfig.TLSConfig
	system    natsmon.SystemConfig
	compat    string
	prefix    string
}

func (t *natsTargetFlags) add(f *pflag.FlagSet) {
	defaults := natsmon.DefaultConfig()
	f.StringVar(&t.basicAuth.Username, "basic-auth.username", "", "user for the monitoring ports")
	f.StringVar(&t.basicAuth.PasswordFile, "basic-auth.password-file", "", "file with the password of that user")
	f.StringVar(&t.tls.CAFile, "tls.ca-file", "", "certificates that vouch for the servers; default: those of the system")
	f.StringVar(&t.tls.CertFile, "tls.cert-file", "", "client certificate")
	f.StringVar(&t.tls.KeyFile, "tls.key-file", "", "key of the client certificate")
	f.StringVar(&t.tls.ServerName, "tls.server-name", "", "name in the certificates of the servers; default: that of the URL")
	f.StringSliceVar(&t.system.URLs, "system.url", nil, "nats:// or tls:// URL of a server, to read all of its cluster by the system account; may be repeated for others of the cluster")
	f.StringVar(&t.system.CredentialsFile, "system.credentials-file", "", "credentials (.creds) of a user of the system account")
	f.StringVar(&t.system.NkeySeedFile, "system.nkey-seed-file", "", "seed of the nkey of a user of the system account")
	f.StringVar(&t.system.Username, "system.username", "", "user of the system account")
	f.StringVar(&t.system.PasswordFile, "system.password-file", "", "file with the password of that user")
	f.IntVar(&t.system.Expect, "system.expect", 0, "how many servers there are; 0: as many as answer")
	f.StringVar(&t.compat, "compat", "", "also emit the names of another exporter: prometheus-nats-exporter")
	f.StringVar(&t.prefix, "compat-prefix", defaults.CompatPrefix, "what those names begin with")
}

// complete refuses flags without effect, and makes file names ones that do not depend on where a configuration file is.
func (t *natsTargetFlags) complete(f *pflag.FlagSet, urls []string) (err error) {
	f.Visit(func(flag *pflag.Flag) {
		group, _, _ := strings.Cut(flag.Name, ".")
		switch {
		case group == "system" && len(t.system.URLs) == 0:
			err = usage("--%s is given without --system.url", flag.Name)
		case group == "basic-auth" && len(urls) == 0, group == "tls" && len(urls)+len(t.system.URLs) == 0:
			err = usage("--%s is for the URLs of the command line, where none is", flag.Name)
		case group == "tls" && len(t.system.URLs) == 0 && !slices.ContainsFunc(urls, isHTTPS):
			err = usage("--%s is for https:// URLs, of which there is none", flag.Name)
		}
	})
	if (t.basicAuth.Username == "") != (t.basicAuth.PasswordFile == "") {
		err = usage("--basic-auth.username and --basic-auth.password-file belong together")
	}
	if err != nil {
		return err
	}
	for _, name := range []*string{
		&t.basicAuth.PasswordFile, &t.tls.CAFile, &t.tls.CertFile, &t.tls.KeyFile,
		&t.system.CredentialsFile, &t.system.NkeySeedFile, &t.system.PasswordFile,
	} {
		if *name == "" {
			continue
		}
		if *name, err = filepath.Abs(*name); err != nil {
			return fmt.Errorf("find file %q: %w", *name, err)
		}
	}
	return nil
}

func isHTTPS(u string) bool { return strings.HasPrefix(strings.ToLower(u), "https://") }

// apply adds what the command line names to what a section says.
func (t *natsTargetFlags) apply(f *pflag.FlagSet, urls []string, e *natsmon.Config) {
	for _, u := range urls {
		s := natsmon.ServerConfig{URL: u}
		if t.basicAuth != (promconfig.BasicAuth{}) {
			auth := t.basicAuth
			s.BasicAuth = &auth
		}
		if isHTTPS(u) {
			s.TLSConfig = t.tls
		}
		e.Servers = append(e.Servers, s)
	}
	if len(t.system.URLs) > 0 {
		s := t.system
		s.TLSConfig = t.tls
		e.System = append(e.System, s)
	}
	if f.Changed("compat") {
		e.Compat = t.compat
	}
	if f.Changed("compat-prefix") {
		e.CompatPrefix = t.prefix
	}
}
