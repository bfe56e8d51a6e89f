package frame

import (
	"encoding/binary"
	"fmt"
)

// minPacked is the least size of blocks that is worth an attempt at compression.
const minPacked = 64

// sealBody makes the body of the frame under construction: of version 2 the size of its blocks as stored, the blocks,
// compressed if that makes them smaller, and the bits, which nothing makes smaller.
func (e *Encoder) sealBody(h *Header) []byte {
	if h.Version == 1 {
		return e.sealBody1(h)
	}
	blocks := e.body
	if len(blocks) >= minPacked {
		if e.compressed = e.cfg.Compressor.zstd.EncodeAll(blocks, e.compressed[:0]); len(e.compressed) < len(blocks) {
			h.Flags |= FlagZstd
			blocks = e.compressed
		}
	}
	body := binary.AppendUvarint(e.residue[:0], uint64(len(blocks)))
	body = append(append(body, blocks...), e.bits...)
	e.residue = body
	return body
}

// newValues is the state of a new source's columns.
func (e *Encoder) newValues() rowEncoder {
	if e.version == 1 {
		return &valuesEncoder1{}
	}
	return &valuesEncoder{}
}

func (e *Encoder) newColumns() columnsWriter {
	if e.version == 1 {
		return &columnsWriter1{}
	}
	return &columnLister{}
}

// open returns the blocks of a body and leaves its bits in d.bits.
func (d *Decoder) open(body []byte, h *Header, u *unpacker) ([]byte, error) {
	d.version, d.bits = h.Version, nil
	if h.Version == 1 {
		return d.open1(body, h, u)
	}
	r := reader{b: body}
	blocks := r.bytes()
	if r.err != nil {
		return nil, fmt.Errorf("blocks: %w", r.err)
	}
	d.bits = r.b
	room := d.cfg.MaxBody - len(d.bits)
	if h.Flags&FlagZstd != 0 && room > 0 {
		return u.decompress(blocks, room)
	}
	if len(blocks) > room {
		return nil, &LimitError{"bytes in a frame", d.cfg.MaxBody}
	}
	return blocks, nil
}

func (d *Decoder) newValues() rowDecoder {
	if d.version == 1 {
		return &valuesDecoder1{}
	}
	return &valuesDecoder{}
}
