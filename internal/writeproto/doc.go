// Package writeproto is the codec of Prometheus remote write, 1.0 and 2.0: rows to request bodies, and request bodies to
// series and their samples.
//
//	e := writeproto.NewEncoder(writeproto.EncoderOptions{Message: writeproto.V1, Labels: final})
//	e.Add("ams-1", 0, row)
//	for _, request := range e.Close() {
//		post(request.Body)
//	}
//
// An encoder does what depends on a series once, when the series appears, and keeps the compressed form of what repeats
// from row to row, so that a row costs little more than its values. Any snappy decoder takes the result. Everything
// arrives bit for bit.
//
// There is no I/O here, no clock and no judgement: what a receiver makes of samples, or a sender of answers, is the
// business of package remotewrite.
package writeproto
