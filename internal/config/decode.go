package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/alecthomas/units"
	"go.yaml.in/yaml/v2"
	yamltree "go.yaml.in/yaml/v3"
)

// Two YAML packages work together here. Version 2 decodes, because Prometheus' types are written for it; but it knows
// no columns, and no place at all for an error of a type's own UnmarshalYAML. Version 3 gives the tree of nodes with
// their places. A checker walks tree and types side by side and finds keys that do not exist. If the file cannot be
// decoded, it walks again and has every part decoded on its own, innermost first, so that each mistake is found where
// it is.

// decode fills c from the tree of a file, or returns its mistakes. Written is the same tree with the keys that have no
// value: they have to exist, too.
func decode(root, written *yamltree.Node, c *Config) error {
	keys := newChecker(false)
	keys.check(written, reflect.TypeFor[Config](), at{})
	if len(keys.errs) == 0 && decodeNode(root, c) == nil {
		c.places = keys.places
		return nil
	}
	values := newChecker(true)
	values.check(root, reflect.TypeFor[Config](), at{})
	if len(values.errs) == 0 { // of a key that has no value
		return inOrder(keys.errs)
	}
	return inOrder(values.errs)
}

// at is where the checker is: the path of a key, and its pattern, with [] for an index and * for a key of a map.
type at struct{ path, pattern string }

func (a at) key(name string) at {
	return at{strings.TrimPrefix(a.path+"."+name, "."), strings.TrimPrefix(a.pattern+"."+name, ".")}
}

func (a at) entry(name string) at { return at{a.path + "." + name, a.pattern + ".*"} }

func (a at) index(i int) at { return at{fmt.Sprintf("%s[%d]", a.path, i), a.pattern + "[]"} }

type checker struct {
	values bool // decode every part, too
	errs   []*Error
	places places
	shapes map[reflect.Type]reflect.Type
}

func newChecker(values bool) *checker {
	return &checker{values: values, places: places{}, shapes: map[reflect.Type]reflect.Type{}}
}

func (c *checker) fail(n *yamltree.Node, a at, err error) {
	c.errs = append(c.errs, &Error{Line: n.Line, Column: n.Column, Key: a.path, Err: err})
}

// check looks for the mistakes of n as a value of type t, those of its parts first.
func (c *checker) check(n *yamltree.Node, t reflect.Type, a at) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	before := len(c.errs)
	inner, known := c.shapes[t]
	if !known {
		inner = shape(t)
		c.shapes[t] = inner
	}
	switch {
	case isText(t):
	case n.Kind == yamltree.MappingNode && inner.Kind() == reflect.Struct:
		c.checkStruct(n, inner, a)
	case n.Kind == yamltree.MappingNode && inner.Kind() == reflect.Map:
		c.checkMap(n, inner, a)
	case n.Kind == yamltree.SequenceNode && inner.Kind() == reflect.Slice:
		for i, element := range n.Content {
			c.places[a.index(i).path] = place{element.Line, element.Column}
			c.check(element, inner.Elem(), a.index(i))
		}
	}
	if !c.values || len(c.errs) > before {
		return // a mistake of a part would be reported again
	}
	if err := decodeNode(n, reflect.New(t).Interface()); err != nil {
		c.fail(n, a, err)
	}
}

// wanted says what a value of a type looks like.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	}
	return "a section with keys"
}

func (c *checker) checkStruct(n *yamltree.Node, t reflect.Type, a at) {
	keys, rest := structKeys(t)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			c.checkMerge(value, t, a)
			continue
		}
		inside := a.key(key.Value)
		c.places[inside.path] = place{key.Line, key.Column}
		field, known := keys[key.Value]
		switch {
		case seen[key.Value]:
			c.fail(key, inside, errors.New("key is there twice"))
		case known:
			c.check(value, field, inside)
		case rest != nil:
			c.check(value, rest, inside)
		default:
			c.fail(key, inside, unknownKey(inside, keys))
		}
		seen[key.Value] = true
	}
}

// checkMerge looks into what stands behind "<<": a mapping, or a list of them.
func (c *checker) checkMerge(n *yamltree.Node, t reflect.Type, a at) {
	if n.Kind == yamltree.MappingNode {
		c.checkStruct(n, t, a)
		return
	}
	for _, element := range n.Content {
		if element.Kind == yamltree.MappingNode {
			c.checkStruct(element, t, a)
		}
	}
}

func (c *checker) checkMap(n *yamltree.Node, t reflect.Type, a at) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			continue
		}
		inside := a.entry(key.Value)
		c.places[inside.path] = place{key.Line, key.Column}
		if seen[key.Value] {
			c.fail(key, inside, errors.New("key is there twice"))
			continue
		}
		seen[key.Value] = true
		c.check(value, t.Elem(), inside)
	}
}

// decodeNode decodes a part of a file on its own.
func decodeNode(n *yamltree.Node, into any) error {
	b, err := yamltree.Marshal(n)
	if err != nil {
		return err
	}
	err = yaml.UnmarshalStrict(b, into)
	if err == nil {
		return nil
	}
	t := reflect.TypeOf(into).Elem()
	if mismatch, ok := errors.AsType[*yaml.TypeError](err); ok && strings.Contains(mismatch.Errors[0], "cannot unmarshal") {
		if n.Kind == yamltree.ScalarNode {
			return fmt.Errorf("%q is not %s", n.Value, wanted(shape(t)))
		}
		return fmt.Errorf("must be %s", wanted(shape(t)))
	}
	if t == reflect.TypeFor[units.Base2Bytes]() {
		return fmt.Errorf("%q is not a size such as 500MB or 10GB", n.Value)
	}
	// A line in the message would be one of b, not of the file.
	return errors.New(yamlLine.ReplaceAllString(yamlPrefix.ReplaceAllString(err.Error(), ""), ""))
}

var errShape = errors.New("shape is known")

// shape returns the type that a type with its own UnmarshalYAML decodes into, such as the string of a duration or the
// struct with all fields for service discovery of a scrape job; other types are their own shape.
func shape(t reflect.Type) reflect.Type {
	u, ok := reflect.New(t).Interface().(yaml.Unmarshaler)
	if !ok {
		return t
	}
	inner := t
	_ = u.UnmarshalYAML(func(v any) error {
		if inner == t {
			inner = reflect.TypeOf(v).Elem()
		}
		return errShape
	})
	return inner
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// structKeys returns the types of the keys of a struct, inlined ones included, and the type of the values of an inlined
// map, nil if there is none.
func structKeys(t reflect.Type) (keys map[string]reflect.Type, rest reflect.Type) {
	keys = map[string]reflect.Type{}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case !field.IsExported() || name == "-":
		case options == "inline" && field.Type.Kind() == reflect.Map:
			rest = field.Type.Elem()
		case options == "inline":
			inner, _ := structKeys(field.Type)
			for k, v := range inner {
				keys[k] = v
			}
		case name == "":
			keys[strings.ToLower(field.Name)] = field.Type
		default:
			keys[name] = field.Type
		}
	}
	return keys, rest
}
