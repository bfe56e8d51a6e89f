package frame

import (
	"fmt"

	"github.com/thalweg/thalweg/internal/series"
)

// DecoderConfig bounds what a decoder takes from the other side. Zero values mean the defaults.
type DecoderConfig struct {
	// Catalog makes the schemas; hubs share one over all sites. Required.
	Catalog *series.Catalog
	// MaxBody bounds the uncompressed body of a frame, in bytes. Default 8 MiB.
	MaxBody int
	// MaxColumns bounds the columns held for all sources together, and those of the schemas. The rows of one frame may
	// touch 32 times as many. Default 4 million.
	MaxColumns int
	// MaxSources bounds the sources. Default 100,000.
	MaxSources int
	// MaxState bounds what is held beside the columns, in bytes: labels and metadata of schemas and sources as they are
	// in memory, where no prefix is shared any more; buckets; exemplars. Default 512 MiB.
	MaxState int
	// Scratch for decompression, which decoders should share where there are many. Nil: one of its own.
	Scratch *Scratch
}

// Bounds of the format itself, the same for every decoder.
const (
	// maxLabel is the longest label name or value, in bytes: what package labels can hold.
	maxLabel = 1<<24 - 1
	// maxFacts and maxRefusals bound what blocks of those kinds list.
	maxFacts    = 256
	maxRefusals = 1024
	// rowWork is how often the rows of a frame may touch MaxColumns. Without it a frame of 8 MiB could make a decoder,
	// and those who take its rows, work for hours: a row of few bytes may stand for millions of absent columns.
	rowWork = 32
)

// Memory of the parts of a state, in bytes, charged beside their strings.
const (
	labelsCost   = 16  // the header of labels.Labels, and the lengths in it
	entryCost    = 128 // an entry of a map with what it points to
	exemplarCost = 48
)

// LimitError means that a frame asks for more than the decoder's configuration allows.
type LimitError struct {
	What  string
	Limit int
}

func (e *LimitError) Error() string { return fmt.Sprintf("more than %d %s", e.Limit, e.What) }

// room is what is left of MaxState.
type room struct{ left, limit int }

// charge takes n bytes of a state's memory, or gives them back if n is negative. It is called before what costs more
// than the bytes read from the frame is allocated.
func (r *reader) charge(n int) {
	if n > r.room.left {
		r.fail(&LimitError{"bytes of state", r.room.limit})
		return
	}
	r.room.left -= n
}

// touch counts n columns against the work that one frame may ask for.
func (d *Decoder) touch(n int) error {
	if d.work += n; d.work > rowWork*d.cfg.MaxColumns {
		return &LimitError{"columns of rows in a frame", rowWork * d.cfg.MaxColumns}
	}
	return nil
}
