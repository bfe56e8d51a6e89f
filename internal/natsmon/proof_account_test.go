package natsmon

import (
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// What servers say of an account is of the whole cluster: one series of it, not one for each server.
func TestAccountOfClusterIsOneSeries(t *testing.T) {
	servers := startCluster(t, "east", "")
	js := servers[0].jetStream(t)
	startOrders(t, js)
	r, h := readSystem(t, 3, servers[0]), newHistory()
	const used = `nats_account_jetstream_storage_used_bytes{account="APP",cluster="east"}`
	bustest.WaitFor(t, "an account that has what its servers have", func() bool {
		got := readSeries(t, r, h)
		sum := 0.0
		for name, v := range got {
			if strings.HasPrefix(name, "nats_jetstream_storage_used_bytes{") {
				sum += v
			}
			if strings.HasPrefix(name, "nats_account_jetstream_") && (strings.Contains(name, "server=") || strings.Contains(name, "_api_")) {
				t.Fatal(name)
			}
		}
		return sum > 0 && got[used] == sum
	})
}
