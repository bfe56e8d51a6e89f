package convert

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"github.com/thalweg/thalweg/internal/events"
)

// gatewayFile is what is made of an appsettings.json.
type gatewayFile struct {
	Gateway gateway `yaml:"gateway"`
}

type gateway struct {
	ListenAddress string `yaml:"listen_address"`
	Redis         redis  `yaml:"redis"`
	MetaMetrics   *bool  `yaml:"meta_metrics,omitempty"`
}

type redis struct {
	Address  string `yaml:"address"`
	Database int    `yaml:"database,omitempty"`
	Key      string `yaml:"key"`
	Workers  int    `yaml:"workers,omitempty"`
	PopCount int    `yaml:"pop_count,omitempty"`
}

// containerPort is where prom-stream-gateway listens in its container if nothing says otherwise.
const containerPort = ":8080"

// Appsettings converts an appsettings.json of prom-stream-gateway into a section gateway. An error means that there is
// nothing to convert.
func Appsettings(content []byte) ([]byte, []Note, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(plainJSON(content), &document); err != nil { // which includes JSON, and knows lines
		return nil, nil, fmt.Errorf("read JSON: %w", err)
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, nil, errors.New("this is no JSON object")
	}
	a := appsettings{config: events.DefaultConfig()}
	defaults := events.DefaultRedisConfig()
	r := defaults
	a.config.Redis = &r
	a.visit(document.Content[0], "")
	if a.listen == "" {
		a.listen = containerPort
		a.notes.add(document.Content[0], "", "the port is not in this file; listen_address is %s, where prom-stream-gateway listens in its container", containerPort)
	}
	out := gatewayFile{gateway{ListenAddress: a.listen, Redis: redis{Address: r.Address, Database: r.Database, Key: r.Key}}}
	if r.Workers != defaults.Workers {
		out.Gateway.Redis.Workers = r.Workers
	}
	if r.PopCount != defaults.PopCount {
		out.Gateway.Redis.PopCount = r.PopCount
	}
	if !a.config.MetaMetrics {
		out.Gateway.MetaMetrics = new(false)
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(out); err != nil {
		return nil, nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), a.notes.inOrder(), nil
}

// appsettings is a file of prom-stream-gateway on its way.
type appsettings struct {
	config events.Config
	listen string
	notes  notes
}

// visit takes all values below a node, whose path is that of .NET: sections with colons between them.
func (a *appsettings) visit(node *yaml.Node, path string) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := strings.TrimPrefix(path+":"+key.Value, ":")
		switch {
		case a.other(key, value, name):
		case value.Kind == yaml.MappingNode:
			a.visit(value, name)
		case value.Kind != yaml.ScalarNode:
			a.notes.add(key, name, "is not a single value")
		case value.ShortTag() != "!!null":
			a.set(key, name, value.Value)
		}
	}
}

// set takes a setting of prom-stream-gateway.
func (a *appsettings) set(key *yaml.Node, name, value string) {
	known, err := a.config.Apply(name, value)
	hasPassword := strings.Contains(strings.ToLower(value), "password")
	switch {
	case !known:
		a.notes.add(key, name, "prom-stream-gateway does not know this key; it is left out")
	case err != nil && hasPassword:
		a.notes.add(key, name, "cannot be used as it stands; it is carried over, and check config says why")
	case err != nil:
		a.notes.add(key, name, "%s", strings.TrimPrefix(err.Error(), name+": "))
	case hasPassword:
		a.notes.add(key, name, "the password is in the address; gateway.redis.password_file keeps it out of this file")
	case strings.EqualFold(name, "Metrics:MetricQueuePopCount"):
		a.notes.add(key, name, "stood in the wrong section, where it had no effect; it is gateway.redis.pop_count now")
	}
}

// other takes what is not a setting of prom-stream-gateway but of what it is made with, and reports whether it is.
func (a *appsettings) other(key, value *yaml.Node, name string) bool {
	switch strings.ToLower(name) {
	case "logging", "serilog":
		a.notes.add(key, name, "is on the command line here: --log.level, --log.format=json, --log.file")
	case "allowedhosts":
		if value.Value != "*" {
			a.notes.add(key, name, "requests are answered whatever host they name")
		}
	case "urls", "kestrel:endpoints:http:url":
		a.listenAt(key, name, value.Value)
	default:
		return false
	}
	return true
}

// listenAt takes the first of the URLs that can be listened at.
func (a *appsettings) listenAt(key *yaml.Node, name, list string) {
	for text := range strings.SplitSeq(list, ";") {
		// .NET has * and + for all addresses.
		u, err := url.Parse(strings.NewReplacer("//*", "//", "//+", "//").Replace(strings.TrimSpace(text)))
		if err == nil && u.Scheme == "http" && u.Port() != "" && a.listen == "" {
			a.listen = u.Host
			continue
		}
		a.notes.add(key, name, "%q is left out: there is one listener, of plain text unless gateway.tls_server_config has a certificate", text)
	}
}

// plainJSON replaces by blanks what .NET takes beside JSON, and tabs, where they do not stand in a string. Lines stay.
func plainJSON(content []byte) []byte {
	out := bytes.Clone(bytes.TrimPrefix(content, []byte("\ufeff")))
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	until := func(from int, end string) int {
		if n := bytes.Index(out[from:], []byte(end)); n >= 0 {
			return from + n + len(end)
		}
		return len(out)
	}
	for i := 0; i < len(out); i++ {
		switch {
		case out[i] == '"':
			for i++; i < len(out) && out[i] != '"'; i++ {
				if out[i] == '\\' {
					i++
				}
			}
		case out[i] == '\t' || out[i] == '\r':
			out[i] = ' '
		case bytes.HasPrefix(out[i:], []byte("//")):
			end := until(i, "\n")
			blank(i, end)
			i = end - 1
		case bytes.HasPrefix(out[i:], []byte("/*")):
			end := until(i+2, "*/")
			blank(i, end)
			i = end - 1
		}
	}
	return out
}
