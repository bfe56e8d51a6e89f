package frame

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Scratch is the memory in which bodies are decompressed, some 100 KB and the body. It is needed only while a frame is
// decoded: decoders that share one hold none of it in between. The zero value is ready; all methods are safe for
// concurrent use.
type Scratch struct{ free sync.Pool }

// unpacker decompresses one body at a time.
type unpacker struct {
	zstd *zstd.Decoder
	body []byte
}

func (s *Scratch) take() *unpacker {
	if u, ok := s.free.Get().(*unpacker); ok {
		return u
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxSize), zstd.WithDecoderMaxWindow(MaxSize))
	if err != nil {
		panic("BUG: frame: make zstd decoder: " + err.Error())
	}
	return &unpacker{zstd: z}
}

func (s *Scratch) give(u *unpacker) { s.free.Put(u) }

// decompress returns the body, which is valid until u is given back.
func (u *unpacker) decompress(src []byte, maxBody int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return nil, fmt.Errorf("read zstd header: %w", err)
	}
	if h.Skippable || !h.HasFCS || !h.SingleSegment || h.HasCheckSum || h.DictionaryID != 0 {
		return nil, errors.New("body is not a zstd frame of one segment that tells its size, without checksum and dictionary")
	}
	if h.FrameContentSize > uint64(min(maxBody, MaxSize)) {
		return nil, &LimitError{"bytes in a frame", maxBody}
	}
	size, err := zstdSize(src, h.HeaderSize)
	if err != nil {
		return nil, err
	}
	if size != len(src) {
		return nil, fmt.Errorf("%d bytes behind the zstd frame", len(src)-size)
	}
	body, err := u.zstd.DecodeAll(src, u.body[:0])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	u.body = body
	if uint64(len(body)) != h.FrameContentSize {
		return nil, fmt.Errorf("decompressed to %d bytes, zstd header says %d", len(body), h.FrameContentSize)
	}
	return body, nil
}

// zstdSize walks the blocks of a zstd frame without checksum, whose size it returns. The library would decode and
// concatenate further frames, and skip some, so that a body had more than one form.
func zstdSize(src []byte, headerSize int) (int, error) {
	const last, rle = 1, 1
	for at := headerSize; ; {
		if len(src)-at < 3 {
			return 0, errors.New("zstd frame is cut short")
		}
		block := int(src[at]) | int(src[at+1])<<8 | int(src[at+2])<<16
		size := block >> 3
		if block>>1&3 == rle {
			size = 1
		}
		if at += 3; len(src)-at < size {
			return 0, errors.New("zstd frame is cut short")
		}
		if at += size; block&last != 0 {
			return at, nil
		}
	}
}
