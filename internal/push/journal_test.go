package push

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// metricsOf is what a gateway serves, times of pushes included.
func (r *rig) metricsOf(t testing.TB) string {
	t.Helper()
	return r.want(t, 200, "GET", "/metrics", "")
}

// journalFiles are the names of the files of a journal in a directory.
func journalFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+journalSuffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

func TestGroupsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/a/p@base64/YS9i/q@base64/=", "# TYPE x counter\nx 1\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count 3\n")
	r.want(t, 200, "PUT", "/metrics/job/b", "y 1\n", ttlHeader, "1w")
	r.want(t, 200, "POST", "/metrics/job/b", "z 1\n", ttlHeader, "0")
	r.want(t, 200, "PUT", "/metrics/job/gone", "y2 1\n")
	r.want(t, 202, "DELETE", "/metrics/job/gone", "")
	r.want(t, 400, "PUT", "/metrics/job/failed", "y 1 1\n")
	want, wantJSON := r.metricsOf(t), normalJSON(t, r.want(t, 200, "GET", "/api/v1/metrics", ""))
	for range 3 {
		r.close()
		r = newRig(t, dir, nil)
		if got := r.metricsOf(t); got != want {
			t.Fatalf("after a restart there is\n%s\nwant\n%s", got, want)
		}
		if got := normalJSON(t, r.want(t, 200, "GET", "/api/v1/metrics", "")); got != wantJSON {
			t.Fatalf("after a restart there is\n%s\nwant\n%s", got, wantJSON)
		}
	}
	// The index is there again, too.
	r.want(t, 400, "PUT", "/metrics/job/c", "# TYPE x gauge\nx 1\n")
	r.want(t, 200, "PUT", "/metrics/job/c", "# TYPE y2 gauge\ny2 1\n")
	if s := r.Stats(); s.Groups != 4 {
		t.Errorf("there are %d groups", s.Groups)
	}
}

func TestDirectoryBelongsToOne(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir, nil)
	if _, err := Open(Options{Dir: dir, SiteName: "x"}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("the second one got %v", err)
	}
}

// TestJournalCutAnywhere cuts the journal at many bytes: what was complete is there, and the program goes on.
func TestJournalCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	var sizes []int
	size := func() int {
		data, err := os.ReadFile(journalFiles(t, dir)[0])
		if err != nil {
			t.Fatal(err)
		}
		return len(data)
	}
	for i := range 3 {
		r.want(t, 200, "PUT", fmt.Sprintf("/metrics/job/j%d", i), "x 1\n")
		sizes = append(sizes, size())
	}
	r.close()
	data, err := os.ReadFile(journalFiles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	for cut := range data {
		if cut%5 != 0 && !slices.Contains(sizes, cut) {
			continue
		}
		dir := t.TempDir()
		name := filepath.Join(dir, "00000001"+journalSuffix)
		if err := os.WriteFile(name, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		r := quiet(t, dir)
		want := 0
		for _, s := range sizes {
			if cut >= s {
				want++
			}
		}
		if got := r.Stats().Groups; got != want {
			t.Fatalf("cut at %d of %v there are %d groups, want %d", cut, sizes, got, want)
		}
		torn := 1.0
		if cut == 0 || slices.Contains(sizes, cut) {
			torn = 0
		}
		if got := testutil.ToFloat64(r.journal.metrics.torn); got != torn {
			t.Fatalf("cut at %d %v files are torn", cut, got)
		}
		if got := testutil.ToFloat64(r.journal.metrics.damaged); got != 0 {
			t.Fatalf("cut at %d %v files are damaged", cut, got)
		}
		r.close()
	}
}

// TestJournalDamagedAnywhere changes many a byte of the first of three records: the others are there, also after the next
// start, and the file is kept under another name.
func TestJournalDamagedAnywhere(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/j0", "x 1\n")
	name := journalFiles(t, dir)[0]
	first, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, 200, "PUT", "/metrics/job/j1", "x 1\n")
	r.want(t, 200, "PUT", "/metrics/job/j2", "x 1\n")
	r.close()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(first); i += 7 {
		dir := t.TempDir()
		name := filepath.Join(dir, "00000001"+journalSuffix)
		bad := slices.Clone(data)
		bad[i] ^= 0x41
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r := quiet(t, dir)
		if got := r.Stats().Groups; got != 2 {
			t.Fatalf("with byte %d changed there are %d groups", i, got)
		}
		if got := testutil.ToFloat64(r.journal.metrics.damaged); got != 1 {
			t.Fatalf("with byte %d changed %v files are damaged", i, got)
		}
		r.close()
		if _, err := os.Stat(name + damagedSuffix); err != nil {
			t.Fatal(err)
		}
		r = quiet(t, dir)
		if got := r.Stats().Groups; got != 2 {
			t.Fatalf("with byte %d changed there are %d groups at the second start", i, got)
		}
		if got := testutil.ToFloat64(r.journal.metrics.damaged); got != 0 {
			t.Fatalf("with byte %d changed %v files are damaged at the second start", i, got)
		}
		r.close()
	}
}

// TestRewriteWhilePushing rewrites the journal again and again while groups change: after each change that was answered a
// copy of the directory has it.
func TestRewriteWhilePushing(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	stop := make(chan struct{})
	var rewriting sync.WaitGroup
	rewriting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := r.journal.rewrite(r.records); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var pushing sync.WaitGroup
	for p := range 4 {
		pushing.Go(func() {
			path := fmt.Sprintf("/metrics/job/p%d", p)
			for i := range 30 {
				if i%3 == 2 {
					r.want(t, 202, "DELETE", path, "")
				} else {
					r.want(t, 200, "PUT", path, fmt.Sprintf("x %d\n", i))
				}
			}
			r.want(t, 200, "PUT", path, "x 1000\n")
			r.want(t, 200, "PUT", path+"/gone/1", "y 1\n")
			r.want(t, 202, "DELETE", path+"/gone/1", "")
		})
	}
	pushing.Wait()
	close(stop)
	rewriting.Wait()
	want := r.metricsOf(t)
	r.close()
	if n := len(journalFiles(t, dir)); n > 2 {
		t.Errorf("there are %d files", n)
	}
	r = newRig(t, dir, nil)
	if got := r.metricsOf(t); got != want {
		t.Errorf("after a restart there is\n%s\nwant\n%s", got, want)
	}
}

// TestRewriteInterrupted starts from what a crash leaves of a rewrite.
func TestRewriteInterrupted(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/kept", "x 1\n")
	r.want(t, 200, "PUT", "/metrics/job/gone", "x 1\n")
	old := journalFiles(t, dir)[0]
	data, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, 202, "DELETE", "/metrics/job/gone", "")
	if err := r.journal.rewrite(r.records); err != nil {
		t.Fatal(err)
	}
	r.close()
	// The old file, without the deletion in it, was not removed yet, and another rewrite had begun.
	if err := os.WriteFile(old, data, 0o600); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(dir, "00000009"+journalSuffix+newSuffix)
	if err := os.WriteFile(unfinished, appendReset(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, dir, nil)
	if got := shown(r.metricsOf(t)); len(got) != 2 || !strings.Contains(got[1], "kept") {
		t.Errorf("there is %v", got)
	}
	if _, err := os.Stat(unfinished); !os.IsNotExist(err) {
		t.Errorf("what was not finished is still there: %v", err)
	}
}

// TestJournalGrowsWithWhatThereIs pushes one group until the journal has to be written anew, which Run does.
func TestJournalGrowsWithWhatThereIs(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	defer r.run(t)()
	big := "x{l=\"" + strings.Repeat("y", 600<<10) + "\"} 1\n"
	r.until(t, "a rewrite", func() bool {
		r.want(t, 200, "PUT", "/metrics/job/a", big)
		return testutil.ToFloat64(r.journal.metrics.rewrites) >= 2
	})
	if got := testutil.ToFloat64(r.journal.metrics.bytes); got > 5<<20 {
		t.Errorf("the journal has %v bytes", got)
	}
}

// TestJournalWriteFails: a push that cannot be written is not taken, and later ones are.
func TestJournalWriteFails(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n")
	r.journal.writing.Lock()
	r.journal.file.Close()
	r.journal.writing.Unlock()
	r.want(t, 503, "PUT", "/metrics/job/b", "only_b 1\n")
	if r.Stats().Groups != 1 {
		t.Error("what was not written is there")
	}
	for range 5 {
		r.journal.writing.Lock()
		if err := r.journal.begin(r.journal.number + 1); err != nil {
			t.Fatal(err)
		}
		r.journal.file.Close()
		r.journal.writing.Unlock()
		r.want(t, 503, "PUT", "/metrics/job/b", "only_b 1\n")
	}
	for _, name := range journalFiles(t, dir) { // what could not be written left no file behind
		if info, err := os.Stat(name); err != nil || info.Size() == 0 {
			t.Errorf("%s is empty, %v", name, err)
		}
	}
	r.want(t, 200, "PUT", "/metrics/job/c", "# TYPE only_b gauge\nonly_b 1\n") // its type was not remembered
	r.close()
	r = newRig(t, dir, nil)
	if r.Stats().Groups != 2 {
		t.Errorf("there are %d groups after a restart", r.Stats().Groups)
	}
}

func FuzzRecord(f *testing.F) {
	by := grouping{{Name: "job", Value: "j"}}
	s, err := by.pushed(nil, &push{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(appendRecord(nil, "site", by, s))
	f.Add(appendRecord(nil, "site", by, nil))
	f.Add(appendReset(nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := decodeRecord(content)
		if err != nil {
			return
		}
		if r.state != nil {
			next, err := r.grouping.restored(r.state)
			if err == nil && len(next.families) > len(r.state.families) {
				t.Error("there are more families than before")
			}
		}
		if r.kind == recordReset {
			return
		}
		again := appendRecord(nil, r.site, r.grouping, r.state)
		second, n, err := nextRecord(again)
		if err != nil || n != len(again) || second.site != r.site || !slices.Equal(second.grouping, r.grouping) {
			t.Errorf("a record is read as %+v and then as %+v, %v", r, second, err)
		}
	})
}
