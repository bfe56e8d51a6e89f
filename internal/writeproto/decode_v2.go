package writeproto

// decodeV2 reads an io.prometheus.write.v2.Request. The symbols may stand behind the series.
func (b *Batch) decodeV2(body []byte) error {
	for w := (wire{b: body}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		if field != 4 && field != 5 {
			if err := w.skip(typ); err != nil {
				return err
			}
			continue
		}
		if typ != wireBytes {
			return wrongType("a request", typ)
		}
		part, err := w.bytes()
		if err != nil {
			return err
		}
		if field == 4 {
			b.symbols = append(b.symbols, part)
			err = full(len(b.symbols))
		} else {
			err = b.seriesV2(part)
		}
		if err != nil {
			return err
		}
	}
	if n := len(b.symbols); n <= cap(b.hashes) {
		b.hashes = b.hashes[:n]
		clear(b.hashes)
	} else {
		b.hashes = make([]uint64, n)
	}
	return nil
}

// seriesV2 reads an io.prometheus.write.v2.TimeSeries.
func (b *Batch) seriesV2(message []byte) error {
	s := b.beginSeries()
	s.labels.first = uint32(len(b.refs))
	created := int64(0)
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		switch {
		case field == 1:
			if err := b.readRefs(&w, typ); err != nil {
				return err
			}
			continue
		case field == 6 && typ == wireVarint: // created_timestamp of the drafts, which no longer is one of the fields
			v, err := w.varint()
			if err != nil {
				return err
			}
			created = int64(v)
			continue
		case field > 5:
			if err := w.skip(typ); err != nil {
				return err
			}
			continue
		case typ != wireBytes:
			return wrongType("a series", typ)
		}
		part, err := w.bytes()
		if err != nil {
			return err
		}
		switch field {
		case 2:
			sample, err := readSample(part, V2)
			if err != nil {
				return err
			}
			b.samples = append(b.samples, sample)
		case 3:
			h, err := b.readHistogram(part, V2)
			if err != nil {
				return err
			}
			b.histograms = append(b.histograms, h)
		case 4:
			// It is read at last, for it has references, too.
			b.exemplars = append(b.exemplars, Exemplar{fields: part})
		case 5:
			if err := s.readMetadata(part); err != nil {
				return err
			}
		}
	}
	s.labels.end = uint32(len(b.refs))
	for i := int(s.exemplars.first); i < len(b.exemplars); i++ {
		if err := b.readExemplarV2(&b.exemplars[i]); err != nil {
			return err
		}
	}
	if created != 0 {
		setStarts(b.samples[s.samples.first:], b.histograms[s.histograms.first:], created)
	}
	if err := full(len(b.refs) / 16); err != nil {
		return err
	}
	return b.endSeries(s)
}

// setStarts gives a start to the samples that have none of their own.
func setStarts(samples []Sample, histograms []Histogram, start int64) {
	for i := range samples {
		if samples[i].Start == 0 {
			samples[i].Start = start
		}
	}
	for i := range histograms {
		if histograms[i].Start == 0 {
			histograms[i].Start = start
		}
	}
}

// readRefs reads references to symbols, whether they are packed or not.
func (b *Batch) readRefs(w *wire, typ int) error {
	if typ == wireVarint {
		v, err := w.varint()
		b.refs = append(b.refs, uint32(v))
		return err
	}
	if typ != wireBytes {
		return wrongType("references", typ)
	}
	packed, err := w.bytes()
	if err != nil {
		return err
	}
	for in := (wire{b: packed}); in.more(); {
		if i := in.i; packed[i] < 0x80 { // most have one byte or two
			b.refs = append(b.refs, uint32(packed[i]))
			in.i++
			continue
		} else if i+1 < len(packed) && packed[i+1] < 0x80 {
			b.refs = append(b.refs, uint32(packed[i]&0x7f)|uint32(packed[i+1])<<7)
			in.i += 2
			continue
		}
		v, err := in.varint()
		if err != nil {
			return err
		}
		b.refs = append(b.refs, uint32(v))
	}
	return nil
}

// readExemplarV2 reads an io.prometheus.write.v2.Exemplar, which stands where its labels belong.
func (b *Batch) readExemplarV2(e *Exemplar) error {
	message := e.fields
	e.fields, e.refs.first = nil, uint32(len(b.refs))
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		switch field {
		case 1:
			err = b.readRefs(&w, typ)
		case 2, 3:
			err = e.readValue(&w, field, typ)
		default:
			err = w.skip(typ)
		}
		if err != nil {
			return err
		}
	}
	e.refs.end = uint32(len(b.refs))
	return nil
}

// readMetadata reads an io.prometheus.write.v2.Metadata. One that is split goes on where the one before ended.
func (s *Series) readMetadata(message []byte) error {
	for w := (wire{b: message}); w.more(); {
		field, typ, err := w.tag()
		if err != nil {
			return err
		}
		if field != 1 && field != 3 && field != 4 {
			if err := w.skip(typ); err != nil {
				return err
			}
			continue
		}
		if typ != wireVarint {
			return wrongType("metadata", typ)
		}
		v, err := w.varint()
		if err != nil {
			return err
		}
		switch field {
		case 1:
			s.typ = knownType(v)
		case 3:
			s.help = uint32(v)
		case 4:
			s.unit = uint32(v)
		}
	}
	return nil
}
