package frame

// sealBody1 makes a body of version 1: blocks, compressed together if that makes them smaller.
func (e *Encoder) sealBody1(h *Header) []byte {
	if e.compressed = e.zstd.EncodeAll(e.body, e.compressed[:0]); len(e.compressed) < len(e.body) {
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
