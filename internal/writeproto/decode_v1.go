package writeproto

import "math"

// decodeV1 reads a prometheus.WriteRequest.
func (b *Batch) decodeV1(body []byte) error {
	for w := (wire{b: body}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		if field != 1 && field != 3 {
			if err := w.skip(typ); err != nil {
				return err
			}
			continue
		}
		if typ != wireBytes {
			return wrongType("a request", typ)
		}
		message, err := w.bytes()
		if err != nil {
			return err
		}
		if field == 1 {
			err = b.seriesV1(message, w.i-len(message))
		} else {
			err = b.metadataV1(message)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seriesV1 reads a prometheus.TimeSeries that begins at a place of the body.
func (b *Batch) seriesV1(message []byte, at int) error {
	s := b.beginSeries()
	w := wire{b: message}
	end, err := skipLabels(&w)
	if err != nil {
		return err
	}
	s.labels = span{uint32(at), uint32(at + end)}
	for w.more() {
		start := w.i
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		if field > 4 {
			if err := w.skip(typ); err != nil {
				return err
			}
			continue
		}
		if typ != wireBytes {
			return wrongType("a series", typ)
		}
		part, err := w.bytes()
		if err != nil {
			return err
		}
		switch field {
		case 1: // behind something else, which no known sender does
			n := len(b.loose)
			b.loose = append(append(b.loose, b.fields(&s)...), message[start:w.i]...)
			s.labels, s.loose = span{uint32(n), uint32(len(b.loose))}, true
		case 2:
			s, err := readSample(part, V1)
			if err != nil {
				return err
			}
			b.samples = append(b.samples, s)
		case 3:
			e, err := readExemplarV1(part)
			if err != nil {
				return err
			}
			b.exemplars = append(b.exemplars, e)
		case 4:
			h, err := b.readHistogram(part, V1)
			if err != nil {
				return err
			}
			b.histograms = append(b.histograms, h)
		}
	}
	return b.endSeries(s)
}

// beginSeries returns a series that has what is read from now on.
func (b *Batch) beginSeries() Series {
	at := func(n int) span { return span{first: uint32(n)} }
	return Series{samples: at(len(b.samples)), histograms: at(len(b.histograms)), exemplars: at(len(b.exemplars))}
}

// endSeries adds it to the others.
func (b *Batch) endSeries(s Series) error {
	s.samples.end, s.histograms.end, s.exemplars.end = uint32(len(b.samples)), uint32(len(b.histograms)), uint32(len(b.exemplars))
	b.Series = append(b.Series, s)
	return full(max(len(b.Series), len(b.samples), len(b.histograms), len(b.exemplars)))
}

// skipLabels goes over the fields 1, as long as there is no other one, and returns where they end.
func skipLabels(w *wire) (end int, err error) {
	for w.i < len(w.b) && w.b[w.i] == tagLabels {
		w.i++
		if _, err := w.bytes(); err != nil {
			return 0, err
		}
	}
	return w.i, nil
}

// appendFields appends the labels of fields 1, which are messages of type prometheus.Label.
func appendFields(dst []Label, fields []byte) ([]Label, error) {
	for w := (wire{b: fields}); w.more(); {
		if _, _, err := w.tag(); err != nil {
			return dst, err
		}
		message, err := w.bytes()
		if err != nil {
			return dst, err
		}
		l, err := readLabel(message)
		if err != nil {
			return dst, err
		}
		dst = append(dst, l)
	}
	return dst, nil
}

// readLabel reads a prometheus.Label.
func readLabel(message []byte) (l Label, err error) {
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return l, err
		}
		if field > 2 {
			if err := w.skip(typ); err != nil {
				return l, err
			}
			continue
		}
		if typ != wireBytes {
			return l, wrongType("a label", typ)
		}
		s, err := w.bytes()
		if err != nil {
			return l, err
		}
		if field == 1 {
			l.Name = s
		} else {
			l.Value = s
		}
	}
	return l, nil
}

// readExemplarV1 reads a prometheus.Exemplar. Its labels are checked, for they are not looked at in all cases.
func readExemplarV1(message []byte) (e Exemplar, err error) {
	for w := (wire{b: message}); w.more(); {
		start := w.i
		field, typ, err := w.tag()
		if err != nil {
			return e, err
		}
		switch field {
		case 1:
			if typ != wireBytes {
				return e, wrongType("an exemplar's labels", typ)
			}
			label, err := w.bytes()
			if err != nil {
				return e, err
			}
			if _, err := readLabel(label); err != nil {
				return e, err
			}
			if e.fields == nil {
				e.fields = message[start:w.i:w.i]
			} else {
				e.fields = appendBehind(e.fields, message, start, w.i)
			}
		case 2, 3:
			if err := e.readValue(&w, field, typ); err != nil {
				return e, err
			}
		default:
			if err := w.skip(typ); err != nil {
				return e, err
			}
		}
	}
	return e, nil
}

// appendBehind appends message[start:end] to a part of message, which is a copy then unless one follows the other.
func appendBehind(part, message []byte, start, end int) []byte {
	if n := len(part); start >= n && &message[start-n] == &part[0] {
		return message[start-n : end : end]
	}
	return append(part, message[start:end]...)
}

// readValue reads the value or the time of an exemplar, which are the fields 2 and 3 in both versions.
func (e *Exemplar) readValue(w *wire, field int32, typ int) error {
	if field == 2 {
		if typ != wireFixed {
			return wrongType("an exemplar's value", typ)
		}
		v, err := w.fixed()
		e.V = math.Float64frombits(v)
		return err
	}
	if typ != wireVarint {
		return wrongType("an exemplar's time", typ)
	}
	v, err := w.varint()
	e.T = int64(v)
	return err
}

// metadataV1 reads a prometheus.MetricMetadata.
func (b *Batch) metadataV1(message []byte) error {
	m := Metadata{Type: metricTypes[0]}
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		switch field {
		case 1:
			if typ != wireVarint {
				return wrongType("a metric type", typ)
			}
			v, err := w.varint()
			if err != nil {
				return err
			}
			m.Type = metricTypes[knownType(v)]
		case 2, 4, 5:
			if typ != wireBytes {
				return wrongType("metadata", typ)
			}
			s, err := w.bytes()
			if err != nil {
				return err
			}
			switch field {
			case 2:
				m.Family = s
			case 4:
				m.Help = s
			case 5:
				m.Unit = s
			}
		default:
			if err := w.skip(typ); err != nil {
				return err
			}
		}
	}
	b.Metadata = append(b.Metadata, m)
	return full(len(b.Metadata))
}
