// Package bus is the JetStream adapter: one connection, publishing with compare-and-set, reading a stream in order,
// requests. It moves bytes, subjects and sequence numbers and has never heard of a metric.
//
// An edge, which has no JetStream API rights, publishes and reads back with raw requests:
//
//	conn, err := bus.Connect(bus.Options{Config: cfg, Site: "ams-1", Logger: log}) // returns at once
//	subject := conn.Root().Lane("ams-1", bus.Live)
//	seq, err = conn.Publish(ctx, subject, payload, seq) // expect the lane's last sequence
//	if conflict := (*bus.SequenceError)(nil); errors.As(err, &conflict) {
//		message, err = conn.Last(ctx, subject) // what is stored there instead?
//	}
//
// A hub makes the stream and reads it:
//
//	result, err := conn.EnsureStream(ctx)
//	reader, err := conn.NewReader(bus.ReaderOptions{Subjects: conn.Root().Lanes(), Start: bus.Start{Position: saved}, Handle: handle})
//	err = reader.Run(ctx)
//
// It promises that a connection is tried for ever, whatever the server does; that the error of a publish says whether
// the message is stored, is not, or may be; that a reader hands over every message once and in stream order, and says
// so when the stream is no longer the one it was reading.
//
// It leaves out what messages mean, retries of publishes, and where positions are kept: its callers know.
package bus
