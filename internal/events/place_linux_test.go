package events

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Directories of containers may have the same path on machines of the same name.
func TestPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	at := func() string {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return place("host", dir)
	}
	first := at()
	if err := os.Rename(dir, dir+".other"); err != nil {
		t.Fatal(err)
	}
	if second := at(); first == "" || first == second {
		t.Errorf("%q and %q are two directories", first, second)
	} else if _, a, _ := strings.Cut(first, " "); !strings.HasSuffix(second, " "+a) {
		t.Errorf("%q and %q differ in what stays when the machine starts", first, second)
	}
}
