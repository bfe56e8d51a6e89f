package natsmon

// compat makes the metrics of another exporter.
type compat struct{ core, jetStream string }

// newCompat returns metrics of prometheus-nats-exporter, whose prefix replaces both of its own unless it is its default.
func newCompat(prefix string) *compat {
	if prefix == DefaultConfig().CompatPrefix {
		return &compat{core: prefix, jetStream: "jetstream"}
	}
	return &compat{core: prefix, jetStream: prefix}
}

func (c *compat) addServer(b *builder, s *Server) {}

func (c *compat) addStream(b *builder, key streamKey, st *stream) {}
