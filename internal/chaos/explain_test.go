//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/frame"
)

// where is where a frame stands: in files of the outbox, or in messages of the stream.
type where map[frame.ID][]string

// explain says of lost rows where their frames are.
func (s *storm) explain(hub string, lost []row) {
	if len(lost) == 0 {
		return
	}
	stream := s.stream()
	outboxes := map[string]where{}
	for i, p := range s.edges {
		outboxes[sites[i].name] = s.outbox(p)
	}
	for i, x := range lost {
		if i == 10 {
			s.t.Errorf("... and %d more", len(lost)-i)
			return
		}
		s.t.Errorf("%s: row %q of epoch %s was accepted and not recorded, frames %d to %d:\n\tin the outbox: %s\n\tin the stream: %s", hub, x.key,
			x.epoch, x.first, x.last, outboxes[x.site].list(&x), stream.list(&x))
	}
}

// list says where the frames are that may hold a row.
func (w where) list(x *row) string {
	var found []string
	for n := x.first; n <= x.last; n++ {
		var epoch frame.Epoch
		_, _ = fmt.Sscanf(x.epoch, "%x", (*uint64)(&epoch))
		if places := w[frame.ID{Epoch: epoch, Number: n}]; len(places) > 0 {
			found = append(found, fmt.Sprintf("%d at %s", n, strings.Join(places, " and ")))
		}
	}
	if len(found) == 0 {
		return "none"
	}
	return strings.Join(found, ", ")
}

// outbox reads the files of an edge.
func (s *storm) outbox(p *process) where {
	w := where{}
	files, _ := filepath.Glob(filepath.Join(p.task.storeDir(), "*.frames*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			s.t.Error(err)
		}
		w.add(filepath.Base(file), data)
	}
	return w
}

func (w where) add(place string, data []byte) {
	for len(data) > 0 {
		h, _, rest, err := frame.Split(data)
		if err != nil {
			return
		}
		w[h.ID], data = append(w[h.ID], place), rest
	}
}

// stream reads all there is.
func (s *storm) stream() where {
	w := where{}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reader, err := s.control.NewReader(bus.ReaderOptions{
		Name: "explain", Subjects: []string{s.control.Root().AllLanes()},
		Handle: func(m bus.Message) error {
			_, l, err := s.control.Root().ParseLane(m.Subject)
			w.add(fmt.Sprintf("%d (%s)", m.Sequence, l), m.Payload)
			return err
		},
		CaughtUp: cancel,
	})
	if err == nil {
		err = reader.Run(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		s.t.Errorf("read the stream: %v", err)
	}
	for _, places := range w {
		slices.Sort(places)
	}
	return w
}
