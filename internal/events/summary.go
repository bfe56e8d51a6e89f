package events

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	maxObjectives = 32
	// The window over which quantiles are told, as the original has it.
	quantileAge     = 10 * time.Minute
	quantileBuckets = 5
)

// objective is a quantile of a summary, and how far it may be off.
type objective struct {
	quantile, epsilon float64
}

// objectives pairs quantiles with their epsilons, in ascending order; not ok if they are out of range.
func objectives(quantiles, epsilons []float64) (list []objective, ok bool) {
	if len(quantiles) > maxObjectives {
		return nil, false
	}
	for i, q := range quantiles {
		if !(q >= 0 && q <= 1) || !(epsilons[i] > 0 && epsilons[i] < 1) {
			return nil, false
		}
		list = append(list, objective{q, epsilons[i]})
	}
	slices.SortFunc(list, func(a, b objective) int {
		if a.quantile < b.quantile {
			return -1
		}
		return 1
	})
	for i := 1; i < len(list); i++ {
		if list[i].quantile == list[i-1].quantile {
			return nil, false
		}
	}
	return list, true
}

// summary counts, and knows the quantiles of the last ten minutes, which a restart forgets.
type summary struct {
	observed  uint64
	quantiles prometheus.Summary // nil without objectives
}

func newSummary(list []objective) *summary {
	if len(list) == 0 {
		return &summary{}
	}
	of := make(map[float64]float64, len(list))
	for _, o := range list {
		of[o.quantile] = o.epsilon
	}
	return &summary{quantiles: prometheus.NewSummary(prometheus.SummaryOpts{
		Name: "quantiles", Help: "quantiles", Objectives: of, MaxAge: quantileAge, AgeBuckets: quantileBuckets,
	})}
}

func (s *summary) observe(v float64) {
	s.observed++
	if s.quantiles != nil {
		s.quantiles.Observe(v)
	}
}

func (s *summary) count() uint64 { return s.observed }

// appendQuantiles appends the values of the quantiles, in ascending order of these. Those of which there is nothing in the
// window are NaN.
func (s *summary) appendQuantiles(dst []float64) []float64 {
	if s.quantiles == nil {
		return dst
	}
	var m dto.Metric
	if err := s.quantiles.Write(&m); err != nil {
		panic(fmt.Sprintf("events: BUG: a summary cannot be read: %v", err))
	}
	for _, q := range m.Summary.Quantile {
		dst = append(dst, q.GetValue())
	}
	return dst
}

func (s *summary) appendState(dst []byte) []byte { return binary.AppendUvarint(dst, s.observed) }

func (s *summary) decodeState(d *decoder) { s.observed = d.uvarint() }
