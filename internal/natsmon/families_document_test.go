package natsmon

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// TestDocument compares the tables of docs/nats-metrics.md with what the exporter says.
func TestDocument(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "nats-metrics.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	document := replaceTable(t, string(text), "| Name there | Better |\n|---|---|\n", compatTable(t))
	document = replaceTable(t, document, "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n", metricsTable(t))
	compare(t, file, document)
}

// replaceTable puts rows in the place of those that follow a head, up to an empty line.
func replaceTable(t *testing.T, document, head, rows string) string {
	t.Helper()
	before, after, found := strings.Cut(document, head)
	if !found {
		t.Fatalf("there is no table\n%s", head)
	}
	_, rest, _ := strings.Cut(after, "\n\n")
	if rest != "" {
		rest = "\n" + rest
	}
	return before + head + rows + rest
}

func metricsTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, f := range everything(t) {
		kind := strings.ToLower(f.GetType().String())
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), kind, labelsOf(f), strings.ReplaceAll(f.GetHelp(), "|", `\|`))
	}
	return b.String()
}

// closed are labels whose values are all there in what is documented.
var closed = []string{"check", "direction", "endpoint", "kind", "method", "role"}

// labelsOf lists the labels of a family, with the values of those that are closed sets.
func labelsOf(f *dto.MetricFamily) string {
	values := map[string]map[string]bool{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if values[l.GetName()] == nil {
				values[l.GetName()] = map[string]bool{}
			}
			values[l.GetName()][l.GetValue()] = true
		}
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		text := "`" + name + "`"
		if slices.Contains(closed, name) {
			text += ": " + strings.Join(slices.Sorted(maps.Keys(values[name])), ", ")
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}

func compatTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	done := map[string]bool{}
	for _, f := range compatible(t, DefaultConfig().CompatPrefix) {
		name := f.GetName()
		if requests := "gnatsd_varz_http_req_stats_"; strings.HasPrefix(name, requests) {
			name = requests + "ENDPOINT"
		}
		if done[name] {
			continue
		}
		done[name] = true
		_, better, there := strings.Cut(f.GetHelp(), "better: ")
		if there {
			better = "`" + strings.ReplaceAll(better, "|", `\|`) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, better)
	}
	return b.String()
}

// TestCompatPointsToMetricsThatExist checks what stands in the table of old names and new ones.
func TestCompatPointsToMetricsThatExist(t *testing.T) {
	own := ownNames(t)
	name := regexp.MustCompile(`\bnats_[a-z_]+`)
	for _, f := range compatible(t, DefaultConfig().CompatPrefix) {
		_, better, _ := strings.Cut(f.GetHelp(), "better: ")
		for _, better := range name.FindAllString(better, -1) {
			if !own[better] {
				t.Errorf("%s: %s does not exist", f.GetName(), better)
			}
		}
	}
}

// TestDocumentHasAllMetrics looks for names in the code that the documented servers never had.
func TestDocumentHasAllMetrics(t *testing.T) {
	own := slices.Collect(maps.Keys(ownNames(t)))
	name := regexp.MustCompile(`^nats_[a-z_]+$`)
	files, err := filepath.Glob("families*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range append(files, "exporter.go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil && name.MatchString(text) {
					n++
					if !slices.ContainsFunc(own, func(o string) bool { return o == text || strings.HasPrefix(o, text+"_") }) {
						t.Errorf("%s: %s", file, text)
					}
				}
			}
			return true
		})
	}
	if n < 100 {
		t.Errorf("%d names found", n)
	}
}
