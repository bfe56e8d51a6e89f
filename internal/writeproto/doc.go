// Package writeproto is the codec of Prometheus remote write, 1.0 and 2.0: rows to request bodies, and request bodies to
// series and their samples.
//
//	e := writeproto.NewEncoder(writeproto.EncoderOptions{Message: writeproto.V1, Labels: final})
//	e.Add("ams-1", 0, row)
//	for _, request := range e.Close() {
//		post(request.Body)
//	}
//
// A Batch is the other way: a request, taken apart without a copy.
//
//	if err := batch.Decode(writeproto.V2, body); err != nil {
//		return err
//	}
//	for i := range batch.Series {
//		labels, err := batch.AppendLabels(nil, &batch.Series[i])
//		take(labels, batch.Samples(&batch.Series[i]))
//	}
//
// An encoder does what depends on a series once, when the series appears, and keeps the compressed form of what repeats
// from row to row, so that a row costs little more than its values. Any snappy decoder takes the result. Everything
// arrives bit for bit.
//
// A batch takes what Prometheus takes, bit for bit, and bounds what it makes of hostile bytes. Series are recognised by
// their labels as they stand in the body (Hash, HasKey), so that labels are made of those only that are new.
//
// There is no I/O here, no clock and no judgement: what a receiver makes of samples, or a sender of answers, is the
// business of package remotewrite.
package writeproto
