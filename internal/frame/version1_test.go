package frame_test

import (
	"compress/gzip"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// TestReadsVersion1 reads an outbox as the release that knew only version 1 left it: scrapes of the corpus with growth
// and a keyframe among them, then an epoch of generated rows of every kind, in parts, with losses, refusals, ends and
// forgotten sources. The files were written once, by that release, and are never made anew.
func TestReadsVersion1(t *testing.T) {
	outbox, err := os.ReadFile("testdata/v1/outbox.frames")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("testdata/v1/outbox.txt.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	frames := 0
	dec := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	for len(outbox) > 0 {
		var one []byte
		if _, one, outbox, err = frame.Split(outbox); err != nil {
			t.Fatal(err)
		}
		h, err := dec.Decode(one, frame.TextHandler(&got))
		if err != nil {
			t.Fatal(err)
		}
		if h.Version != 1 {
			t.Fatalf("frame %s is of version %d", h.ID, h.Version)
		}
		frames++
	}
	if frames != 36 {
		t.Errorf("%d frames, want 36", frames)
	}
	if string(got) == string(want) {
		return
	}
	lines := strings.Split(string(got), "\n")
	for i, w := range strings.Split(string(want), "\n") {
		if i >= len(lines) || lines[i] != w {
			t.Fatalf("line %d is\n%s\nwant\n%s", i+1, append(lines, "nothing")[min(i, len(lines))], w)
		}
	}
	t.Fatalf("%d lines more than wanted", len(lines))
}
