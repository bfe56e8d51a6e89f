package natsmon

import "github.com/nats-io/nats-server/v2/server"

// basicTable has the thirteen names that were there first, exactly as they were, also where the name of a counter does not
// end in _total. They are all of Server.Varz.
var basicTable = []metric[*Server]{
	gauge("nats_server_uptime_seconds", "Uptime of the NATS server in seconds",
		func(s *Server) float64 { return s.Varz.Now.Sub(s.Varz.Start).Seconds() }),
	gauge("nats_server_clients", "The number of connected clients",
		func(s *Server) float64 { return float64(max(0, s.Varz.Connections-s.Own)) }),
	counter("nats_server_total_connections", "The total number of connections accepted",
		func(s *Server) float64 { return float64(s.Varz.TotalConnections) - float64(s.OwnTotal) }),
	counter("nats_server_total_bytes_sent", "The total number of bytes sent by the server",
		func(s *Server) float64 { _, sent := wireBytes(s); return sent }),
	counter("nats_server_total_bytes_received", "The total number of bytes received by the server",
		func(s *Server) float64 { received, _ := wireBytes(s); return received }),
	counter("nats_server_total_messages_sent", "The total number of messages sent by the server",
		func(s *Server) float64 { return float64(s.Varz.OutMsgs) }),
	counter("nats_server_total_messages_received", "The total number of messages received by the server",
		func(s *Server) float64 { return float64(s.Varz.InMsgs) }),
	counter("nats_server_total_payload_bytes_sent", "The total number of payload bytes sent by the server",
		func(s *Server) float64 { return float64(s.Varz.OutBytes) }),
	counter("nats_server_total_payload_bytes_received", "The total number of payload bytes received by the server",
		func(s *Server) float64 { return float64(s.Varz.InBytes) }),
	counter("nats_server_slow_consumers", "The number of slow consumers detected",
		func(s *Server) float64 { return float64(s.Varz.SlowConsumers) }),
	gauge("nats_server_memory_bytes", "Current memory usage in bytes",
		func(s *Server) float64 { return float64(s.Varz.Mem) }),
	gauge("nats_server_cpu_cores", "The number of CPU cores available to the NATS server process",
		func(s *Server) float64 { return float64(s.Varz.Cores) }),
}

// versionTable is the thirteenth: its value is its label.
var versionTable = []metric[*Server]{
	gauge("nats_server_version", "NATS server version", one[*Server]),
}

// one is the value of metrics that are there for their labels.
func one[T any](T) float64 { return 1 }

// protocolBytes is what a message is thought to take on the wire beside its headers and body: 12 bytes for the verb, the
// lengths and the line ends, and 24 for the subject, which is what one of four tokens takes.
const protocolBytes = 12 + 24

// estimateWireBytes is what a server has received and sent, as far as its own counters tell: it counts neither the protocol
// nor subjects, TLS or WebSocket.
func estimateWireBytes(v *server.Varz) (received, sent float64) {
	return float64(v.InBytes) + protocolBytes*float64(v.InMsgs), float64(v.OutBytes) + protocolBytes*float64(v.OutMsgs)
}

// wireBytes is what the kernel has counted, of clients and servers alike, or the estimate.
func wireBytes(s *Server) (received, sent float64) {
	if s.Wire == nil {
		return estimateWireBytes(s.Varz)
	}
	for _, n := range s.Wire.Received {
		received += float64(n)
	}
	for _, n := range s.Wire.Sent {
		sent += float64(n)
	}
	return received, sent
}
