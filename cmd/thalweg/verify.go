package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
	"github.com/thalweg/thalweg/internal/series"
)

func newVerifyCommand() *cobra.Command {
	var source frameSource
	c := &cobra.Command{
		Use:   "verify PATH...",
		Short: "Check frames: headers, checksums, that they decode, numbers and row counts",
		Long: `Check every frame: its header and checksum, that it can be decoded from the first keyframe on, that it
holds the rows that its header says and counts those before it right. Print each fault with its place,
then what is missing between frames, then totals. Exit with 1 if there is a fault.

` + whereFrames + `

Missing frames are no fault: what a server has stored leaves the outbox, and what is not in a stream may
still be on its way. Nor is a frame that is cut short at the end of the file written last.`,
		Example: "  thalweg verify data/outbox",
		Args:    takes(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			v := verifier{out: c.OutOrStdout(), catalog: series.NewCatalog(), lanes: map[string]*verifiedLane{}, sites: map[string]*lane.Ledger{}}
			if err := source.each(c.Context(), args, v.frame); err != nil {
				return err
			}
			return v.finish()
		},
	}
	source.add(c.Flags())
	return c
}

type verifier struct {
	out     io.Writer
	catalog *series.Catalog
	lanes   map[string]*verifiedLane
	sites   map[string]*lane.Ledger

	frames, keyframes, undecoded, again, faults int
	rows, bytes                                 uint64
}

type verifiedLane struct {
	decoder *frame.Decoder
	last    frame.Header // the last sound one
	synced  bool         // a keyframe came
}

// wait sees to it that a fault is told once: what follows is not decoded before the next keyframe.
func (l *verifiedLane) wait() {
	l.decoder.Reset()
	l.synced = false
}

func (v *verifier) fault(place string, err error) error {
	v.faults++
	_, err = fmt.Fprintf(v.out, "%s: %v\n", place, err)
	return err
}

func (v *verifier) frame(p *placedFrame) error {
	if p.torn {
		_, err := fmt.Fprintf(v.out, "%s: torn tail, not a fault: %v\n", p.place, p.err)
		return err
	}
	if p.err != nil {
		return v.fault(p.place, p.err)
	}
	v.frames++
	v.bytes += uint64(len(p.bytes))
	l := v.lanes[p.lane]
	if l == nil {
		l = &verifiedLane{decoder: newFrameDecoder(v.catalog)}
		v.lanes[p.lane] = l
	}
	h, err := frame.Verify(p.bytes)
	if err != nil {
		l.wait()
		return v.fault(p.place, err)
	}
	ledger := v.sites[p.site]
	if ledger == nil {
		ledger = &lane.Ledger{}
		v.sites[p.site] = ledger
	}
	if n := &l.last; n.Epoch == h.Epoch && n.Number+1 == h.Number && n.RowsAfter() != h.RowsBefore {
		if err := v.fault(p.place, fmt.Errorf("frame %s counts %d rows before it, up to frame %d there are %d",
			h.ID, h.RowsBefore, n.Number, n.RowsAfter())); err != nil {
			return err
		}
	}
	l.last = h
	known := ledger.Has(h.ID)
	ledger.Place(&h, p.backfill)
	ledger.Add(&h, h.Sent)
	if known {
		v.again++
	} else {
		v.rows += uint64(h.Rows)
	}
	if h.Kind == frame.Keyframe {
		v.keyframes++
		l.synced = true
	}
	if !l.decoder.Applies(&h) && (known || !l.synced) {
		v.undecoded++
		return nil
	}
	if _, err := l.decoder.Decode(p.bytes, frame.Handler{Loss: ledger.Lose}); err != nil {
		l.wait()
		return v.fault(p.place, err)
	}
	return nil
}

// finish prints what is missing and the totals.
func (v *verifier) finish() error {
	missing := 0
	for _, site := range slices.Sorted(maps.Keys(v.sites)) {
		for _, g := range v.sites[site].Gaps() {
			missing++
			to := "the end of the epoch"
			if g.To > 0 {
				to = fmt.Sprint(g.To)
			}
			why := "no loss notice names them"
			if g.Cause != 0 {
				why = "announced as " + g.Cause.String()
			}
			if _, err := fmt.Fprintf(v.out, "%s: frames %s/%d to %s are not here, %d rows: %s\n", site, g.Epoch, g.From, to, g.Rows, why); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintf(v.out, "%d frames (%d keyframes, %d repeated, %d not decoded for want of a keyframe), %d rows, %d bytes; %d gaps; %d faults\n",
		v.frames, v.keyframes, v.again, v.undecoded, v.rows, v.bytes, missing, v.faults); err != nil {
		return err
	}
	if v.faults > 0 {
		return fmt.Errorf("faults found: %d", v.faults)
	}
	return nil
}
