package config

import (
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Error is one mistake in a file.
type Error struct {
	File         string // "" if the bytes came from elsewhere
	Line, Column int    // from 1; 0 if the mistake has no place
	Key          string // path of the key, such as edge.scrape_configs[0].job_name; may be ""
	Err          error
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ": ")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", e.Line, e.Column)
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// place is where a key or an element begins.
type place struct{ line, column int }

// places maps the path of every key and element of a file to its place.
type places map[string]place

// find returns the place of a path or, if the file does not have it, of the nearest one around it.
func (p places) find(path string) place {
	for path != "" {
		if at, ok := p[path]; ok {
			return at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return place{}
}

// locate turns an error of Validate, which begins with a key relative to section, into an Error.
func (p places) locate(section string, err error) *Error {
	key, message, found := strings.Cut(err.Error(), ": ")
	if !found || strings.Contains(key, " ") {
		key, message = "", err.Error()
	}
	key = strings.Trim(section+"."+key, ".")
	at := p.find(key)
	return &Error{Line: at.line, Column: at.column, Key: key, Err: errors.New(message)}
}

// each takes apart what errors.Join joined, at any depth.
func each(err error) iter.Seq[error] {
	return func(yield func(error) bool) { walk(err, yield) }
}

func walk(err error, yield func(error) bool) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !walk(e, yield) {
				return false
			}
		}
		return true
	}
	return err == nil || yield(err)
}
