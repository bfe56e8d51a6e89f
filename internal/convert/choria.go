package convert

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	yaml "go.yaml.in/yaml/v3"
)

// Roles say which parts of a file are converted.
type Roles string

const (
	AllRoles Roles = ""     // those that stand there
	EdgeRole Roles = "edge" // the poller's
	HubRole  Roles = "hub"  // the receiver's
)

// file is what is made, in the order in which it is written.
type file struct {
	Site   string  `yaml:"site,omitempty"`
	Global *global `yaml:"global,omitempty"`
	NATS   *nats   `yaml:"nats,omitempty"`
	Edge   *edge   `yaml:"edge,omitempty"`
	Hub    *hub    `yaml:"hub,omitempty"`
}

type global struct {
	ScrapeInterval string `yaml:"scrape_interval"`
	ScrapeTimeout  string `yaml:"scrape_timeout"`
}

type nats struct {
	URLs           []string   `yaml:"urls,flow"`
	TLSConfig      *tlsConfig `yaml:"tls_config,omitempty"`
	PuppetSSLDir   string     `yaml:"puppet_ssl_dir,omitempty"`
	PuppetIdentity string     `yaml:"puppet_identity,omitempty"`
}

type tlsConfig struct {
	CAFile   string `yaml:"ca_file,omitempty"`
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
}

type edge struct {
	NATS          *nats       `yaml:"nats,omitempty"`
	ScrapeConfigs []scrapeJob `yaml:"scrape_configs,omitempty"`
}

type scrapeJob struct {
	JobName       string         `yaml:"job_name"`
	Scheme        string         `yaml:"scheme,omitempty"`
	MetricsPath   string         `yaml:"metrics_path,omitempty"`
	Params        url.Values     `yaml:"params,omitempty"`
	BasicAuth     *basicAuth     `yaml:"basic_auth,omitempty"`
	StaticConfigs []staticConfig `yaml:"static_configs"`
}

type basicAuth struct {
	Username string `yaml:"username,omitempty"`
	Password string `yaml:"password,omitempty"`
}

type staticConfig struct {
	Targets []string          `yaml:"targets,flow"`
	Labels  map[string]string `yaml:"labels,omitempty,flow"`
}

type hub struct {
	Pushgateway *pushgateway `yaml:"pushgateway,omitempty"`
}

type pushgateway struct {
	URL            string     `yaml:"url"`
	PublisherLabel bool       `yaml:"publisher_label,omitempty"`
	MaxAge         string     `yaml:"max_age,omitempty"`
	BasicAuth      *basicAuth `yaml:"basic_auth,omitempty"`
}

// choria is a file of choria prometheus-streams on its way.
type choria struct {
	*section // the top of the file
	identity string
	tls      *section // for sections that have none of their own
}

// Choria converts a file of choria prometheus-streams: the poller's part into an edge, the receiver's into a hub. An
// error means that there is nothing to convert.
func Choria(content []byte, roles Roles) ([]byte, []Note, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, nil, fmt.Errorf("read YAML: %w", err)
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, nil, errors.New("this is no file of keys and values")
	}
	var found notes
	c := &choria{section: newSection(document.Content[0], "", &found)}
	out, err := c.convert(roles)
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(out); err != nil {
		return nil, nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), found.inOrder(), nil
}

func (c *choria) convert(roles Roles) (*file, error) {
	jobs, poller, receiver, gateway := c.take("jobs"), c.take("poller_stream"), c.take("receiver_stream"), c.take("push_gateway")
	isEdge := roles != HubRole && (jobs != nil || poller != nil)
	isHub := roles != EdgeRole && (receiver != nil || gateway != nil)
	if !isEdge && !isHub {
		return nil, errors.New("nothing in it makes an edge (jobs, poller_stream) or a hub (receiver_stream, push_gateway) of what is wanted")
	}
	out := &file{Site: c.site()}
	c.tls = c.section.section("tls")
	interval := c.interval()
	if isHub {
		out.NATS = c.stream("receiver_stream")
		out.Hub = c.hub(gateway)
	} else {
		c.drop("max_age", "is the receiver's, which is not converted")
	}
	if isEdge {
		out.Global = interval
		out.Edge = &edge{ScrapeConfigs: c.jobs(jobs)}
		stream := c.stream("poller_stream")
		switch {
		case !isHub:
			out.NATS = stream
		case !reflect.DeepEqual(stream, out.NATS):
			out.Edge.NATS = stream
		}
	}
	c.others(isEdge)
	c.rest("choria")
	return out, nil
}

// others says what to do instead of keys that are flags here, or nothing.
func (c *choria) others(isEdge bool) {
	c.drop("verbose", "had no effect there and has none here")
	if debug, node := c.isTrue("debug"); debug {
		c.notes.add(node, "debug", "is on the command line here: --log.level=debug")
	}
	if value, node := c.text("logfile"); value != "" {
		c.notes.add(node, "logfile", "is on the command line here: --log.file=%s --log.format=json", value)
	}
	if value, node := c.text("monitor_port"); value != "" && value != "0" {
		c.notes.add(node, "monitor_port", "is on the command line here: --web.listen-address=:%s, which serves /metrics, the status page and /federate to everybody (default: 127.0.0.1:9797)", value)
		if isEdge {
			c.notes.add(node, "monitor_port", "instead of the job prometheus_streams the edge sends its own metrics as job thalweg, also without this")
		}
	}
	c.drop("management", "there is no Choria agent here: see the status page, the JSON API and POST /-/reload")
}

var notInSite = regexp.MustCompile(`[^A-Za-z0-9_-]`)

// site is the name of the site that stands for an identity.
func (c *choria) site() string {
	identity, node := c.text("identity")
	if identity == "" {
		c.notes.add(c.node, "identity", "is missing, so that the site is the host name up to its first dot")
		return ""
	}
	c.identity = identity
	site := notInSite.ReplaceAllString(identity, "-")
	site = site[:min(len(site), 64)]
	if site != identity {
		c.notes.add(node, "identity", "%q cannot be the name of a site, which is %q now, as are the labels site and publisher", identity, site)
	}
	return site
}

// interval is the interval of scrapes, which was their timeout too.
func (c *choria) interval() *global {
	text, node := c.text("scrape_interval")
	if node == nil {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Millisecond {
		c.notes.add(node, "scrape_interval", "%q is no duration such as 30s; 15s is in force", text)
		return nil
	}
	interval := model.Duration(d.Truncate(time.Millisecond)).String()
	return &global{ScrapeInterval: interval, ScrapeTimeout: interval}
}

// stream is how to reach NATS, as a section for a stream says; nil if it does not.
func (c *choria) stream(name string) *nats {
	s := c.section.section(name)
	s.drop("cluster_id", "is NATS Streaming's; JetStream has no such name")
	if name == "receiver_stream" {
		s.drop("client_id", "is not needed: a hub keeps its position in data_dir")
	} else {
		s.drop("client_id", "is not needed: a site is known by its name")
	}
	s.drop("topic", "subjects are made of nats.subject_root and the site, the stream is nats.stream.name")
	var out nats
	c.useTLS(&out, s)
	list, node := s.text("urls")
	for text := range strings.SplitSeq(list, ",") {
		if text = s.natsURL(node, strings.TrimSpace(text), out.TLSConfig != nil || out.PuppetSSLDir != ""); text != "" {
			out.URLs = append(out.URLs, text)
		}
	}
	s.rest("choria")
	if len(out.URLs) == 0 {
		where := c.node
		if s.node != nil {
			where = s.node
		}
		c.notes.add(where, s.at("urls"), "no server is named, so that one runs inside this process")
		return nil
	}
	s.notes.add(node, s.at("urls"), "these must be NATS servers with JetStream; a NATS Streaming server has none")
	return &out
}

// natsURL gives a URL a scheme, and takes a user out of it. It is empty if there is none.
func (s *section) natsURL(node *yaml.Node, text string, secure bool) string {
	if text == "" {
		return ""
	}
	if !strings.Contains(text, "://") {
		text = "nats://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		s.notes.add(node, s.at("urls"), "one of them is no URL, and is left out")
		return ""
	}
	if u.User != nil {
		s.notes.add(node, s.at("urls"), "the user and password of %s belong into nats.username and nats.password_file", u.Host)
		u.User = nil
	}
	if secure && u.Scheme == "nats" {
		u.Scheme = "tls"
	}
	return u.String()
}

// puppetSSLDir is where Puppet keeps the certificates of a machine.
const puppetSSLDir = "/etc/puppetlabs/puppet/ssl"

// useTLS takes what the tls of a section says or, if it has none, that of the file.
func (c *choria) useTLS(out *nats, s *section) {
	t := s.section("tls")
	if t.node == nil {
		if t = c.tls; t.node == nil {
			return
		}
	}
	t.take("cache") // of the management interface
	scheme, node := t.text("scheme")
	identity, _ := t.text("identity")
	dir, _ := t.text("ssl_dir")
	ca, _ := t.text("ca")
	cert, _ := t.text("cert")
	key, _ := t.text("key")
	t.rest("choria")
	switch strings.ToLower(scheme) {
	case "puppet":
		out.PuppetSSLDir, out.PuppetIdentity = cmp.Or(dir, puppetSSLDir), cmp.Or(identity, c.identity)
		if dir == "" {
			c.notes.add(t.node, t.at("ssl_dir"), "is missing; puppet_ssl_dir is what Puppet has for root, %s", puppetSSLDir)
		}
		if out.PuppetIdentity == "" {
			c.notes.add(t.node, t.at("identity"), "is missing, here and at the top; set nats.puppet_identity to the name of the certificate")
		}
	case "manual", "file":
		out.TLSConfig = &tlsConfig{CAFile: ca, CertFile: cert, KeyFile: key}
	default:
		if node == nil {
			node = t.node
		}
		c.notes.add(node, t.at("scheme"), "%q is not puppet or manual; nothing is carried over", scheme)
	}
}

// hub is what pushes to a Push Gateway.
func (c *choria) hub(node *yaml.Node) *hub {
	s := newSection(node, "push_gateway", c.notes)
	text, at := s.text("url")
	label, labelAt := s.isTrue("publisher_label")
	s.rest("choria")
	age := c.maxAge()
	if text == "" {
		where := c.node
		if s.node != nil {
			where = s.node
		}
		c.notes.add(where, "push_gateway.url", "is missing, so that the hub pushes nowhere; it serves /federate")
		return &hub{}
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		c.notes.add(at, "push_gateway.url", "is not an http:// or https:// URL, so that the hub pushes nowhere; it serves /federate")
		return &hub{}
	}
	out := &pushgateway{PublisherLabel: label, MaxAge: age, BasicAuth: credentials(u)}
	u.User = nil
	out.URL = strings.TrimRight(u.String(), "/")
	if out.BasicAuth != nil {
		c.notes.add(at, "push_gateway.url", "the user is in basic_auth now; password_file keeps the password out of this file")
	}
	if out.PublisherLabel {
		c.notes.add(labelAt, "push_gateway.publisher_label", "publisher is the name of the site now")
	}
	return &hub{out}
}

// maxAge is the age, in seconds there, beyond which rows are not pushed.
func (c *choria) maxAge() string {
	text, node := c.text("max_age")
	if node == nil {
		return ""
	}
	seconds, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		c.notes.add(node, "max_age", "%q is no number of seconds; no row is too old", text)
		return ""
	}
	if seconds == 0 {
		return ""
	}
	return model.Duration(time.Duration(seconds) * time.Second).String()
}

// credentials are those in a URL, nil if there are none.
func credentials(u *url.URL) *basicAuth {
	if u.User == nil {
		return nil
	}
	password, _ := u.User.Password()
	return &basicAuth{Username: u.User.Username(), Password: password}
}

// jobs makes scrape jobs. All targets of one of ours are asked in the same way, so one of theirs may become several.
func (c *choria) jobs(node *yaml.Node) []scrapeJob {
	s := newSection(node, "jobs", c.notes)
	names := map[string]bool{}
	for key := range s.keys {
		names[key.Value] = true
	}
	var all []scrapeJob
	for key, value := range s.keys {
		job := newSection(value, s.at(key.Value), c.notes)
		targets := c.targets(job)
		job.rest("choria")
		if len(targets) == 0 {
			c.notes.add(key, job.path, "has no target that could be scraped, and is left out")
			continue
		}
		var parts []scrapeJob
		for _, t := range targets {
			i := slices.IndexFunc(parts, func(p scrapeJob) bool { return reflect.DeepEqual(t.job, withoutTargets(p)) })
			if i < 0 {
				i = len(parts)
				parts = append(parts, t.job)
			}
			parts[i].add(t.address, t.labels)
		}
		for i := range parts {
			parts[i].JobName = key.Value
			if i > 0 {
				parts[i].JobName = unusedName(names, key.Value)
				parts[i].label(model.JobLabel, key.Value)
			}
		}
		if len(parts) > 1 {
			c.notes.add(key, job.path, "its targets differ in more than their address, so that it is %d jobs; the label job is %q in each", len(parts), key.Value)
		}
		all = append(all, parts...)
	}
	return all
}

// unusedName returns a name for another part of a job, and takes it.
func unusedName(taken map[string]bool, name string) string {
	for i := 2; ; i++ {
		if n := fmt.Sprintf("%s-%d", name, i); !taken[n] {
			taken[n] = true
			return n
		}
	}
}

func withoutTargets(j scrapeJob) scrapeJob {
	j.StaticConfigs = nil
	return j
}

// add adds a target; those with the same labels share a list.
func (j *scrapeJob) add(address string, labels map[string]string) {
	for i := range j.StaticConfigs {
		if s := &j.StaticConfigs[i]; maps.Equal(s.Labels, labels) {
			s.Targets = append(s.Targets, address)
			return
		}
	}
	j.StaticConfigs = append(j.StaticConfigs, staticConfig{Targets: []string{address}, Labels: labels})
}

// label gives all targets one more label.
func (j *scrapeJob) label(name, value string) {
	for i := range j.StaticConfigs {
		s := &j.StaticConfigs[i]
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[name] = value
	}
}

// choriaTarget is one target, and the job that asks as it was asked.
type choriaTarget struct {
	job     scrapeJob
	address string
	labels  map[string]string
}

func (c *choria) targets(job *section) []choriaTarget {
	list := job.take("targets")
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	var targets []choriaTarget
	instances := map[string]bool{}
	for i, node := range list.Content {
		s := newSection(node, fmt.Sprintf("%s[%d]", job.at("targets"), i), c.notes)
		name, _ := s.text("name")
		text, at := s.text("url")
		s.rest("choria")
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			c.notes.add(cmp.Or(at, node), s.at("url"), "is not an http:// or https:// URL; the target is left out")
			continue
		}
		t := choriaTarget{address: u.Host, job: scrapeJob{MetricsPath: cmp.Or(u.Path, "/"), BasicAuth: credentials(u)}}
		if u.Scheme != "http" {
			t.job.Scheme = u.Scheme
		}
		if t.job.MetricsPath == "/metrics" {
			t.job.MetricsPath = ""
		}
		if query := u.Query(); len(query) > 0 {
			t.job.Params = query
		}
		if t.job.BasicAuth != nil {
			c.notes.add(at, s.at("url"), "the user is in basic_auth now; password_file keeps the password out of this file")
		}
		if name != "" && name != u.Host {
			t.labels = map[string]string{model.InstanceLabel: name}
		}
		instance := cmp.Or(name, u.Host)
		if instances[instance] {
			c.notes.add(cmp.Or(at, node), s.path, "is the instance %q, as another target of the job: both push into one group; name them", instance)
		}
		instances[instance] = true
		targets = append(targets, t)
	}
	return targets
}
