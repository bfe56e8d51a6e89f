package telemeter

import "github.com/prometheus/client_golang/prometheus"

// result of a request. The set is closed.
type result string

const (
	resultAccepted     result = "accepted"
	resultEmpty        result = "empty"        // nothing of the push is wanted
	resultUnauthorized result = "unauthorized" // no token, or one that is not valid
	resultRateLimited  result = "rate_limited"
	resultTooLarge     result = "too_large"
	resultMalformed    result = "malformed" // cannot be read
	resultInvalid      result = "invalid"   // can be read, but nothing in it can be taken
	resultForeign      result = "foreign"   // series of somebody else, or of nobody
	resultConflict     result = "conflict"  // an edge writes as the same site
	resultForbidden    result = "forbidden" // the hub takes nothing of the site
	resultUnavailable  result = "unavailable"
)

// results are all of a push; those of an authorization are among them.
func results() []result {
	return []result{
		resultAccepted, resultEmpty, resultUnauthorized, resultRateLimited, resultTooLarge, resultMalformed, resultInvalid,
		resultForeign, resultConflict, resultForbidden, resultUnavailable,
	}
}

type metrics struct {
	authorizations *prometheus.CounterVec
	uploads        *prometheus.CounterVec
	accepted       prometheus.Counter
	refused        *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_telemeter_authorizations_total",
			Help: "Requests of telemeter clients for a token, by result.",
		}, []string{"result"}),
		uploads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_telemeter_uploads_total",
			Help: "Pushes of telemeter clients, by result.",
		}, []string{"result"}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "thalweg_telemeter_accepted_series_total",
			Help: "Series of pushes that were stored.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "thalweg_telemeter_refused_series_total",
			Help: "Series of pushes that were not taken, by reason. The answer to the push names them.",
		}, []string{"reason"}),
	}
	for _, r := range []result{resultAccepted, resultUnauthorized, resultMalformed, resultUnavailable} {
		m.authorizations.WithLabelValues(string(r))
	}
	for _, r := range results() {
		m.uploads.WithLabelValues(string(r))
	}
	for _, r := range Reasons() {
		m.refused.WithLabelValues(string(r))
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.authorizations, m.uploads, m.accepted, m.refused}
}
