package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/node"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// demoInterval is how often the demo scrapes.
const demoInterval = 5 * time.Second

// demo is what the command line of the demo says.
type demo struct {
	scrape, federate []string
	bearerTokenFile  string
	hubs             int
	web              webFlags
	log              telemetry.LogOptions
	portGiven        bool
}

func newDemoCommand() *cobra.Command {
	var d demo
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run everything in this process, to try it: NATS, a hub and an edge",
		Long: `Run an embedded NATS server, a hub and an edge in this process, without any file. The edge scrapes
this process, every --scrape and every --federate, at once and then every 5 s. It takes remote write
and pushes on a loopback listener. Data stands in a temporary directory that is removed at the end.`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if d.hubs < 1 || d.hubs > 16 {
				return usage("--hubs is %d, want 1 to 16", d.hubs)
			}
			d.portGiven = c.Flags().Changed("web.listen-address")
			return d.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringArrayVar(&d.scrape, "scrape", nil, "HOST:PORT[/path] to scrape; may be repeated")
	f.StringArrayVar(&d.federate, "federate", nil, "URL of a Prometheus or its /federate to take everything from; may be repeated")
	f.StringVar(&d.bearerTokenFile, "bearer-token-file", "", "file with the bearer token for --federate")
	f.IntVar(&d.hubs, "hubs", 1, "number of hubs")
	d.web.add(f)
	addLogFlags(f, &d.log)
	f.Lookup("log.level").DefValue, d.log.Level = "warn", "warn"
	return c
}

func (d *demo) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	d.log.Output = stderr
	log, err := telemetry.OpenLog(d.log)
	if err != nil {
		return &usageError{err}
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	dir, err := os.MkdirTemp("", "thalweg-demo-")
	if err != nil {
		return fmt.Errorf("make directory for data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg, err := d.config(dir)
	if err != nil {
		return &usageError{err}
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	options := node.Options{
		Config: cfg, Log: log, Version: build().Version, ListenAddress: d.web.listen, WebConfigFile: d.web.config, Immediate: true,
	}
	first, err := node.New(options)
	if errors.Is(err, syscall.EADDRINUSE) && !d.portGiven { // any will do
		options.ListenAddress = "127.0.0.1:0"
		first, err = node.New(options)
	}
	if err != nil {
		return err
	}
	nodes := []*node.Node{first}
	for i := 2; i <= d.hubs && err == nil; i++ {
		var further *node.Node
		if further, err = d.further(i, dir, first.NATSURL(), log); err == nil {
			nodes = append(nodes, further)
		}
	}
	if err != nil {
		ctx, stop = context.WithCancel(ctx) // Run lets go of what is there
		stop()
	} else {
		d.explain(stdout, nodes, dir)
	}
	return errors.Join(err, runAll(ctx, nodes, stdout))
}

// runAll runs the nodes until ctx ends or one of them fails. The first one, which has the server, ends last.
func runAll(ctx context.Context, nodes []*node.Node, stdout io.Writer) error {
	errs := make([]error, len(nodes))
	further, stopFurther := context.WithCancel(ctx)
	first, stopFirst := context.WithCancel(context.WithoutCancel(ctx))
	defer stopFirst()
	defer stopFurther()
	var hubs, server sync.WaitGroup
	for i, n := range nodes[1:] {
		hubs.Go(func() {
			errs[i+1] = n.Run(further)
			stopFurther()
		})
	}
	server.Go(func() {
		errs[0] = nodes[0].Run(first)
		stopFurther()
	})
	<-further.Done()
	fmt.Fprintln(stdout, "\nStopping: what was accepted is sent first.")
	hubs.Wait()
	stopFirst()
	server.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "Stopped. Nothing is left behind.")
	return nil
}

// config makes the configuration that the demo runs.
func (d *demo) config(dir string) (*config.Config, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "site: demo\ndata_dir: %q\n", dir)
	fmt.Fprintf(&b, "global: {scrape_interval: %s, scrape_timeout: 4s}\n", model.Duration(demoInterval))
	b.WriteString("nats: {embedded: {listen: \"127.0.0.1:0\"}}\nhub: {}\nedge:\n")
	if d.receives() {
		b.WriteString("  receive: {remote_write: true, pushgateway: true}\n")
	}
	b.WriteString("  scrape_configs:\n")
	given := map[string]bool{}
	for _, s := range slices.Concat(d.scrape, d.federate) {
		if given[s] {
			return nil, fmt.Errorf("%s is given twice", s)
		}
		given[s] = true
	}
	for _, s := range d.scrape {
		host, path, err := target(s)
		if err != nil {
			return nil, fmt.Errorf("--scrape=%s: %w", s, err)
		}
		fmt.Fprintf(&b, "  - {job_name: %q, metrics_path: %q, static_configs: [{targets: [%q]}]}\n", s, path, host)
	}
	for _, s := range d.federate {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("--federate=%s: not an http or https URL", s)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/federate"
		}
		match := u.Query()["match[]"]
		if len(match) == 0 {
			match = []string{`{__name__=~".+"}`}
		}
		fmt.Fprintf(&b, "  - {job_name: %q, scheme: %s, metrics_path: %q, honor_labels: true, params: {\"match[]\": [%s]}, static_configs: [{targets: [%q]}]",
			s, u.Scheme, u.Path, quoted(match), u.Host)
		if d.bearerTokenFile != "" {
			file, err := filepath.Abs(d.bearerTokenFile)
			if err != nil {
				return nil, fmt.Errorf("--bearer-token-file=%s: %w", d.bearerTokenFile, err)
			}
			fmt.Fprintf(&b, ", authorization: {credentials_file: %q}", file)
		}
		b.WriteString("}\n")
	}
	return config.Parse([]byte(b.String()))
}

// receives reports whether the demo takes what others write: only from this machine, for nobody is asked who he is.
func (d *demo) receives() bool {
	host, _, err := net.SplitHostPort(d.web.listen)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// target splits HOST:PORT[/path].
func target(s string) (host, path string, err error) {
	host, path = strings.TrimPrefix(s, "http://"), "/metrics"
	if i := strings.IndexByte(host, '/'); i >= 0 {
		host, path = host[:i], host[i:]
	}
	if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
		return "", "", errors.New("not HOST:PORT[/path]")
	}
	return host, path, nil
}

func quoted(list []string) string {
	var q []string
	for _, s := range list {
		q = append(q, fmt.Sprintf("%q", s))
	}
	return strings.Join(q, ", ")
}

// further makes hub number i, which reads from the server of the first node.
func (d *demo) further(i int, dir, natsURL string, log *telemetry.Log) (*node.Node, error) {
	cfg, err := config.Parse(fmt.Appendf(nil, "site: demo-hub-%d\ndata_dir: %q\nnats: {urls: [%q]}\nhub: {}\n",
		i, filepath.Join(dir, fmt.Sprintf("hub-%d", i)), natsURL))
	if err != nil {
		return nil, fmt.Errorf("configure hub %d: %w", i, err)
	}
	return node.New(node.Options{Config: cfg, Log: log, Version: build().Version, ListenAddress: "127.0.0.1:0", WebConfigFile: d.web.config})
}

// explain says what runs, where to look and how to stop.
func (d *demo) explain(w io.Writer, nodes []*node.Node, dir string) {
	hubs := "a hub"
	if len(nodes) > 1 {
		hubs = fmt.Sprintf("%d hubs", len(nodes))
	}
	fmt.Fprintf(w, "Thalweg %s demo: a NATS server, %s and an edge run in this process.\n\n", build().Version, hubs)
	fmt.Fprintf(w, "  NATS       %s\n", nodes[0].NATSURL())
	fmt.Fprintf(w, "  scraping   this process")
	for _, s := range slices.Concat(d.scrape, d.federate) {
		fmt.Fprintf(w, ", %s", s)
	}
	fmt.Fprintf(w, "; at once and then every %s\n", demoInterval)
	if d.receives() {
		fmt.Fprintf(w, "  writing    %s/api/v1/write takes remote write\n", nodes[0].URL())
		fmt.Fprintf(w, "  pushing    echo 'answer 42' | curl --data-binary @- %s/metrics/job/try\n", nodes[0].URL())
	}
	fmt.Fprintf(w, "  data       %s (removed at the end)\n\nLook at\n\n", dir)
	for i, n := range nodes {
		if i > 0 {
			fmt.Fprintf(w, "\n  hub %d\n", i+1)
		}
		fmt.Fprintf(w, "  status     %s/\n", n.URL())
		fmt.Fprintf(w, "  all series %s/federate?match[]=%s\n", n.URL(), url.QueryEscape(`{__name__=~".+"}`))
		fmt.Fprintf(w, "  targets up %s/federate?match[]=up\n", n.URL())
	}
	if len(nodes) > 1 {
		fmt.Fprintf(w, "\nAll hubs have everything, and tell Prometheus which of them to take it from: %s/sd/hubs\n", nodes[0].URL())
	}
	fmt.Fprintf(w, "\nWith curl:  curl -g '%s/federate?match[]=up'\nStop with Ctrl-C.\n", nodes[0].URL())
}
