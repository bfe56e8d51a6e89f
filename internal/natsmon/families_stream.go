package natsmon

// streamKey is what a stream is called, wherever its leader is.
type streamKey struct{ cluster, server, account, name string }

// stream is what its leader says of it.
type stream struct{}

func (b *builder) addStreams() {}
