package thalweg_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/thalweg/thalweg/"

// rows is the import direction, top to bottom: a package imports packages of lower rows only. Every package stands in
// it, so that a new one has to say where it belongs. Packages below one of these belong to its row.
var rows = []string{
	"cmd/thalweg",
	"internal/bench internal/chaos",
	"internal/node",
	"internal/config internal/convert",
	"internal/edge internal/hub",
	"internal/receive",
	inputs + outputs,
	"internal/outbox internal/natsd",
	"internal/identity",
	"internal/bus",
	"internal/lane internal/expo internal/pipeline internal/store internal/writeproto internal/telemetry internal/puppetca",
	"internal/frame",
	"internal/series",
}

const (
	core    = "internal/series internal/frame internal/lane internal/pipeline internal/store internal/expo internal/writeproto"
	inputs  = "internal/scrape internal/push internal/remotewrite internal/telemeter internal/events internal/natsmon "
	outputs = "internal/federate internal/web "
)

// nested lists packages that serve tests or go generate, and import across their row.
var nested = map[string]string{
	"internal/bus/bustest":   "runs servers of natsd",
	"internal/config/gendoc": "writes docs/config.md",
}

// rules forbid imports on top of what rows allows. Who and except name packages of this module, none all of them.
var rules = []struct {
	who, except string
	never       []string // import paths, or prefixes of them if they end in a slash
	because     string
}{
	{
		who:     core,
		never:   []string{"net/http", "net", "os", "github.com/nats-io/"},
		because: "the core does no I/O",
	},
	{
		who:     inputs + outputs,
		never:   []string{module + "internal/lane", module + "internal/bus"},
		because: "inputs and outputs meet the rest in node, through function values",
	},
	{
		except:  "internal/config internal/config/gendoc internal/convert",
		never:   []string{"go.yaml.in/yaml/", "gopkg.in/yaml.v2", "gopkg.in/yaml.v3", "sigs.k8s.io/yaml", "github.com/goccy/go-yaml"},
		because: "only config knows YAML, and convert that of others",
	},
	{
		except:  "internal/bus internal/bus/bustest internal/natsd internal/natsmon internal/events internal/identity",
		never:   []string{"github.com/nats-io/"},
		because: "bus hides NATS",
	},
	{
		never:   []string{"log", "math/rand", "github.com/prometheus/client_golang/prometheus/promauto"},
		because: "logs go to the injected slog.Logger, randomness is math/rand/v2, and nothing registers itself",
	},
}

// clock is what the core does not call: time comes in as an argument.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
}

// path is where the package is in the module.
func (p *pkg) path() string { return strings.TrimPrefix(p.ImportPath, module) }

func packages(t *testing.T) []*pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports", "./cmd/...", "./internal/...")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		err := d.Decode(p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func names(path, list string) bool { return slices.Contains(strings.Fields(list), path) }

// row is the number of the row of a package, or -1.
func row(path string) int {
	return slices.IndexFunc(rows, func(r string) bool {
		return slices.ContainsFunc(strings.Fields(r), func(name string) bool {
			return path == name || strings.HasPrefix(path, name+"/")
		})
	})
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		from := row(p.path())
		if from < 0 {
			t.Errorf("%s is in no row of the table: say where it belongs", p.path())
		}
		if nested[p.path()] != "" {
			continue
		}
		for _, imported := range p.Imports {
			path, ours := strings.CutPrefix(imported, module)
			if !ours || path == p.path() || strings.HasPrefix(path, p.path()+"/") || strings.HasPrefix(p.path(), path+"/") {
				continue
			}
			if to := row(path); to >= 0 && to <= from {
				t.Errorf("%s imports %s, which is not below it", p.path(), path)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, r := range rules {
			if r.who != "" && !names(p.path(), r.who) || names(p.path(), r.except) {
				continue
			}
			for _, imported := range p.Imports {
				forbidden := slices.ContainsFunc(r.never, func(n string) bool {
					return imported == n || strings.HasSuffix(n, "/") && strings.HasPrefix(imported, n)
				})
				if forbidden {
					t.Errorf("%s imports %s: %s", p.path(), imported, r.because)
				}
			}
		}
	}
}

func TestCoreKnowsNoClock(t *testing.T) {
	for _, p := range packages(t) {
		if !names(p.path(), core) {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, s.Sel.Name) {
						t.Errorf("%s/%s:%d: time.%s", p.path(), name, fset.Position(s.Pos()).Line, s.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t) {
		files := []string{"doc.go"}
		if p.Name == "main" {
			files = p.GoFiles
		}
		documented := slices.ContainsFunc(files, func(name string) bool {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			return err == nil && strings.TrimSpace(file.Doc.Text()) != ""
		})
		if !documented {
			t.Errorf("%s has no package comment in %s", p.path(), strings.Join(files, " or "))
		}
	}
}
