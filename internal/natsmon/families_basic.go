package natsmon

// basicTable has the thirteen names that were there first, exactly as they were, also where the name of a counter does not
// end in _total.
var basicTable = table[*Server]{
	labels: []string{"cluster", "server"},
	metrics: []metric[*Server]{
		gauge("nats_server_clients", "The number of connected clients", func(s *Server) float64 {
			return float64(s.Varz.Connections - s.Own)
		}),
	},
}
