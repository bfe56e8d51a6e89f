package main

import (
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
)

// check config says what is received, where everything goes, and what of it people would not expect.
func TestExplainTraffic(t *testing.T) {
	f := func(yaml string, want ...string) {
		t.Helper()
		c, err := config.Parse([]byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		got := explain("f", c, "")
		for _, line := range want {
			if !strings.Contains(got, "\n  - "+line) {
				t.Errorf("%s\nlacks %q in\n%s", yaml, line, got)
			}
		}
	}
	f("{site: a, edge: {receive: {remote_write: true, pushgateway: true, pushgateway_ttl: 2h, listen_address: '127.0.0.1:9091'}}}",
		"edge takes remote write at /api/v1/write on 127.0.0.1:9091, from everybody who reaches it\n",
		"edge takes pushes at /metrics/job/... on 127.0.0.1:9091, from everybody who reaches it; groups are kept for 2h after the last push\n")
	f("{site: a, hub: {receive: {pushgateway: true, tokens_file: t}}}",
		"hub takes pushes at /metrics/job/... on the web listener, from who has a token of t, each as the site of that name; groups are kept until they are deleted\n",
		"what an outage held back is not on /federate")
	f("{site: a, hub: {remote_write: [{name: p, url: 'http://me:secret@prom/api/v1/write', protobuf_message: io.prometheus.write.v2.Request, queue_config: {capacity: 1}}]}}",
		"hub sends every row to http://me:xxxxx@prom/api/v1/write by remote write 2.0, or 1.0 if the receiver does not know it (output p), what is late after an outage, too\n",
		"queue_config.capacity of output p does nothing here",
		"what an outage held back leaves by remote write, late and out of order: the receiver needs an out-of-order window")
	f("{site: a, hub: {remote_write: [{url: 'http://prom/', out_of_order: drop}], pushgateway: {url: 'http://gw:9091', max_age: 20s}}}",
		"hub sends every row to http://prom/ by remote write 1.0 (output prom), and drops what is late after an outage\n",
		"hub pushes the last row of every source to the Push Gateway http://gw:9091 (output pushgateway), one group for each job and instance\n",
		"a Prometheus has to scrape the Push Gateway with honor_labels: true",
		"two sites with the same job and instance overwrite each other",
		"hub.pushgateway.max_age is 20s, less than two intervals of 15s")
	f("{site: a, gateway: {listen_address: ':9091', redis: {address: 'r1:6379,r2,password=secret'}}}",
		"event gateway takes events from the list \"prom-stream-gateway:metric-queue\" of Redis at r1:6379, r2:6379\n",
		"event gateway takes events at /api/v1/events on the web listener and :9091, from everybody who reaches it\n",
		"event gateway shows what they came to at /gateway/metrics, and at /metrics on :9091\n",
		"NATS: nothing is sent\n")
	f("{site: a, edge: {}, gateway: {http: false}}",
		"edge sends what events came to every 15s, as job events\n", "events by HTTP: gateway.http is false\n", "events from Redis: gateway.redis is not there\n")
	f("{site: a, edge: {}}", "metrics of the NATS server: nats_exporter does not read it\n")
	f("{site: a, edge: {}, nats_exporter: {compat: prometheus-nats-exporter}}",
		"NATS exporter reads the NATS server of this process\n",
		"NATS exporter shows metrics of them at /nats/metrics\n",
		"NATS exporter shows them under the names of prometheus-nats-exporter, too, beginning with gnatsd_\n",
		"edge sends metrics of NATS servers every 15s, as job nats\n")
	f("{site: a, nats_exporter: {listen_address: ':9100', servers: [{url: 'http://a:8222'}], system: [{urls: ['nats://b:4222', 'nats://c:4222']}]}}",
		"NATS exporter reads http://a:8222\n",
		"NATS exporter reads all servers that a system account sees at nats://b:4222, nats://c:4222\n",
		"NATS exporter shows metrics of them at /nats/metrics, and at /metrics on :9100\n",
		"edge: nothing is scraped or sent\n", "hub: there is no /federate\n", "NATS: nothing is sent\n")
}
