package config

import (
	"reflect"
	"slices"
	"strings"
)

// reloadable lists the keys that a running process takes over, each with everything below it.
var reloadable = []string{
	"global",
	"edge.scrape_configs", "edge.match", "edge.match_file", "edge.relabel_configs", "edge.required_labels", "edge.anonymize", "edge.limits",
	"edge.receive.tokens_file", "edge.receive.pushgateway_ttl", "edge.receive.pushgateway_admin",
	"edge.flush_interval", "edge.keyframe_interval", "edge.recovery",
	"hub.lookback", "hub.site_label", "hub.on_conflict", "hub.federate", "hub.match", "hub.required_labels", "hub.views", "hub.limits", "hub.sites", "hub.strict_sites",
	"hub.receive.tokens_file", "hub.receive.pushgateway_ttl", "hub.receive.pushgateway_admin", "hub.remote_write", "hub.pushgateway",
	"hub.telemeter.label", "hub.telemeter.tokens_file", "hub.telemeter.authorize_url", "hub.telemeter.token_ttl",
	"hub.telemeter.rate_limit", "hub.telemeter.limit_bytes", "hub.telemeter.ttl", "hub.telemeter.match",
	"gateway.relabel_configs", "gateway.limits", "gateway.ttl",
}

// NeedsRestart returns the keys in which two configurations differ and that a running process cannot take over, in the
// order of the file's reference.
func NeedsRestart(running, wanted *Config) []string {
	var keys []string
	compare(reflect.ValueOf(*running), reflect.ValueOf(*wanted), "", &keys)
	return keys
}

func compare(a, b reflect.Value, path string, keys *[]string) {
	if slices.Contains(reloadable, path) || reflect.DeepEqual(a.Interface(), b.Interface()) {
		return
	}
	if a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
		a, b = a.Elem(), b.Elem()
	}
	if a.Kind() != reflect.Struct || !strings.HasPrefix(a.Type().PkgPath(), modulePath) {
		*keys = append(*keys, path)
		return
	}
	for field := range a.Type().Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		inside := path
		if options != "inline" {
			inside = strings.TrimPrefix(path+"."+name, ".")
		}
		if field.IsExported() {
			compare(a.FieldByIndex(field.Index), b.FieldByIndex(field.Index), inside, keys)
		}
	}
}
