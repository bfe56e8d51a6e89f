package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

func newDumpCommand() *cobra.Command {
	var source frameSource
	var rows, asJSON bool
	c := &cobra.Command{
		Use:   "dump PATH...",
		Short: "Show what frames hold",
		Long: `Print one line for each frame: where it is, its kind, epoch and number, the frame it applies to, the version
of the format, rows in it and before it, when it was sent, its size, and its blocks with their bytes before compression.

` + whereFrames + `

--rows prints the rows too, and whatever else a frame holds, in the text form of docs/frame.md. Frames
are looked at one by one and shown as far as they can be read; "thalweg verify" judges them.`,
		Example: "  thalweg dump data/outbox\n  thalweg dump --rows nats://127.0.0.1:4222#ams-1/live",
		Args:    takes(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			out := bufio.NewWriter(c.OutOrStdout())
			d := dumper{out: out, rows: rows, json: asJSON, catalog: series.NewCatalog(), decoders: map[string]*frame.Decoder{}}
			if err := source.each(c.Context(), args, d.frame); err != nil {
				return err
			}
			return out.Flush()
		},
	}
	source.add(c.Flags())
	c.Flags().BoolVar(&rows, "rows", false, "print the rows too")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each frame")
	return c
}

type dumper struct {
	out        io.Writer
	rows, json bool
	catalog    *series.Catalog
	decoders   map[string]*frame.Decoder // by lane
}

// dumpedFrame is a line of dump --json.
type dumpedFrame struct {
	Place       string        `json:"place"`
	Version     int           `json:"version,omitempty"`
	Kind        string        `json:"kind,omitempty"`
	Epoch       string        `json:"epoch,omitempty"`
	Number      uint64        `json:"number,omitempty"`
	Base        uint64        `json:"base,omitempty"`
	Predecessor string        `json:"predecessor,omitempty"`
	Rows        uint32        `json:"rows"`
	RowsBefore  uint64        `json:"rows_before"`
	Sent        *time.Time    `json:"sent,omitempty"`
	Size        int           `json:"size"`
	Blocks      []dumpedBlock `json:"blocks,omitempty"`
	Content     []string      `json:"content,omitempty"` // lines of the text form
	Error       string        `json:"error,omitempty"`
}

// dumpedBlock is all blocks of a kind.
type dumpedBlock struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	Bytes int    `json:"bytes"`
}

func (d *dumper) frame(p *placedFrame) error {
	f := dumpedFrame{Place: p.place, Size: len(p.bytes)}
	if h := &p.header; h.Number > 0 {
		sent := h.SentTime().UTC()
		f.Version, f.Kind, f.Epoch, f.Number, f.Base = h.Version, h.Kind.String(), h.Epoch.String(), h.Number, h.Base
		f.Rows, f.RowsBefore, f.Sent, f.Size = h.Rows, h.RowsBefore, &sent, h.Size
		if h.Predecessor.Number > 0 {
			f.Predecessor = h.Predecessor.ID.String()
		}
	}
	var text []byte
	err := p.err
	if err == nil {
		err = d.decode(p, &f, &text)
	}
	if err != nil {
		f.Error = err.Error()
	}
	if d.json {
		if len(text) > 0 {
			f.Content = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		}
		return json.NewEncoder(d.out).Encode(&f)
	}
	_, err = d.out.Write(append(f.append(nil), text...))
	return err
}

// decode fills in what only the body tells.
func (d *dumper) decode(p *placedFrame, f *dumpedFrame, text *[]byte) error {
	decoder := d.decoders[p.lane]
	if decoder == nil {
		decoder = newFrameDecoder(d.catalog)
		d.decoders[p.lane] = decoder
	}
	var handler frame.Handler
	if d.rows {
		handler = frame.TextHandler(text)
	}
	handler.Trace = func(kind string, bytes int) {
		for i := range f.Blocks {
			if b := &f.Blocks[i]; b.Kind == kind {
				b.Count++
				b.Bytes += bytes
				return
			}
		}
		f.Blocks = append(f.Blocks, dumpedBlock{kind, 1, bytes})
	}
	_, err := decoder.Decode(p.bytes, handler)
	return err
}

// append appends the line of a frame.
func (f *dumpedFrame) append(dst []byte) []byte {
	dst = append(dst, f.Place...)
	if f.Number > 0 {
		dst = fmt.Appendf(dst, " %s %s/%d", f.Kind, f.Epoch, f.Number)
		if f.Base > 0 {
			dst = fmt.Appendf(dst, " base=%d", f.Base)
		}
		if f.Predecessor != "" {
			dst = fmt.Appendf(dst, " predecessor=%s", f.Predecessor)
		}
		dst = fmt.Appendf(dst, " version=%d rows=%d before=%d sent=%s size=%d", f.Version, f.Rows, f.RowsBefore, f.Sent.Format("2006-01-02T15:04:05.000Z"), f.Size)
	}
	for i, b := range f.Blocks {
		sep := ","
		if i == 0 {
			sep = " blocks="
		}
		dst = fmt.Appendf(dst, "%s%s*%d:%d", sep, b.Kind, b.Count, b.Bytes)
	}
	if f.Error != "" {
		dst = fmt.Appendf(dst, " error=%q", f.Error)
	}
	return append(dst, '\n')
}
