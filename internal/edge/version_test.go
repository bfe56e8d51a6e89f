package edge

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/lane"
)

const (
	newVersion = frame.Version
	oldVersion = frame.Version - 1
)

// greeter answers hellos as a hub does, until it is stopped. Without an instance it is of a release that answers always.
func (p *place) greeter(t *testing.T, instance string, version int) (stop func()) {
	t.Helper()
	conn := bustest.Connected(t, bus.Options{Config: bustest.Config(p.servers[0].URL())})
	stop, err := conn.Serve(conn.Root().Hellos(), func(_ string, data []byte) []byte {
		var h lane.Hello
		if err := json.Unmarshal(data, &h); err != nil {
			t.Error(err)
		}
		if instance != "" && slices.Contains(h.Heard, instance) {
			return nil
		}
		answer, err := json.Marshal(lane.Welcome{Hub: "h", Instance: instance, NowMs: time.Now().UnixMilli(), FrameVersion: version})
		if err != nil {
			t.Error(err)
		}
		return answer
	})
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// newestVersion is that of the newest frame in the outbox.
func (s *sender) newestVersion() int {
	s.t.Helper()
	last, _ := s.edge.outbox.Last()
	r := s.edge.outbox.Reader(last.ID)
	defer r.Close()
	_, h, _, err := r.Next(1)
	if err != nil {
		s.t.Fatal(err)
	}
	return h.Version
}

// writes makes rows until their frames are of a version.
func (s *sender) writes(version int) {
	s.t.Helper()
	bustest.WaitFor(s.t, fmt.Sprintf("frames of version %d", version), func() bool {
		s.sink(1)
		return s.newestVersion() == version
	})
}

// Edges first: they write the old version until every hub that answers reads the new one, and again when one that does
// not comes back.
func TestFrameVersionFollowsHubs(t *testing.T) {
	t.Parallel()
	p := single(t)
	s := prepare(t, p.proxy.URL(), t.TempDir())
	s.edge.helloInterval, s.edge.otherHubs = 100*time.Millisecond, 300*time.Millisecond
	s.run()
	s.sink(1)
	if v := s.newestVersion(); v != oldVersion {
		t.Fatalf("without a hub frames are of version %d, want %d", v, oldVersion)
	}
	stopOld := p.greeter(t, "", oldVersion)
	stopB := p.greeter(t, "b", oldVersion)
	bustest.WaitFor(t, "hello", func() bool { return s.greeted() > 0 })
	p.greeter(t, "c", newVersion) // the first that is upgraded
	bustest.WaitFor(t, "all hubs' answers", func() bool { return s.greeted() >= 3 })
	s.sink(1)
	if v := s.newestVersion(); v != oldVersion {
		t.Errorf("with an old hub frames are of version %d, want %d", v, oldVersion)
	}
	stopOld()
	stopB()
	s.writes(newVersion)
	stopB = p.greeter(t, "b", oldVersion) // a downgrade
	s.writes(oldVersion)
	stopB()
	s.writes(newVersion)
	s.allStored()
	p.reading.expect(s)
	p.reading.once(bus.Live)
}

// greeted is how many hubs answered the last hello.
func (s *sender) greeted() int {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	return len(s.edge.welcomes)
}

// An outbox that the release before wrote is sent, and the next epoch goes on behind it.
func TestOutboxOfTheReleaseBefore(t *testing.T) {
	t.Parallel()
	frames, err := os.ReadFile("../frame/testdata/v1/outbox.frames")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var last frame.Header
	files, sent := 0, map[frame.ID]bool{}
	write := func(data []byte, h *frame.Header) {
		files++
		name := fmt.Sprintf("%012d-%s-%020d.frames", files, h.Epoch, h.Number)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var file []byte
	var keyframe frame.Header
	for rest := frames; len(rest) > 0; {
		h, one, behind, err := frame.Split(rest)
		if err != nil {
			t.Fatal(err)
		}
		if h.Version != 1 {
			t.Fatalf("frame %s is of version %d", h.ID, h.Version)
		}
		if h.Kind == frame.Keyframe {
			if file != nil {
				write(file, &keyframe)
			}
			file, keyframe = nil, h
		}
		last = h
		file = append(file, one...)
		sent[h.ID] = true
		rest = behind
	}
	write(file, &keyframe)
	p := single(t)
	s := prepare(t, p.proxy.URL(), dir)
	if got, _ := s.edge.outbox.Last(); got.ID != last.ID {
		t.Fatalf("the outbox ends with %s, want %s", got.ID, last.ID)
	}
	s.edge.helloInterval, s.edge.otherHubs = 100*time.Millisecond, 300*time.Millisecond
	p.greeter(t, "a", newVersion)
	s.run()
	s.writes(newVersion)
	s.allStored()
	bustest.WaitFor(t, "the old frames", func() bool {
		p.reading.mu.Lock()
		defer p.reading.mu.Unlock()
		for id := range sent {
			if p.reading.frames[bus.Live][id]+p.reading.frames[bus.Backfill][id] == 0 {
				return false
			}
		}
		return true
	})
	p.reading.mu.Lock()
	defer p.reading.mu.Unlock()
	if len(p.reading.problems) > 0 {
		t.Errorf("problems: %q", p.reading.problems)
	}
	ledger := p.reading.receiver.Site(site).Ledger
	if gaps := ledger.Gaps(); len(gaps) > 0 {
		t.Errorf("gaps: %+v", gaps)
	}
}
