// Package frame is the wire format of lanes: it turns rows into frames and frames into rows. docs/frame.md is the
// normative description.
//
// A frame is a header that can be read alone and a body of blocks, compressed together. An Encoder holds the state of
// an epoch and makes keyframes, which stand alone, and deltas, which apply to the state after one named earlier frame.
// A Decoder follows such a sequence; in any other state than the one a delta names it answers with a *MismatchError
// and never with wrong values.
//
//	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: epoch, Predecessor: last})
//	frames, err := enc.Append(nil, row, nowMs) // whole frames, when the row filled some
//	frames = enc.Close(frames, nowMs)          // the frame under construction
//
//	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: catalog})
//	header, err := dec.Decode(frames[0], frame.Handler{Row: sink})
//
// Every value survives bit for bit. Decoders bound every length before they allocate and reject trailing bytes. The
// package does no I/O and knows no clock; times come in as milliseconds.
package frame
