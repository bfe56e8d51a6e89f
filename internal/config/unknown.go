package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// elsewhere explains keys that people bring along from Prometheus.
var elsewhere = map[string]string{
	"scrape_configs":              "it stands under edge here",
	"remote_write":                "it stands under hub here",
	"remote_read":                 "Thalweg stores nothing that could be read; ask Prometheus",
	"rule_files":                  "Thalweg evaluates no rules; Prometheus does, on what /federate serves",
	"alerting":                    "Thalweg sends no alerts; Prometheus does, on what /federate serves",
	"storage":                     "Thalweg keeps the last row only; see edge.outbox and nats.stream for what is buffered",
	"tracing":                     "Thalweg makes no traces",
	"otlp":                        "Thalweg takes no OTLP",
	"runtime":                     "see the environment variable GOGC and the flag --log.level",
	"scrape_config_files":         "list the jobs under edge.scrape_configs; targets may stand in files, see file_sd_configs",
	"edge.scrape_config_files":    "list the jobs under edge.scrape_configs; targets may stand in files, see file_sd_configs",
	"global.evaluation_interval":  "Thalweg evaluates no rules",
	"global.rule_query_offset":    "Thalweg evaluates no rules",
	"global.query_log_file":       "Thalweg answers no queries",
	"global.keep_dropped_targets": "dropped targets are not kept",
	"hub.nats.embedded":           "a process has one embedded server, and it stands in the top-level nats",
	"edge.nats.embedded":          "a process has one embedded server, and it stands in the top-level nats",
}

// unknownKey says what is wrong with a key that does not exist, and what may have been meant.
func unknownKey(a at, keys map[string]reflect.Type) error {
	if hint := elsewhere[a.pattern]; hint != "" {
		return fmt.Errorf("unknown key: %s", hint)
	}
	name := a.path[strings.LastIndex(a.path, ".")+1:]
	if strings.HasSuffix(name, "_sd_configs") {
		var known []string
		for k := range keys {
			if strings.HasSuffix(k, "_sd_configs") {
				known = append(known, k)
			}
		}
		slices.Sort(known)
		hint := ""
		if name == "kubernetes_sd_configs" {
			hint = "; make build TAGS=kubernetes makes a program that has it"
		}
		return fmt.Errorf("this service discovery is not built in, only static_configs, %s are%s", strings.Join(known, ", "), hint)
	}
	if near := nearest(name, slices.Sorted(maps.Keys(keys))); near != "" {
		return fmt.Errorf("unknown key, did you mean %s?", near)
	}
	if paths := keyPaths(name); len(paths) > 0 {
		return fmt.Errorf("unknown key here, did you mean %s?", strings.Join(paths, " or "))
	}
	return errors.New("unknown key")
}

// nearest returns the candidate that is most like name or, if there is none, one that begins with it; "" if there is
// none either.
func nearest(name string, candidates []string) string {
	best, least := "", 1+len(name)/3
	for _, c := range candidates {
		if d := distance(name, c); d < least || d == least && best == "" {
			best, least = c, d
		}
	}
	if i := slices.IndexFunc(candidates, func(c string) bool { return strings.HasPrefix(c, name) }); best == "" && i >= 0 && len(name) > 2 {
		best = candidates[i]
	}
	return best
}

// distance is the number of characters to insert, delete, replace or swap with their neighbour to get from a to b.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		row, above, twoAbove := rows[i%3], rows[(i+2)%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], twoAbove[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}

// keyPaths returns the paths of the sections of our own that have a key of this name.
func keyPaths(name string) []string {
	var found []string
	var visit func(t reflect.Type, path string)
	visit = func(t reflect.Type, path string) {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		inner := shape(t)
		if inner.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), modulePath) {
			return
		}
		keys, _ := structKeys(inner)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			p := strings.TrimPrefix(path+"."+k, ".")
			if k == name {
				found = append(found, p)
			}
			visit(keys[k], p)
		}
	}
	visit(reflect.TypeFor[Config](), "")
	return found
}

// modulePath begins the import paths of the types whose keys are ours.
const modulePath = "github.com/thalweg/thalweg/"
