package push

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// base64Suffix of a label name in a path says that the value is in base64, for URLs, with or without padding.
const base64Suffix = "@base64"

// maxGrouping bounds the labels of a group, in bytes.
const maxGrouping = 16 << 10

// grouping are the labels that identify a group, sorted by name. job is one of them, and has a value; others may be empty.
type grouping []labels.Label

// parseGrouping reads the path of a push, decoded as it is in url.URL: an encoded slash separates as a slash does, and a
// plus is a plus.
func parseGrouping(path string) (grouping, error) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/metrics/"), "/")
	job, rest, _ := strings.Cut(rest, "/")
	values := map[string]string{}
	if rest != "" {
		components := strings.Split(rest, "/")
		if len(components)%2 != 0 {
			return nil, fmt.Errorf("odd number of components in label string %q", "/"+rest)
		}
		for i := 0; i < len(components); i += 2 {
			name, value, err := parsePair(components[i], components[i+1])
			if err != nil {
				return nil, err
			}
			values[name] = value
		}
	}
	_, job, err := parsePair(name, job)
	if err != nil {
		return nil, err
	}
	if job == "" {
		return nil, fmt.Errorf("job name is required")
	}
	values[model.JobLabel] = job
	size := 0
	for name, value := range values {
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("label %s=%q is not UTF-8", name, value)
		}
		size += len(name) + len(value)
	}
	if size > maxGrouping {
		return nil, fmt.Errorf("labels of %d bytes are more than %d", size, maxGrouping)
	}
	return groupingOf(labels.FromMap(values)), nil
}

// parsePair reads a label of the path.
func parsePair(component, value string) (name, decoded string, err error) {
	name, encoded := strings.CutSuffix(component, base64Suffix)
	if !model.LegacyValidation.IsValidLabelName(name) || strings.HasPrefix(name, model.ReservedLabelPrefix) {
		return "", "", fmt.Errorf("improper label name %q", name)
	}
	if !encoded {
		return name, value, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return "", "", fmt.Errorf("invalid base64 encoding for label %s=%q: %w", name, value, err)
	}
	return name, string(b), nil
}

func groupingOf(ls labels.Labels) grouping {
	g := make(grouping, 0, ls.Len())
	ls.Range(func(l labels.Label) { g = append(g, l) })
	return g
}

// key is that of the group's source, different for different groupings: the path of a push, with job first, the others by
// name, and escaped values.
func (g grouping) key() string {
	key := []byte("push/job/")
	key = append(key, url.PathEscape(g.get(model.JobLabel))...)
	for _, l := range g {
		if l.Name == model.JobLabel {
			continue
		}
		key = append(key, '/')
		key = append(key, l.Name...)
		key = append(key, '/')
		key = append(key, url.PathEscape(l.Value)...)
	}
	return string(key)
}

func (g grouping) get(name string) string {
	for _, l := range g {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// source are the labels of the group's source: an empty one is none.
func (g grouping) source() labels.Labels {
	b := labels.NewScratchBuilder(len(g))
	for _, l := range g {
		if l.Value != "" {
			b.Add(l.Name, l.Value)
		}
	}
	return b.Labels()
}

// size in memory, about.
func (g grouping) size() int {
	n := 0
	for _, l := range g {
		n += len(l.Name) + len(l.Value) + 32
	}
	return n
}
