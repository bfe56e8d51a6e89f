package natsd

// StopJetStream turns JetStream off as the server itself does when it cannot write, and returns when that is done.
func (s *Server) StopJetStream() error { return s.nats.ShutdownJetStream() }

// JetStreamOn reports whether JetStream is on, or being started.
func (s *Server) JetStreamOn() bool { return s.nats.JetStreamEnabled() }

// LookAtStorage has the health of JetStream looked at soon.
func (s *Server) LookAtStorage() {
	select {
	case s.logger.trouble <- struct{}{}:
	default:
	}
}
