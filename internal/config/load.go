package config

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	// The kinds of service discovery that scrape_configs may have.
	_ "github.com/prometheus/prometheus/discovery/dns"
	_ "github.com/prometheus/prometheus/discovery/file"
	_ "github.com/prometheus/prometheus/discovery/http"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/pipeline"
)

// Load reads, checks and completes a file. Relative file names in it are relative to its directory, match_file is read,
// and the credential in the data directory, which is data_dir unless another one is given here. The error joins one
// *Error for each mistake.
func Load(file, dataDir string) (*Config, error) {
	return loadWith(file, dataDir, func(*Config) error { return nil })
}

// loadWith calls change between what the file says and the checks.
func loadWith(file, dataDir string, change func(*Config) error) (*Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if dataDir != "" { // it is relative to where the program runs
		if dataDir, err = filepath.Abs(dataDir); err != nil {
			return nil, fmt.Errorf("find data directory: %w", err)
		}
	}
	c, err := parseWith(b, func(c *Config) error {
		c.DataDir = cmp.Or(dataDir, c.DataDir)
		return errors.Join(change(c), c.useCredential(config.JoinDir(filepath.Dir(file), c.DataDir)))
	})
	if err == nil {
		c.SetDirectory(filepath.Dir(file))
		err = errors.Join(c.readMatchFile(), c.checkKeys())
	}
	if err != nil {
		return nil, inFile(file, err)
	}
	return c, nil
}

// LoadClient reads what a file says about reaching NATS from the centre. Unlike with Load, the file need not turn a role
// on.
func LoadClient(file string) (bus.Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return bus.Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseWith(b, func(c *Config) error {
		c.roleless = true
		return nil
	})
	if err != nil {
		return bus.Config{}, inFile(file, err)
	}
	c.SetDirectory(filepath.Dir(file))
	return c.HubClient(), nil
}

// inFile puts the name of the file into each mistake.
func inFile(file string, err error) error {
	for e := range each(err) {
		if e, ok := e.(*Error); ok {
			e.File = file
		}
	}
	return err
}

// Parse checks and completes the content of a file. File names in it stay as they are, and neither match_file nor a
// credential is read. The error joins one *Error for each mistake.
func Parse(b []byte) (*Config, error) { return parseWith(b, func(*Config) error { return nil }) }

// parseWith calls complete between what the file says and the checks.
func parseWith(b []byte, complete func(*Config) error) (*Config, error) {
	root, written, err := parseTree(b, roles)
	if err != nil {
		return nil, err
	}
	c := DefaultConfig()
	if root != nil {
		if err := decode(root, written, &c); err != nil {
			return nil, err
		}
	}
	c.expandExternalLabels()
	if err := complete(&c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &c, nil
}

// expandExternalLabels puts environment variables into the values, as Prometheus does.
func (c *Config) expandExternalLabels() {
	b := labels.NewScratchBuilder(c.Global.ExternalLabels.Len())
	c.Global.ExternalLabels.Range(func(l labels.Label) {
		b.Add(l.Name, os.Expand(l.Value, func(name string) string {
			if name == "$" {
				return "$"
			}
			return os.Getenv(name)
		}))
	})
	c.Global.ExternalLabels = b.Labels()
}

// complete fills in the defaults that depend on other keys, and gives what means the same the same form.
func (c *Config) complete() {
	if len(c.NATS.Client.URLs) == 0 {
		c.NATS.Client.URLs = nil
	}
	if c.Edge != nil {
		c.Edge.NATS = override(c.Edge.NATS)
	}
	if c.Hub != nil {
		c.Hub.NATS = override(c.Hub.NATS)
	}
	c.NATS.Embedded = c.Embedded()
	c.completeNATSExporter()
	c.trackFederatedStaleness()
	if c.Hub != nil && c.Hub.Name == "" {
		c.Hub.Name = c.Site
	}
}

// SetDirectory joins relative file names with dir.
func (c *Config) SetDirectory(dir string) {
	c.DataDir = config.JoinDir(dir, c.DataDir)
	c.NATS.Client.SetDirectory(dir)
	if c.NATS.Embedded != nil {
		c.NATS.Embedded.SetDirectory(dir)
	}
	if c.Edge != nil {
		if c.Edge.NATS != nil {
			c.Edge.NATS.SetDirectory(dir)
		}
		c.Edge.Scrape.SetDirectory(dir)
		c.Edge.Receive.SetDirectory(dir)
		p := &c.Edge.Pipeline
		p.MatchFile = config.JoinDir(dir, p.MatchFile)
		p.Anonymize.KeyFile = config.JoinDir(dir, p.Anonymize.KeyFile)
		p.Anonymize.PreviousKeyFile = config.JoinDir(dir, p.Anonymize.PreviousKeyFile)
	}
	if c.Hub != nil {
		c.Hub.setDirectory(dir)
	}
	if c.Gateway != nil {
		c.Gateway.SetDirectory(dir)
	}
	if c.NATSExporter != nil {
		c.NATSExporter.SetDirectory(dir)
	}
}

func (h *Hub) setDirectory(dir string) {
	if h.NATS != nil {
		h.NATS.SetDirectory(dir)
	}
	if h.Telemeter != nil {
		h.Telemeter.SetDirectory(dir)
	}
	h.Receive.SetDirectory(dir)
	for i := range h.RemoteWrite {
		h.RemoteWrite[i].SetDirectory(dir)
	}
	if h.Pushgateway != nil {
		h.Pushgateway.SetDirectory(dir)
	}
}

// readMatchFile adds the selectors of match_file to match.
func (c *Config) readMatchFile() error {
	if c.Edge == nil || c.Edge.Pipeline.MatchFile == "" {
		return nil
	}
	fail := func(err error) error {
		at := c.places.find("edge.match_file")
		return &Error{Line: at.line, Column: at.column, Key: "edge.match_file", Err: err}
	}
	p := &c.Edge.Pipeline
	b, err := os.ReadFile(p.MatchFile)
	if err != nil {
		return fail(err)
	}
	var errs []error
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, len(b)+1)
	found := 0
	for n := 1; lines.Scan(); n++ {
		selector := strings.TrimSpace(lines.Text())
		if selector == "" || selector[0] == '#' {
			continue
		}
		if _, err := pipeline.ParseSelector(selector); err != nil {
			errs = append(errs, fail(fmt.Errorf("%s: line %d: %w", p.MatchFile, n, err)))
			continue
		}
		p.Match = append(p.Match, selector)
		found++
	}
	if found == 0 && len(errs) == 0 && len(p.Match) == 0 {
		// An empty list would let everything out, which is the opposite of what its author wants.
		errs = append(errs, fail(fmt.Errorf("%s: holds no selector, which would mean that everything passes", p.MatchFile)))
	}
	return errors.Join(errs...)
}

// Validate fills in the defaults that depend on other keys, and those that Prometheus fills in when it validates. It
// returns the join of one *Error for each mistake. A Config made by hand is ready for use only after it.
func (c *Config) Validate() error {
	c.complete()
	var found []*Error
	report := func(section string, err error) {
		for e := range each(err) {
			found = append(found, c.places.locate(section, e))
		}
	}
	if err := bus.ValidSite(c.Site); err != nil {
		if _, written := c.places["site"]; !written {
			err = fmt.Errorf("taken from the host name because site is not set: %w", err)
		}
		report("", fmt.Errorf("site: %w", err))
	}
	if c.DataDir == "" {
		report("", errors.New("data_dir: is empty"))
	}
	if c.Edge == nil && c.Hub == nil && c.Gateway == nil && c.NATSExporter == nil && !c.roleless {
		report("", c.noRole())
	}
	report("nats", c.validateNATS())
	if c.Edge != nil {
		c.Edge.Scrape.Resolve(c.Global.Prometheus(), func(err error) { report("edge", err) })
		report("edge", c.Edge.Config.Validate())
		report("edge.nats", validateOverride(c.Edge.NATS))
	}
	if c.Hub != nil {
		report("hub", c.Hub.Config.Validate())
		report("hub.nats", validateOverride(c.Hub.NATS))
		for name := range c.Hub.Sites {
			if err := bus.ValidSite(name); err != nil {
				report("hub.sites."+name, err)
			}
		}
		report("hub", c.validateReceivers())
		if name := model.LabelName(c.Hub.Store.SiteLabel); c.Global.ExternalLabels.Has(string(name)) {
			report("hub", fmt.Errorf("site_label: %q is one of global.external_labels too", name))
		}
	}
	if c.NATSExporter != nil {
		report("nats_exporter", c.validateNATSExporter())
	}
	if c.Gateway != nil {
		report("gateway", c.Gateway.Validate())
		report("gateway", c.validateEvents())
	}
	return inOrder(found)
}

// inOrder joins errors in the order of the file.
func inOrder(found []*Error) error {
	slices.SortStableFunc(found, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
	errs := make([]error, len(found))
	for i, e := range found {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// roles are the sections that turn something on.
var roles = map[string]bool{"edge": true, "hub": true, "gateway": true, "nats_exporter": true}

func (c *Config) noRole() error {
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		if _, written := c.places[role]; written {
			return fmt.Errorf("%s: section is empty; write %s: {} to turn it on", role, role)
		}
	}
	return errors.New("nothing to run: none of edge, hub, gateway and nats_exporter is there")
}

func (c *Config) validateNATS() error {
	n := &c.NATS
	errs := []error{n.Client.Validate()}
	if n.Embedded != nil {
		if len(n.Client.URLs) > 0 {
			errs = append(errs, errors.New("urls: connects out, and embedded runs a server here; remove one"))
		}
		for e := range each(n.Embedded.Validate()) {
			errs = append(errs, fmt.Errorf("embedded.%w", e))
		}
	}
	return errors.Join(append(errs, needsURL(&n.Client))...)
}

// trackFederatedStaleness turns track_timestamps_staleness on for jobs that scrape a /federate endpoint and do not say
// otherwise. All samples there carry timestamps, and without it a series that ended stays visible for the lookback.
func (c *Config) trackFederatedStaleness() {
	if c.Edge == nil {
		return
	}
	for i, job := range c.Edge.Scrape.Jobs {
		_, written := c.places[fmt.Sprintf("edge.scrape_configs[%d].track_timestamps_staleness", i)]
		if job != nil && !written && strings.HasSuffix(job.MetricsPath, "/federate") {
			job.TrackTimestampsStaleness = true
		}
	}
}

// validateReceivers finds receivers of both roles that would be one endpoint.
func (c *Config) validateReceivers() error {
	if c.Edge == nil || c.Edge.Receive.ListenAddress != "" || c.Hub.Receive.ListenAddress != "" {
		return nil
	}
	for _, both := range []struct {
		key       string
		edge, hub bool
	}{
		{"remote_write", c.Edge.Receive.RemoteWrite, c.Hub.Receive.RemoteWrite},
		{"pushgateway", c.Edge.Receive.Pushgateway, c.Hub.Receive.Pushgateway},
	} {
		if both.edge && both.hub {
			return fmt.Errorf("receive.%s: edge.receive.%s is on the same listener; give one of them a listen_address", both.key, both.key)
		}
	}
	return nil
}

// override returns nil for a role's nats section that says nothing.
func override(n *bus.Config) *bus.Config {
	if n == nil {
		return nil
	}
	if len(n.URLs) == 0 {
		n.URLs = nil
	}
	if reflect.DeepEqual(*n, bus.DefaultConfig()) {
		return nil
	}
	return n
}

func validateOverride(n *bus.Config) error {
	if n == nil {
		return nil
	}
	if len(n.URLs) == 0 {
		return errors.New("urls: is empty; this section replaces the top-level nats as a whole")
	}
	return n.Validate()
}

// needsURL finds settings that have no effect on the embedded server, where somebody forgot urls.
func needsURL(n *bus.Config) error {
	if len(n.URLs) > 0 {
		return nil
	}
	var errs []error
	for _, k := range []struct{ key, value string }{
		{"token_file", n.TokenFile}, {"credentials_file", n.CredentialsFile}, {"nkey_seed_file", n.NKeySeedFile},
		{"username", n.Username}, {"puppet_ssl_dir", n.PuppetSSLDir}, {"proxy_url", n.ProxyURL}, {"domain", n.Domain},
	} {
		if k.value != "" {
			errs = append(errs, fmt.Errorf("%s: is set, but urls is empty", k.key))
		}
	}
	if n.TLSConfig != (config.TLSConfig{}) {
		errs = append(errs, errors.New("tls_config: is set, but urls is empty"))
	}
	return errors.Join(errs...)
}
