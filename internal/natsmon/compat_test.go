package natsmon

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	dto "github.com/prometheus/client_model/go"
)

// otherExporter is what prometheus-nats-exporter (its main branch of June 2026, with all collectors but connz_detailed) said
// of servers in the situations of TestRealServers: by name of the metric, its type and the names of its labels.
func otherExporter(t *testing.T) map[string][]string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "prometheus-nats-exporter.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := map[string][]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		names[words[0]] = words[1:]
	}
	return names
}

// compatible returns the families that compat adds, of all recorded servers.
func compatible(t *testing.T, prefix string) []*dto.MetricFamily {
	t.Helper()
	b := newBuilder(true, newHistory(), compatPNE, prefix)
	for _, name := range slices.Sorted(maps.Keys(situations)) {
		for _, s := range recorded(t, name) {
			for _, a := range s.AccountLimits {
				a.Claim = &jwt.AccountClaims{} // no account of these has one
			}
			b.add(s)
		}
	}
	own := ownNames(t)
	return slices.DeleteFunc(b.families(), func(f *dto.MetricFamily) bool { return own[f.GetName()] })
}

func TestCompatMetricsOfRecordedServers(t *testing.T) {
	compare(t, filepath.Join("testdata", "compat.prom"), textOf(t, compatible(t, DefaultConfig().CompatPrefix)))
}

// ownNames are all names without compat.
func ownNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, f := range everything(t) {
		names[f.GetName()] = true
	}
	return names
}

func TestCompatHasNamesAndLabelsOfTheOtherExporter(t *testing.T) {
	others := otherExporter(t)
	seen := map[string]bool{}
	for _, f := range compatible(t, DefaultConfig().CompatPrefix) {
		seen[f.GetName()] = true
		if f.GetType() != dto.MetricType_GAUGE {
			t.Errorf("%s is a %s", f.GetName(), f.GetType())
		}
		other, there := others[f.GetName()]
		if !there {
			t.Errorf("%s is not a name of the other exporter", f.GetName())
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if !slices.Contains(other[1:], l.GetName()) {
					t.Errorf("%s has the label %s, there it has %v", f.GetName(), l.GetName(), other[1:])
				}
			}
			if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == "server_id" }) {
				t.Errorf("%s %v does not name its server", f.GetName(), m)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		// Which endpoints of the monitoring port were asked depends on who asked.
		if !seen[name] && !strings.HasPrefix(name, "gnatsd_varz_http_req_stats_") {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestCompatWithOnePrefixIsApartFromOwnNames checks names with the prefix that Helm's chart sets, which is that of our names.
func TestCompatWithOnePrefixIsApartFromOwnNames(t *testing.T) {
	own := ownNames(t)
	for name := range otherExporter(t) {
		_, suffix, _ := strings.Cut(name, "_")
		if own["nats_"+suffix] {
			t.Errorf("nats_%s is there twice", suffix)
		}
	}
	names := map[string]bool{}
	for _, f := range compatible(t, "nats") {
		names[f.GetName()] = true
	}
	for _, name := range []string{"nats_varz_connections", "nats_server_total_streams", "nats_stream_last_seq", "nats_consumer_num_pending"} {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestCompatHasDashboardNames checks the names that the published dashboards use.
func TestCompatHasDashboardNames(t *testing.T) {
	names := map[string]bool{}
	for _, f := range compatible(t, DefaultConfig().CompatPrefix) {
		names[f.GetName()] = true
	}
	for _, name := range strings.Fields(`
		gnatsd_varz_connections gnatsd_varz_cpu gnatsd_varz_in_bytes gnatsd_varz_in_msgs gnatsd_varz_mem gnatsd_varz_out_bytes
		gnatsd_varz_out_msgs gnatsd_varz_slow_consumers gnatsd_varz_subscriptions gnatsd_varz_jetstream_config_max_memory
		gnatsd_varz_jetstream_config_max_storage gnatsd_varz_jetstream_stats_memory gnatsd_varz_jetstream_stats_storage
		jetstream_server_total_streams jetstream_server_total_consumers jetstream_stream_total_messages
		jetstream_stream_total_bytes jetstream_stream_last_seq jetstream_consumer_num_pending
		jetstream_consumer_num_ack_pending jetstream_consumer_delivered_consumer_seq`) {
		if !names[name] {
			t.Errorf("%s is missing", name)
		}
	}
}
