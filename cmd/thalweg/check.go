package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/federate"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/receive"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/store"
)

func newCheckCommand() *cobra.Command {
	return group(&cobra.Command{Use: "check", Short: "Check files without running anything"}, newCheckConfigCommand())
}

func newCheckConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "config FILE",
		Short: "Check a configuration file and say what it means",
		Long: `Check a configuration file as strictly as "thalweg run" does, and that the files it names can be
read. Print what runs, what is off, and what differs from what a Prometheus user would assume.`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			loaded, err := config.Load(args[0], "")
			if err != nil {
				return fmt.Errorf("%s is not valid:\n%w", args[0], err)
			}
			if err := readable(loaded.Files()); err != nil {
				return fmt.Errorf("%s names files that cannot be read:\n%w", args[0], err)
			}
			metrics := ""
			if e := loaded.Embedded(); e != nil && e.ConfigFile != "" {
				if metrics, err = natsd.CheckConfigFile(e.ConfigFile); err != nil {
					return fmt.Errorf("%s is not valid:\nnats.embedded: %w", args[0], err)
				}
			}
			_, err = fmt.Fprint(c.OutOrStdout(), explain(args[0], loaded, metrics))
			return err
		},
	}
}

// readable opens each file.
func readable(files []config.NamedFile) error {
	var errs []error
	for _, named := range files {
		f, err := os.Open(named.File)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", named.Key, err))
			continue
		}
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// explain says in words what a configuration means. Metrics is where the file of the NATS server wants its metrics to be
// served, or "".
func explain(file string, c *config.Config, metrics string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is valid.\n", file)
	section := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s:\n  - %s\n", title, strings.Join(lines, "\n  - "))
		}
	}
	section("Runs", slices.Concat(runs(c), exported(c, metrics)))
	section("Off", off(c, metrics))
	section("Not as in Prometheus", differences(c))
	return b.String()
}

func runs(c *config.Config) []string {
	lines := []string{fmt.Sprintf("site %s, data in %s", c.Site, c.DataDir)}
	if e := c.Edge; e != nil {
		what := fmt.Sprintf("edge: %s", count(len(e.Scrape.Jobs), "scrape job"))
		if e.Self {
			what += ", and its own metrics as job thalweg"
		}
		lines = append(lines,
			what,
			fmt.Sprintf("edge sends to %s every %s", where(c.EdgeClient()), e.FlushInterval),
			fmt.Sprintf("edge keeps up to %s and %s in its outbox through an outage", e.Outbox.MaxBytes, e.Outbox.MaxAge))
		if file := c.EdgeClient().CredentialFile; file != "" {
			lines = append(lines, fmt.Sprintf("edge proves who it is by the key of %s", file))
		}
		if n := len(e.Pipeline.Match); n > 0 {
			lines = append(lines, fmt.Sprintf("edge lets out only what one of %s selects, and up, scrape_* and its own metrics", count(n, "selector")))
		}
		if n := len(e.Pipeline.RelabelConfigs); n > 0 {
			lines = append(lines, fmt.Sprintf("edge applies %s to every series", count(n, "relabelling rule")))
		}
		if a := e.Pipeline.Anonymize; len(a.Labels) > 0 {
			lines = append(lines, fmt.Sprintf("edge replaces the values of %s by pseudonyms", some("label", a.Labels)))
		}
		lines = append(lines, received("edge", &e.Receive)...)
	}
	if h := c.Hub; h != nil {
		parts := "all sites"
		if h.Parts != hub.AllParts {
			parts = "the sites of parts " + h.Parts.String()
		}
		lines = append(lines, fmt.Sprintf("hub %s: reads %s from %s and serves them at /federate", h.Name, parts, where(c.HubClient())))
		if h.StrictSites {
			lines = append(lines, fmt.Sprintf("hub refuses every site but the %s it lists", count(len(h.Sites), "site")))
		}
		if t := h.Telemeter; t != nil {
			lines = append(lines, fmt.Sprintf("hub takes pushes of telemeter clients at %s%s/upload, allowed by %s",
				cmp.Or(t.ListenAddress, "the web listener, "), t.PathPrefix, cmp.Or(t.TokensFile, t.AuthorizeURL)))
		}
		lines = append(lines, received("hub", &h.Receive)...)
		lines = append(lines, destinations(h)...)
	}
	if c.Gateway != nil {
		lines = append(lines, aggregated(c)...)
	}
	if n := c.Embedded(); n != nil {
		who := "clients without a credential are admitted"
		if needed := neededCredentials(&n.Auth); needed != "" {
			who = "clients need " + needed
		}
		lines = append(lines, fmt.Sprintf("NATS server on %s, %s; the stream holds up to %s and %s",
			n.Listen, who, c.NATS.Client.Stream.MaxBytes, c.NATS.Client.Stream.MaxAge))
	}
	return lines
}

// received says what a role takes, and from whom.
func received(role string, c *receive.Config) (lines []string) {
	at, who := cmp.Or(c.ListenAddress, "the web listener"), "everybody who reaches it"
	if c.TokensFile != "" {
		who = "who has a token of " + c.TokensFile
	}
	if role == "hub" {
		who += ", each as the site of that name"
	}
	if c.RemoteWrite {
		lines = append(lines, fmt.Sprintf("%s takes remote write at /api/v1/write on %s, from %s", role, at, who))
	}
	if c.Pushgateway {
		kept := "until they are deleted"
		if ttl := c.Gateway.TTL; ttl > 0 {
			kept = fmt.Sprintf("for %s after the last push", ttl)
		}
		lines = append(lines, fmt.Sprintf("%s takes pushes at /metrics/job/... on %s, from %s; groups are kept %s", role, at, who, kept))
	}
	return lines
}

// aggregated says where events come from, and where what they came to stands.
func aggregated(c *config.Config) (lines []string) {
	g := c.Gateway
	if r := g.Redis; r != nil {
		lines = append(lines, fmt.Sprintf("event gateway takes events from the list %q of Redis at %s", r.Key, r.Servers()))
	}
	if g.NATS != nil {
		lines = append(lines, fmt.Sprintf("event gateway takes events that are published to %s", c.EventsSubject()))
	}
	at := "the web listener"
	if g.ListenAddress != "" {
		at += " and " + g.ListenAddress
	}
	if g.HTTP {
		lines = append(lines, fmt.Sprintf("event gateway takes events at /api/v1/events on %s, from everybody who reaches it", at))
	}
	page := "/gateway/metrics"
	if g.ListenAddress != "" {
		page += ", and at /metrics on " + g.ListenAddress
	}
	lines = append(lines, "event gateway shows what they came to at "+page)
	if c.Edge != nil {
		lines = append(lines, fmt.Sprintf("edge sends what events came to every %s, as job events", c.Global.ScrapeInterval))
	}
	return lines
}

// exported says of which NATS servers there are metrics, and where.
func exported(c *config.Config, metrics string) (lines []string) {
	if metrics != "" {
		lines = append(lines, fmt.Sprintf("metrics of the NATS server at /metrics on %s, by the block metrics of %s", metrics, c.Embedded().ConfigFile))
	}
	e := c.NATSExporter
	if e == nil {
		return lines
	}
	if e.Embedded {
		lines = append(lines, "NATS exporter reads the NATS server of this process")
	}
	for i := range e.Servers {
		lines = append(lines, "NATS exporter reads "+e.Servers[i].URL)
	}
	for i := range e.System {
		lines = append(lines, "NATS exporter reads all servers that a system account sees at "+strings.Join(e.System[i].URLs, ", "))
	}
	page := "/nats/metrics"
	if e.ListenAddress != "" {
		page += ", and at /metrics on " + e.ListenAddress
	}
	lines = append(lines, "NATS exporter shows metrics of them at "+page)
	if e.Compat != "" {
		lines = append(lines, fmt.Sprintf("NATS exporter shows them under the names of %s, too, beginning with %s_", e.Compat, e.CompatPrefix))
	}
	if c.Edge != nil {
		lines = append(lines, fmt.Sprintf("edge sends metrics of NATS servers every %s, as job nats", c.Global.ScrapeInterval))
	}
	return lines
}

// destinations says where a hub sends everything.
func destinations(h *config.Hub) (lines []string) {
	for i := range h.RemoteWrite {
		w := &h.RemoteWrite[i]
		message := "1.0"
		if w.Prometheus.ProtobufMessage != promconfig.DefaultRemoteWriteConfig.ProtobufMessage {
			message = "2.0, or 1.0 if the receiver does not know it"
		}
		late := "what is late after an outage, too"
		if w.OutOfOrder == remotewrite.DropOutOfOrder {
			late = "and drops what is late after an outage"
		}
		lines = append(lines, fmt.Sprintf("hub sends every row to %s by remote write %s (output %s), %s", w.Prometheus.URL.Redacted(), message, w.OutputName(), late))
	}
	if p := h.Pushgateway; p != nil {
		group := "job and instance"
		if p.PublisherLabel {
			group += ", and the site as publisher"
		}
		lines = append(lines, fmt.Sprintf("hub pushes the last row of every source to the Push Gateway %s (output %s), one group for each %s", p.URL, hub.PushgatewayOutput, group))
	}
	return lines
}

// neededCredentials says what clients of the embedded server have to have, "" if nothing.
func neededCredentials(a *natsd.Auth) string {
	var ways []string
	if a.TokensFile != "" {
		ways = append(ways, "a token of "+a.TokensFile)
	}
	if a.MTLS {
		ways = append(ways, "a client certificate")
	}
	if a.OIDC.Issuer != "" {
		ways = append(ways, "a bearer token of "+a.OIDC.Issuer)
	}
	if a.Enrol {
		ways = append(ways, "a key of thalweg enrol")
	}
	return strings.Join(ways, " or ")
}

func off(c *config.Config, metrics string) []string {
	var lines []string
	alone := c.Edge == nil && c.Hub == nil
	if c.Edge == nil {
		lines = append(lines, "edge: nothing is scraped or sent")
	} else {
		if len(c.Edge.Scrape.Jobs) == 0 {
			lines = append(lines, "scraping: edge.scrape_configs is empty")
		}
		if !c.Edge.Self {
			lines = append(lines, "own metrics: edge.self is false, so a hub cannot tell this edge's trouble from silence")
		}
	}
	switch {
	case c.Hub == nil && c.Embedded() != nil:
		lines = append(lines, "hub: nothing in this process reads what edges send; another process may, from the NATS server here")
	case alone && c.Gateway != nil:
		lines = append(lines, "hub: there is no /federate; what events came to stands at /gateway/metrics")
	case alone:
		lines = append(lines, "hub: there is no /federate")
	case c.Hub == nil:
		lines = append(lines, "hub: /federate serves only the last rows of this edge")
	}
	if g := c.Gateway; g != nil && !g.HTTP {
		lines = append(lines, "events by HTTP: gateway.http is false")
	}
	if g := c.Gateway; g != nil && g.Redis == nil {
		lines = append(lines, "events from Redis: gateway.redis is not there")
	}
	if g := c.Gateway; g != nil && g.NATS == nil {
		lines = append(lines, "events from NATS: gateway.nats is not there")
	}
	if c.Embedded() != nil && (c.NATSExporter == nil || !c.NATSExporter.Embedded) && metrics == "" {
		lines = append(lines, "metrics of the NATS server: nats_exporter does not read it")
	}
	switch {
	case alone && c.Embedded() == nil:
		lines = append(lines, "NATS: nothing is sent")
	case c.Embedded() == nil:
		lines = append(lines, "embedded NATS server: an existing one is used")
	}
	if c.Hub != nil && !c.NATS.Client.Stream.Manage {
		lines = append(lines, "care of the stream: nats.stream.manage is false, somebody else must create it")
	}
	return lines
}

// differences lists what would surprise somebody who knows Prometheus.
func differences(c *config.Config) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if e := c.Edge; e != nil {
		if c.Global.ScrapeInterval == config.DefaultGlobal().ScrapeInterval {
			add("scrape_interval is %s unless a job says otherwise (Prometheus: 1m by default)", c.Global.ScrapeInterval)
		}
		if e.Scrape.Align && len(e.Scrape.Jobs) > 0 {
			add("all targets of the site are scraped close together, so that frames hold many rows (edge.align: false spreads them)")
		}
		var federated, unlimited []string
		for _, job := range e.Scrape.Jobs {
			if job.TrackTimestampsStaleness && strings.HasSuffix(job.MetricsPath, "/federate") {
				federated = append(federated, job.JobName)
			}
			if job.BodySizeLimit == 0 {
				unlimited = append(unlimited, job.JobName)
			}
		}
		if len(federated) > 0 {
			add("series that end at a /federate endpoint end here at once, by track_timestamps_staleness, and not after 5m (%s)", some("job", federated))
		}
		if len(unlimited) > 0 {
			add("a scrape with a body of more than 128 MiB fails where body_size_limit is not set (%s; Prometheus: no limit)", some("job", unlimited))
		}
		if !c.Global.ExternalLabels.IsEmpty() {
			add("external_labels are added to every series at the edge, not only where it leaves the process")
		}
		if e.Recovery == edge.LiveFirst {
			add("after an outage new samples come first and the older ones beside them; /federate shows the newest")
		}
	}
	if h := c.Hub; h != nil {
		if h.Federate.Types == federate.Real {
			add("/federate gives types and help texts (Prometheus: everything untyped; hub.federate.types: untyped does the same)")
		}
		switch h.Store.OnConflict {
		case store.Export:
			add("every series gets the label %q; one that has it already keeps it as exported_%s", h.Store.SiteLabel, h.Store.SiteLabel)
		case store.Drop:
			add("every series gets the label %q; one that has it already is dropped", h.Store.SiteLabel)
		case store.Reject:
			add("every series gets the label %q; a row with a series that has it already is refused", h.Store.SiteLabel)
		}
		if h.Store.Lookback != model.Duration(5*time.Minute) {
			add("a series is served for %s after its last sample (Prometheus: 5m)", h.Store.Lookback)
		}
		lines = append(lines, outputDifferences(c)...)
		limits := h.Limits
		if !limits.AllowUnlimited {
			add("a site may have %d series and %d sources, and send %s per second, and no more", limits.Series, limits.Sources, limits.BytesPerSecond)
		}
	}
	return lines
}

// outputDifferences lists what would surprise about where a hub sends everything.
func outputDifferences(c *config.Config) (lines []string) {
	h := c.Hub
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	sendsLate := false
	for i := range h.RemoteWrite {
		w := &h.RemoteWrite[i]
		sendsLate = sendsLate || w.OutOfOrder == remotewrite.SendOutOfOrder
		if ignored := w.Ignored(); len(ignored) > 0 {
			add("%s of output %s does nothing here: the stream is the queue", strings.Join(ignored, ", "), w.OutputName())
		}
	}
	switch {
	case sendsLate:
		add("what an outage held back leaves by remote write, late and out of order: the receiver needs an out-of-order window as long as the outage (Prometheus: storage.tsdb.out_of_order_time_window)")
	case len(h.RemoteWrite) == 0:
		add("what an outage held back is not on /federate, which shows the newest sample only; remote_write delivers it")
	}
	if p := h.Pushgateway; p != nil {
		add("a Prometheus has to scrape the Push Gateway with honor_labels: true, or job and instance become exported_job and exported_instance")
		if !p.PublisherLabel {
			add("two sites with the same job and instance overwrite each other at the Push Gateway (hub.pushgateway.publisher_label: true tells them apart)")
		}
		if age := time.Duration(p.MaxAge); age > 0 && age < 2*time.Duration(c.Global.ScrapeInterval) {
			add("hub.pushgateway.max_age is %s, less than two intervals of %s: rows that are merely late are dropped", p.MaxAge, c.Global.ScrapeInterval)
		}
	}
	return lines
}

func where(n bus.Config) string {
	if len(n.URLs) == 0 {
		return "the NATS server in this process"
	}
	return strings.Join(n.URLs, ", ")
}

// some names a few things of many.
func some(noun string, names []string) string {
	const few = 3
	if len(names) <= few {
		return noun + " " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s %s and %d more", noun, strings.Join(names[:few], ", "), len(names)-few)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
