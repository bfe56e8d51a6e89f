package frame_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

var rewrite = flag.Bool("rewrite", false, "make the vectors anew from their lists; read the difference before you accept it")

// vector is a file of vectors (docs/frame.md, section 10).
type vector struct {
	name, comment string
	expect        string // outcome of the last frame: ok, or the kind of its error
	limits        frame.DecoderConfig
	messages      [][]byte
	gives         []string // what each message gives, in the text form
}

// run decodes the messages of a vector as a receiver does, and returns what each gives.
func (v *vector) run(t *testing.T) (gives []string, last string) {
	cfg := v.limits
	cfg.Catalog = series.NewCatalog()
	dec := frame.NewDecoder(cfg)
	for _, message := range v.messages {
		var text []byte
		handler := frame.TextHandler(&text)
		for rest := message; len(rest) > 0; {
			_, first, next, err := frame.Split(rest)
			if err != nil {
				first, next = rest, nil
			}
			before := dec.Have()
			h, err := dec.Decode(first, handler)
			if last = frame.ErrorKind(err); last == "" {
				last = "ok"
				text = fmt.Appendf(text, "ok %s\n", h.ID)
				if dec.Have() != h.ID {
					t.Errorf("decoder is after %s, decoded %s", dec.Have(), h.ID)
				}
			} else {
				text = fmt.Appendf(text, "error %s\n", last)
				if want := map[bool]frame.ID{true: before}[last == "mismatch"]; dec.Have() != want {
					t.Errorf("after error %q the decoder is after %s, want %s", err, dec.Have(), want)
				}
				t.Logf("%s", err)
			}
			rest = next
		}
		gives = append(gives, string(text))
	}
	return gives, last
}

// vectorSets are the vectors of each version and what makes them.
var vectorSets = []struct {
	name, dir string
	list      func() []vector
}{
	{"2", "testdata/vectors", vectorList},
	{"1", "testdata/v1/vectors", vectorList1},
}

// TestVectors decodes every file of vectors.
func TestVectors(t *testing.T) {
	if *rewrite {
		for _, set := range vectorSets {
			rewriteVectors(t, set.dir, set.list())
		}
	}
	for _, set := range vectorSets {
		t.Run(set.name, func(t *testing.T) { testVectors(t, set.dir) })
	}
}

func testVectors(t *testing.T, dir string) {
	files, err := filepath.Glob(dir + "/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Fatalf("%d vectors", len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, err := parseVector(string(b))
			if err != nil {
				t.Fatalf("%s: %s", file, err)
			}
			if v.name != name {
				t.Errorf("name is %q", v.name)
			}
			gives, last := v.run(t)
			if last != v.expect {
				t.Errorf("outcome is %q, want %q", last, v.expect)
			}
			for i := range gives {
				if gives[i] != v.gives[i] {
					t.Errorf("message %d gives\n%s\nwant\n%s", i+1, gives[i], v.gives[i])
				}
			}
		})
	}
}

// TestVectorsCurrent sees to it that the files are what the list in vectors_build_test.go makes, so that both can be
// trusted as documentation.
func TestVectorsCurrent(t *testing.T) {
	for _, set := range vectorSets {
		currentVectors(t, set.dir, set.list())
	}
}

func currentVectors(t *testing.T, dir string, list []vector) {
	for _, v := range list {
		b, err := os.ReadFile(dir + "/" + v.name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		have, err := parseVector(string(b))
		if err != nil {
			t.Fatalf("%s: %s", v.name, err)
		}
		if !bytes.Equal(bytes.Join(v.messages, nil), bytes.Join(have.messages, nil)) || v.expect != have.expect || v.comment != have.comment {
			t.Errorf("%s differs from its source; run go test -run Vectors -rewrite", v.name)
		}
	}
}

func rewriteVectors(t *testing.T, dir string, list []vector) {
	old, err := filepath.Glob(dir + "/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range list {
		t.Run("rewrite "+v.name, func(t *testing.T) {
			gives, last := v.run(t)
			if last != v.expect {
				t.Errorf("outcome is %q, want %q", last, v.expect)
			}
			v.gives = gives
			if err := os.WriteFile(dir+"/"+v.name+".txt", v.format(), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

var limitKeys = []struct {
	key   string
	field func(*frame.DecoderConfig) *int
}{
	{"max-body", func(c *frame.DecoderConfig) *int { return &c.MaxBody }},
	{"max-columns", func(c *frame.DecoderConfig) *int { return &c.MaxColumns }},
	{"max-sources", func(c *frame.DecoderConfig) *int { return &c.MaxSources }},
	{"max-state", func(c *frame.DecoderConfig) *int { return &c.MaxState }},
}

func (v *vector) format() []byte {
	b := fmt.Appendf(nil, "name: %s\ncomment: %s\nexpect: %s\n", v.name, v.comment, v.expect)
	for _, l := range limitKeys {
		if n := *l.field(&v.limits); n != 0 {
			b = fmt.Appendf(b, "%s: %d\n", l.key, n)
		}
	}
	for i, m := range v.messages {
		b = append(b, "\nmessage\n"...)
		for ; len(m) > 32; m = m[32:] {
			b = fmt.Appendf(b, "%x\n", m[:32])
		}
		b = fmt.Appendf(b, "%x\ngives\n%s", m, v.gives[i])
	}
	return b
}

func parseVector(file string) (*vector, error) {
	v := &vector{}
	head, rest, ok := strings.Cut(file, "\n\nmessage\n")
	if !ok {
		return nil, fmt.Errorf("no message")
	}
	for line := range strings.SplitSeq(head, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "name":
			v.name = value
		case "comment":
			v.comment = value
		case "expect":
			v.expect = value
		default:
			known := false
			for _, l := range limitKeys {
				if l.key == key {
					n, err := strconv.Atoi(value)
					if err != nil {
						return nil, err
					}
					*l.field(&v.limits), known = n, true
				}
			}
			if !known {
				return nil, fmt.Errorf("unknown key %q", key)
			}
		}
	}
	for part := range strings.SplitSeq(rest, "\nmessage\n") {
		digits, gives, ok := strings.Cut(part, "\ngives\n")
		if !ok {
			return nil, fmt.Errorf("a message gives nothing")
		}
		m, err := hex.DecodeString(strings.ReplaceAll(digits, "\n", ""))
		if err != nil {
			return nil, err
		}
		v.messages, v.gives = append(v.messages, m), append(v.gives, gives)
	}
	return v, nil
}

// TestExample compares the worked examples of the documents with the vectors they explain.
func TestExample(t *testing.T) {
	for _, c := range []struct{ doc, dir string }{{"frame.md", "testdata/vectors"}, {"frame-v1.md", "testdata/v1/vectors"}} {
		doc, err := os.ReadFile("../../docs/" + c.doc)
		if err != nil {
			t.Fatal(err)
		}
		_, section, _ := strings.Cut(string(doc), "## 11. Example")
		_, section, _ = strings.Cut(section, "```\n")
		section, _, _ = strings.Cut(section, "```")
		var got []byte
		for line := range strings.SplitSeq(section, "\n") {
			digits, _, _ := strings.Cut(line, "   ")
			b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
			if err != nil {
				t.Fatalf("%q: %s", line, err)
			}
			got = append(got, b...)
		}
		file, err := os.ReadFile(c.dir + "/example.txt")
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseVector(string(file))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, v.messages[0]) {
			t.Errorf("%s has\n%x\nthe vector\n%x", c.doc, got, v.messages[0])
		}
	}
}
