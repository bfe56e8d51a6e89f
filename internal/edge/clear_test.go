package edge

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

func TestClearValues(t *testing.T) {
	dir := t.TempDir()
	want := func(values ...ClearValue) {
		t.Helper()
		got, err := ReadClearValues(dir)
		if err != nil || !slices.Equal(got, values) {
			t.Errorf("the files have %v, %v; want %v", got, err, values)
		}
	}
	open := func() *ClearValues { return OpenClearValues(dir, bustest.Logger(t)) }
	c := open()
	want()
	if c.Save() {
		t.Error("something was forgotten")
	}
	if _, err := os.Stat(filepath.Join(dir, clearFile)); err == nil {
		t.Error("a file was made though nothing is anonymised")
	}
	alice, odd := ClearValue{"user", "alice"}, ClearValue{"user", "a\nb\t\"\u00e9"}
	for range 2 {
		c.Add(alice.Label, alice.Value)
		c.Add(odd.Label, odd.Value)
		c.Save()
	}
	want(alice, odd)
	if info, err := os.Stat(filepath.Join(dir, clearFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the file: %v, %v", info.Mode(), err)
	}
	// A restart adds nothing twice, and does without what was not written to its end.
	f, err := os.OpenFile(filepath.Join(dir, clearFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("[\"user\",\"bo")
	f.Close()
	c = open()
	c.Add(alice.Label, alice.Value)
	c.Save()
	want(alice, odd)

	// When there are too many the older half goes, and who asks is told to add what is in use.
	forgotten := 0
	for i := range 3 * maxClear {
		c.Add("instance", fmt.Sprint(i))
		if i%1000 == 999 && c.Save() {
			forgotten++
			c.Add(alice.Label, alice.Value)
		}
	}
	c.Save()
	got, err := ReadClearValues(dir)
	if err != nil || len(got) > 2*maxClear+2000 || !slices.Contains(got, alice) || forgotten != 3 {
		t.Errorf("%d values are kept, %v; %d times some were forgotten", len(got), err, forgotten)
	}
	if n := testutil.ToFloat64(c.evicted); n < maxClear-2000 {
		t.Errorf("%v evictions are counted", n)
	}
	if n := testutil.ToFloat64(c.held); int(n) != len(got) {
		t.Errorf("%v values are counted, %d are in the files", n, len(got))
	}

	// A directory that cannot be written to costs neither memory without end nor a value that is there later.
	c = OpenClearValues(filepath.Join(dir, "absent"), bustest.Logger(t))
	for i := range 3 * maxClear {
		c.Add("instance", fmt.Sprint(i))
	}
	c.Save()
	if n := testutil.ToFloat64(c.writeErrors); n != 1 || len(c.pending) != 2*maxClear {
		t.Errorf("%v errors are counted, %d values wait", n, len(c.pending))
	}
	if err := os.Mkdir(filepath.Join(dir, "absent"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.Save()
	if got, err := ReadClearValues(filepath.Join(dir, "absent")); err != nil || len(got) != 2*maxClear {
		t.Errorf("%d values are kept, %v", len(got), err)
	}
}
