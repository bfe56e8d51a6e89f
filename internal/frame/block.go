package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/prometheus/common/model"
)

// blockKind says what a block holds. The high bit marks kinds that a decoder may skip when it does not know them; any
// other unknown kind is an error.
type blockKind uint8

const (
	blockSource   blockKind = 0x01 // defines a source
	blockSchema   blockKind = 0x02 // defines a schema, or a part of it
	blockRow      blockKind = 0x03 // a row, or a range of its columns
	blockEnd      blockKind = 0x04 // a source ended
	blockForget   blockKind = 0x05 // a source fell silent; its state is dropped, nothing ended
	blockLoss     blockKind = 0x06 // rows that will never come
	blockOrigin   blockKind = 0x80 // facts about the edge, names and values
	blockRefusals blockKind = 0x81 // what the edge's own limits refused

	skippable blockKind = 0x80
)

var blockNames = map[blockKind]string{
	blockSource: "source", blockSchema: "schema", blockRow: "row", blockEnd: "end", blockForget: "forget",
	blockLoss: "loss", blockOrigin: "origin", blockRefusals: "refusals",
}

func (k blockKind) String() string {
	if n, ok := blockNames[k]; ok {
		return n
	}
	return fmt.Sprintf("kind %#02x", uint8(k))
}

// Row flags.
const (
	rowPartial    = 1 << 0 // a list of columns follows; the row says nothing about others
	rowPresence   = 1 << 1 // runs of present and absent columns follow; otherwise they are as in the last whole row
	rowRange      = 1 << 2 // the block covers a range of the row's columns
	rowMore       = 1 << 3 // another range of the same row follows
	rowHistograms = 1 << 4
	rowExemplars  = 1 << 5
	rowStarts     = 1 << 6 // start timestamps differ from those of the source's last row
	rowSchema     = 1 << 7 // a schema follows; otherwise it is that of the source's last row
)

// Cause says why rows are lost. The set is closed.
type Cause uint8

const (
	CauseEvicted   Cause = 1 + iota // the outbox was full or the frames too old
	CauseCorrupt                    // an outbox file could not be read back
	CauseRefused                    // a limit refused them
	CausePaused                     // the site was paused
	CauseOversize                   // a frame does not fit the server's max_payload
	CauseUnwritten                  // the outbox could not be written

	causeEnd
)

var causeNames = [...]string{"unknown", "evicted", "corrupt", "refused", "paused", "oversize", "unwritten"}

func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return causeNames[0]
}

// Loss announces that the frames From to To of Epoch, both included, will never come.
type Loss struct {
	Epoch    Epoch
	From, To uint64
	Rows     uint64
	// First and Last are the send times of the first and last of them, in milliseconds since 1970.
	First, Last int64
	Cause       Cause
}

// Fact is one thing that an edge says about itself in its keyframes: "version", "keyframe_interval_ms", ...
type Fact struct{ Name, Value string }

// Refusal is what an edge's own limits refused since the keyframe before.
type Refusal struct {
	Reason  string
	Series  uint64
	Samples uint64
	Example string // one of the series, for the operator
}

// metricTypes are numbered on the wire by their place here.
var metricTypes = [...]model.MetricType{
	"", model.MetricTypeUnknown, model.MetricTypeCounter, model.MetricTypeGauge, model.MetricTypeHistogram,
	model.MetricTypeGaugeHistogram, model.MetricTypeSummary, model.MetricTypeInfo, model.MetricTypeStateset,
}

func metricTypeNumber(t model.MetricType) byte {
	for i, known := range metricTypes {
		if t == known {
			return byte(i)
		}
	}
	return 1 // unknown
}

// appendBlock appends a block around payload.
func appendBlock(dst []byte, kind blockKind, payload []byte) []byte {
	dst = append(dst, byte(kind))
	dst = binary.AppendUvarint(dst, uint64(len(payload)))
	return append(dst, payload...)
}

func appendLoss(dst []byte, l *Loss) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(l.Epoch))
	dst = binary.AppendUvarint(dst, l.From)
	dst = binary.AppendUvarint(dst, l.To)
	dst = binary.AppendUvarint(dst, l.Rows)
	dst = appendVarint(dst, l.First)
	dst = appendVarint(dst, l.Last)
	return append(dst, byte(l.Cause))
}

func readLoss(r *reader) Loss {
	l := Loss{
		Epoch: Epoch(r.uint64()), From: r.uvarint(), To: r.uvarint(), Rows: r.uvarint(),
		First: r.varint(), Last: r.varint(), Cause: Cause(r.byte()),
	}
	if r.err == nil && (l.Epoch == 0 || l.From == 0 || l.To < l.From || l.Cause == 0 || l.Cause >= causeEnd) {
		r.failf("loss of frames %d to %d of epoch %s by cause %d", l.From, l.To, l.Epoch, l.Cause)
	}
	return l
}

func appendOrigin(dst []byte, facts []Fact) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(facts)))
	for _, f := range facts {
		dst = appendString(appendString(dst, f.Name), f.Value)
	}
	return dst
}

func readOrigin(r *reader) []Fact {
	facts := make([]Fact, r.list(2, maxFacts))
	for i := range facts {
		facts[i] = Fact{r.string(), r.string()}
	}
	return facts
}

func appendRefusals(dst []byte, refusals []Refusal) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(refusals)))
	for i := range refusals {
		f := &refusals[i]
		dst = appendString(dst, f.Reason)
		dst = binary.AppendUvarint(dst, f.Series)
		dst = binary.AppendUvarint(dst, f.Samples)
		dst = appendString(dst, f.Example)
	}
	return dst
}

func readRefusals(r *reader) []Refusal {
	refusals := make([]Refusal, r.list(4, maxRefusals))
	for i := range refusals {
		refusals[i] = Refusal{r.string(), r.uvarint(), r.uvarint(), r.string()}
	}
	return refusals
}
