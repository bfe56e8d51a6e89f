package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// Note says what was not carried over as it stood there.
type Note struct {
	Line int    // in the other file, from 1; 0: nowhere
	Key  string // path of the key; may be ""
	Text string
}

func (n Note) String() string {
	var b strings.Builder
	if n.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", n.Line)
	}
	if n.Key != "" {
		b.WriteString(n.Key + ": ")
	}
	return b.String() + n.Text
}

// notes collects notes.
type notes []Note

func (n *notes) add(at *yaml.Node, key, format string, args ...any) {
	*n = append(*n, Note{Line: at.Line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// inOrder sorts by line. What two sections share is told of once.
func (n notes) inOrder() []Note {
	slices.SortStableFunc(n, func(a, b Note) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key)) })
	return slices.Compact(n)
}

// section is a mapping of the other file, whose keys are taken one by one.
type section struct {
	path  string
	node  *yaml.Node // nil: there is no such section
	taken map[string]bool
	told  bool // of what was not taken
	notes *notes
}

func newSection(node *yaml.Node, path string, notes *notes) *section {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node != nil && node.Kind != yaml.MappingNode {
		if node.ShortTag() != "!!null" {
			notes.add(node, path, "is not a section with keys")
		}
		node = nil
	}
	return &section{path: path, node: node, taken: map[string]bool{}, notes: notes}
}

// keys yields key and value of what stands in the section.
func (s *section) keys(yield func(key, value *yaml.Node) bool) {
	if s.node == nil {
		return
	}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		if !yield(s.node.Content[i], s.node.Content[i+1]) {
			return
		}
	}
}

// at is the path of a key.
func (s *section) at(key string) string { return strings.TrimPrefix(s.path+"."+key, ".") }

// take returns the value of a key, whose case does not matter; nil if it is not there.
func (s *section) take(name string) *yaml.Node {
	var found *yaml.Node
	for key, value := range s.keys {
		if strings.EqualFold(key.Value, name) {
			s.taken[key.Value] = true
			found = value
		}
	}
	for found != nil && found.Kind == yaml.AliasNode {
		found = found.Alias
	}
	return found
}

// text returns the value of a key if it is a scalar, and where it stands; "" if it is not there.
func (s *section) text(name string) (string, *yaml.Node) {
	node := s.take(name)
	switch {
	case node == nil || node.ShortTag() == "!!null":
		return "", nil
	case node.Kind != yaml.ScalarNode:
		s.notes.add(node, s.at(name), "is not a single value")
		return "", nil
	}
	return node.Value, node
}

// isTrue reports whether the value of a key is true as YAML 1.1 has it, and where it stands.
func (s *section) isTrue(name string) (bool, *yaml.Node) {
	text, node := s.text(name)
	return slices.Contains([]string{"true", "yes", "on", "y"}, strings.ToLower(text)), node
}

// section returns the section under a key.
func (s *section) section(name string) *section { return newSection(s.take(name), s.at(name), s.notes) }

// drop says of a key why it is not carried over, if it is there.
func (s *section) drop(name, format string, args ...any) {
	if node := s.take(name); node != nil {
		s.notes.add(node, s.at(name), format, args...)
	}
}

// rest says, once, of what was not taken that nobody knows it.
func (s *section) rest(whose string) {
	if s.told {
		return
	}
	s.told = true
	for key := range s.keys {
		if !s.taken[key.Value] {
			s.notes.add(key, s.at(key.Value), "%s does not know this key; it is left out", whose)
		}
	}
}
