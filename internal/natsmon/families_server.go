package natsmon

// addServer adds what there is of one server, and keeps its streams for addStreams.
func (b *builder) addServer(s *Server) {
	alone := labels{}.with("cluster", s.Cluster).with("server", s.Name)
	basic := alone
	if !b.labelled {
		basic = nil
	}
	if s.Varz != nil {
		record(b, basicTable, basic, s)
	}
}
