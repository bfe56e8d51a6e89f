package natsmon

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// BenchmarkFamilies makes metrics of a server with 100 streams, 1,000 durable consumers and 1,000 leafs.
func BenchmarkFamilies(b *testing.B) {
	now := time.Now()
	a := &server.AccountDetail{Name: "A", Id: "A"}
	for i := range 100 {
		s := server.StreamDetail{Name: fmt.Sprint("S", i), Created: now, Config: &server.StreamConfig{MaxBytes: 1 << 30}}
		for j := range 10 {
			s.Consumer = append(s.Consumer, &server.ConsumerInfo{
				Name: fmt.Sprint("C", j), Config: &server.ConsumerConfig{Durable: "C", MaxAckPending: 1000},
				Delivered: server.SequenceInfo{Last: &now}, AckFloor: server.SequenceInfo{Last: &now},
			})
		}
		a.Streams = append(a.Streams, s)
	}
	s := &Server{Name: "a", ID: "a", At: now, Varz: &server.Varz{}, JetStream: &server.JSInfo{AccountDetails: []*server.AccountDetail{a}}, Leafs: &server.Leafz{}}
	for i := range 1000 {
		s.Leafs.Leafs = append(s.Leafs.Leafs, &server.LeafInfo{ID: uint64(i), Name: fmt.Sprint("edge-", i), Account: "A", RTT: "1ms"})
	}
	for _, compat := range []string{"", compatPNE} {
		b.Run("compat="+compat, func(b *testing.B) {
			b.ReportAllocs()
			history := newHistory()
			series := 0
			for b.Loop() {
				builder := newBuilder(true, history, compat, "gnatsd")
				builder.add(s)
				series = 0
				for _, f := range builder.families() {
					series += len(f.Metric)
				}
			}
			b.ReportMetric(float64(series), "series")
		})
	}
}
