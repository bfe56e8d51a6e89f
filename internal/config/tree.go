package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds a file after its aliases have been expanded.
const maxNodes = 1 << 20

// parseTree reads the one document of a file and returns its root, nil if it is empty. Aliases are expanded, and keys
// without a value are left out of it, except for those that keepNull names: a struct would be zeroed by them instead
// of keeping its defaults. Written is the root with all of them.
func parseTree(b []byte, keepNull map[string]bool) (root, written *yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var document, second yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil, nil
	case err != nil:
		return nil, nil, syntaxError(err)
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, nil, &Error{Line: second.Line, Column: second.Column, Err: errors.New("a second document begins; a configuration is one")}
	case !errors.Is(err, io.EOF):
		return nil, nil, syntaxError(err)
	}
	kept := expander{keepNull: keepNull}
	if root, err = kept.expand(document.Content[0], 0, 0); err != nil {
		return nil, nil, err
	}
	if isNull(root) {
		return nil, nil, nil
	}
	all := expander{keepAll: true}
	written, err = all.expand(document.Content[0], 0, 0)
	return root, written, err
}

type expander struct {
	keepAll  bool
	keepNull map[string]bool // keys of the root
	nodes    int
}

// expand copies a node; aliases counts those it is inside of.
func (e *expander) expand(n *yaml.Node, depth, aliases int) (*yaml.Node, error) {
	if e.nodes++; e.nodes > maxNodes || aliases > 100 {
		return nil, &Error{Line: n.Line, Column: n.Column, Err: errors.New("aliases grow without bound")}
	}
	if n.Kind == yaml.AliasNode {
		target, err := e.expand(n.Alias, depth, aliases+1)
		if err != nil {
			return nil, err
		}
		target.Line, target.Column = n.Line, n.Column
		return target, nil
	}
	copied := &yaml.Node{Kind: n.Kind, Style: n.Style &^ yaml.FlowStyle, Tag: n.Tag, Value: n.Value, Line: n.Line, Column: n.Column}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && !e.keepAll {
			if i%2 == 0 && isNull(n.Content[i+1]) && !(depth == 0 && e.keepNull[child.Value]) {
				continue
			}
			if i%2 == 1 && isNull(child) && len(copied.Content)%2 == 0 {
				continue // its key was left out
			}
		}
		c, err := e.expand(child, depth+1, aliases)
		if err != nil {
			return nil, err
		}
		copied.Content = append(copied.Content, c)
	}
	return copied, nil
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

var (
	yamlPrefix = regexp.MustCompile(`^yaml: (unmarshal errors:\s*)?`)
	yamlLine   = regexp.MustCompile(`^line (\d+): `)
)

// syntaxError gives an error of the YAML parser our form. The parser knows no columns.
func syntaxError(err error) error {
	message := yamlPrefix.ReplaceAllString(err.Error(), "")
	e := &Error{}
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Column = 1
		message = message[len(m[0]):]
	}
	e.Err = fmt.Errorf("not YAML: %s", strings.TrimSpace(message))
	return e
}
