package frame

import "fmt"

// sealBody1 makes a body of version 1: blocks, compressed together if that makes them smaller.
func (e *Encoder) sealBody1(h *Header) []byte {
	if e.compressed = e.cfg.Compressor.zstd.EncodeAll(e.body, e.compressed[:0]); len(e.compressed) < len(e.body) {
		h.Flags |= FlagZstd
		return e.compressed
	}
	return e.body
}

// open1 returns the blocks of a body of version 1.
func (d *Decoder) open1(body []byte, h *Header, u *unpacker) ([]byte, error) {
	if h.Flags&FlagZstd != 0 {
		return u.decompress(body, d.cfg.MaxBody)
	}
	if len(body) > d.cfg.MaxBody {
		return nil, &LimitError{"bytes in a frame", d.cfg.MaxBody}
	}
	return body, nil
}

// readHead1 reads what a row block of version 1 begins with.
func (d *Decoder) readHead1(r *reader) (rowHead, error) {
	sourceID, schemaID := r.uvarint(), r.uvarint()
	h := rowHead{source: d.sources[sourceID], schema: d.schemas[schemaID], t: r.varint(), flags: r.byte()}
	switch s := h.source; {
	case r.err != nil:
		return h, r.err
	case s == nil:
		return h, fmt.Errorf("source %d is not there", sourceID)
	case h.schema == nil || h.schema.schema == nil:
		return h, fmt.Errorf("schema %d is not there", schemaID)
	case h.flags&rowSchema != 0:
		return h, fmt.Errorf("row has flags %#x", h.flags)
	case s.next >= 0 && (s.schema != h.schema || s.row.T != h.t):
		return h, s.unfinished()
	}
	return h, nil
}
