// Command gendoc writes docs/config.md, the reference of the configuration file, from the Config structs: their yaml
// tags, their comments and their defaults.
//
//	go generate ./internal/config
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/alecthomas/units"
	promcommon "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/exporter-toolkit/web"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/hub"
)

const (
	modulePath = "github.com/thalweg/thalweg/"
	output     = "docs/config.md"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gendoc:", err)
		os.Exit(1)
	}
}

func run() error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	text, err := generate(root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, output), text, 0o644)
}

// moduleRoot is the nearest directory with a go.mod, from the current one up.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fs.ErrNotExist
		}
		dir = up
	}
}

const introduction = `# Configuration

<!-- Generated from the Config structs by "go generate ./internal/config"; do not edit. -->

One YAML file, given by ` + "`--config.file`" + ` and checked by ` + "`thalweg check config FILE`" + `. The sections ` + "`edge`" + `, ` + "`hub`" + `,
` + "`gateway`" + ` and ` + "`nats_exporter`" + ` turn their roles on: ` + "`{}`" + ` means on with the defaults, absent means off. An unknown key is an error, with line and column; a key
without a value counts as left out, except that an empty role is an error. File names are relative to the directory of
the file. A changed file is taken over on SIGHUP or ` + "`POST /-/reload`" + `; a file with a mistake changes nothing, and the keys
that need a restart are named in the log.

- *duration*: ` + "`500ms`, `15s`, `10m`, `24h`, `7d`" + `, as in Prometheus.
- *size*: ` + "`64KB`, `8MiB`, `10GB`" + `; ` + "`KB` and `KiB`" + ` are both 1024 bytes, as in Prometheus.
- *selector*: ` + "`up`" + ` or ` + "`{job=\"node\", __name__=~\"node_.*\"}`" + `, as in ` + "`match[]` of `/federate`" + `.
- *file*: a secret is never written into the configuration but into a file of its own.

The shortest useful files:

` + "```yaml" + `
# at a site
site: ams-1
nats: {urls: ["nats://hub.example.com:4222"], token_file: token}
edge:
  scrape_configs:
    - job_name: node
      static_configs: [{targets: ["localhost:9100"]}]
` + "```" + `

` + "```yaml" + `
# at the centre
site: core
nats: {embedded: {listen: "0.0.0.0:4222", auth: {tokens_file: tokens}}}
hub: {}
` + "```" + `
`

// generate returns the content of the reference.
func generate(root string) ([]byte, error) {
	comments, err := readComments(root)
	if err != nil {
		return nil, err
	}
	g := generator{comments: comments}
	g.b.WriteString(introduction)
	c := config.DefaultConfig()
	g.section("", "The keys at the top of the file.", reflect.ValueOf(c))
	if len(g.missing) > 0 {
		return nil, fmt.Errorf("no comment on %s", strings.Join(g.missing, ", "))
	}
	return []byte(g.b.String()), nil
}

// readComments returns the comment of every struct field of the module, by import path, type and field.
func readComments(root string) (map[string]string, error) {
	comments := map[string]string{}
	files, err := filepath.Glob(filepath.Join(root, "internal/*/*config.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		pkg := modulePath + "internal/" + filepath.Base(filepath.Dir(file))
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						comments[pkg+"."+spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return comments, nil
}

type generator struct {
	b        strings.Builder
	comments map[string]string
	missing  []string
}

// nested is a section that is described after the one it stands in.
type nested struct {
	path, about string
	value       reflect.Value
}

// section writes the keys of v, and then the sections among them.
func (g *generator) section(path, about string, v reflect.Value) {
	title := "Top level"
	if path != "" {
		title = "`" + path + "`"
	}
	fmt.Fprintf(&g.b, "\n## %s\n\n%s\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n", title, about)
	var sections []nested
	g.rows(path, v, &sections)
	for _, s := range sections {
		g.section(s.path, s.about, s.value)
	}
}

func (g *generator) rows(path string, v reflect.Value, sections *[]nested) {
	t := v.Type()
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		value := v.FieldByIndex(field.Index)
		if whole := wholes[field.Type]; options == "inline" && whole != "" {
			fmt.Fprintf(&g.b, "| ... | keys of [%s](%sconfiguration/#%s) | | %s |\n", whole, prometheusDocs, whole, g.about(t, field.Name))
			continue
		}
		if options == "inline" {
			g.rows(path, value, sections)
			continue
		}
		about := g.about(t, field.Name)
		inside := strings.TrimPrefix(path+"."+name, ".")
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		link := func(kind string) { g.row(name, fmt.Sprintf("[%s](#%s)", kind, anchor(inside)), "", about) }
		switch {
		case inner == reflect.TypeFor[bus.Config]():
			g.row(name, "[section](#nats)", "", about)
		case inner.Kind() == reflect.Struct && strings.HasPrefix(inner.PkgPath(), modulePath):
			link("section")
			*sections = append(*sections, nested{inside, about, defaults(inner)})
		case inner.Kind() == reflect.Map && strings.HasPrefix(inner.Elem().PkgPath(), modulePath):
			inside += ".NAME"
			link("sections by name")
			*sections = append(*sections, nested{inside, about, defaults(inner.Elem())})
		case inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct && strings.HasPrefix(inner.Elem().PkgPath(), modulePath):
			inside += "[]"
			link("list of sections")
			*sections = append(*sections, nested{inside, about, defaults(inner.Elem())})
		default:
			g.row(name, kind(name, inner), defaultText(inside, value), about)
		}
	}
}

// about returns the comment of a field.
func (g *generator) about(t reflect.Type, field string) string {
	id := t.PkgPath() + "." + t.Name() + "." + field
	about := g.comments[id]
	if about == "" {
		g.missing = append(g.missing, id)
	}
	return about
}

func (g *generator) row(name, kind, def, about string) {
	if def != "" {
		def = "`" + def + "`"
	}
	fmt.Fprintf(&g.b, "| `%s` | %s | %s | %s |\n", name, kind, def, strings.ReplaceAll(about, "|", "\\|"))
}

// anchor is what the usual Markdown renderers make of a section's heading.
func anchor(path string) string {
	return strings.ToLower(strings.NewReplacer(".", "", "[]", "").Replace(path))
}

// defaults returns what an empty section of a type means.
func defaults(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	if u, ok := v.Interface().(interface {
		UnmarshalYAML(func(any) error) error
	}); ok {
		_ = u.UnmarshalYAML(func(any) error { return nil }) // something may be required, which has no default
	}
	return v.Elem()
}

const prometheusDocs = "https://prometheus.io/docs/prometheus/latest/configuration/"

// wholes are inlined types of which Prometheus has a section with the same keys.
var wholes = map[reflect.Type]string{
	reflect.TypeFor[promconfig.RemoteWriteConfig](): "remote_write",
	reflect.TypeFor[promcommon.HTTPClientConfig]():  "http_config",
}

// kind names a type in the words of the reference.
func kind(name string, t reflect.Type) string {
	switch t {
	case reflect.TypeFor[model.Duration]():
		return "duration"
	case reflect.TypeFor[units.Base2Bytes]():
		return "size"
	case reflect.TypeFor[labels.Labels]():
		return "labels"
	case reflect.TypeFor[hub.Parts]():
		return "parts"
	case reflect.TypeFor[promcommon.TLSConfig]():
		return "[tls_config](" + prometheusDocs + "configuration/#tls_config)"
	case reflect.TypeFor[promcommon.BasicAuth]():
		return "[basic_auth](" + prometheusDocs + "configuration/#basic_auth)"
	case reflect.TypeFor[web.TLSConfig]():
		return "[tls_server_config](" + prometheusDocs + "https/)"
	case reflect.TypeFor[[]*promconfig.ScrapeConfig]():
		return "list of [scrape_config](" + prometheusDocs + "configuration/#scrape_config)"
	case reflect.TypeFor[[]*relabel.Config]():
		return "list of [relabel_config](" + prometheusDocs + "configuration/#relabel_config)"
	}
	switch {
	case name == "match":
		return "list of selectors"
	case strings.HasSuffix(name, "_file"):
		return "file"
	}
	switch {
	case t.Kind() == reflect.Slice:
		return "list of " + kind("", t.Elem()) + "s"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t == reflect.TypeFor[int](), t == reflect.TypeFor[uint]():
		return "number"
	}
	return "string" // the comments of enumerations list the values
}

// defaultText writes a default as it would stand in the file; "" where there is nothing to say.
func defaultText(path string, v reflect.Value) string {
	switch path {
	case "site", "hub.name":
		return "" // depends on the machine, or on another key: see their comments
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		return ""
	}
	if s, ok := v.Interface().(fmt.Stringer); ok && v.Kind() != reflect.Struct {
		if v.Kind() == reflect.Int64 && v.Int() == 0 {
			return "0"
		}
		return s.String()
	}
	if v.Kind() == reflect.Struct {
		return ""
	}
	return fmt.Sprint(v.Interface())
}
