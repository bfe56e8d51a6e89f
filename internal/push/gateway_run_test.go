package push

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// times returns when each source had rows, in order of the rows, and forgets them.
func (r *rig) times() map[string][]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string][]int64{}
	for i := range r.rows {
		all[r.rows[i].Source.Key] = append(all[r.rows[i].Source.Key], r.rows[i].T)
	}
	r.rows = nil
	return all
}

// apart fails unless times are an interval apart, in ms.
func apart(t *testing.T, of string, times []int64, interval time.Duration, n int) {
	t.Helper()
	if len(times) != n {
		t.Fatalf("%s has %d rows, want %d", of, len(times), n)
	}
	for i := 1; i < n; i++ {
		if times[i]-times[i-1] != interval.Milliseconds() {
			t.Fatalf("%s has rows at %v", of, times)
		}
	}
}

func TestGroupsAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 15 * time.Second
		r := newBareRig(t, t.TempDir(), func(o *Options) { o.Settings.Interval = interval })
		defer r.run(t)()
		r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n")
		r.want(t, 200, "PUT", "/metrics/job/b", "x 1\n")
		r.times()
		time.Sleep(10 * interval)
		rows := r.times()
		apart(t, "a", rows["push/job/a"], interval, 10)
		if !slices.Equal(rows["push/job/a"], rows["push/job/b"]) {
			t.Errorf("few groups are not sampled together: %v", rows)
		}
		r.want(t, 202, "DELETE", "/metrics/job/a", "")
		r.Reload(Settings{Interval: 2 * interval})
		r.times()
		time.Sleep(10 * interval)
		rows = r.times()
		if rows["push/job/a"] != nil {
			t.Errorf("a deleted group has rows at %v", rows["push/job/a"])
		}
		apart(t, "b", rows["push/job/b"], 2*interval, 5)
	})
}

// TestManyGroupsAreSpread: each is sampled once in an interval, at the same time of each, and never many at a time.
func TestManyGroupsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, groups = 15 * time.Second, 3000
		r := newBareRig(t, t.TempDir(), func(o *Options) { o.Settings.Interval = interval })
		site := r.site("ams-1")
		for i := range groups {
			by := grouping{{Name: "job", Value: fmt.Sprint(i)}}
			s, err := by.pushed(nil, &push{at: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			g := site.acquire(by)
			if err := site.replace(g, s, 0); err != nil {
				t.Fatal(err)
			}
			g.release()
		}
		defer r.run(t)()
		time.Sleep(interval)
		r.times()
		time.Sleep(4 * interval)
		rows := r.times()
		if len(rows) != groups {
			t.Fatalf("%d groups have rows", len(rows))
		}
		at := map[int64]int{}
		for key, times := range rows {
			apart(t, key, times, interval, 4)
			at[times[0]]++
		}
		for ms, n := range at {
			if n > 2*burst {
				t.Errorf("%d rows are at %d", n, ms)
			}
		}
		if late := testutil.ToFloat64(r.metrics.late); late != 0 {
			t.Errorf("%v samples are late", late)
		}
	})
}

// TestPushWhileSampling: rows of a source come in order whoever makes them.
func TestPushWhileSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBareRig(t, t.TempDir(), func(o *Options) { o.Settings.Interval = time.Second })
		defer r.run(t)()
		for i := range 200 {
			r.want(t, 200, "PUT", "/metrics/job/a", fmt.Sprintf("x %d\n", i))
			time.Sleep(time.Duration(i) * time.Millisecond)
		}
		times := r.times()["push/job/a"]
		if !slices.IsSorted(times) || len(slices.Compact(slices.Clone(times))) != len(times) {
			t.Errorf("rows are at %v", times)
		}
	})
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		settings := Settings{Interval: 15 * time.Second, TTL: time.Minute}
		r := newBareRig(t, dir, func(o *Options) { o.Settings = settings })
		stop := r.run(t)
		ends := func(d time.Duration, want ...string) {
			t.Helper()
			r.taken()
			time.Sleep(d)
			synctest.Wait()
			var got []string
			for _, line := range r.taken() {
				if source, end := strings.CutSuffix(line, ": end"); end {
					got = append(got, strings.TrimPrefix(source, "push/job/"))
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("within %s ended %v, want %v", d, got, want)
			}
		}
		r.want(t, 400, "PUT", "/metrics/job/bad", "x 1\n", ttlHeader, "10")
		r.want(t, 400, "PUT", "/metrics/job/bad", "x 1\n", ttlHeader, "-1s")
		r.want(t, 200, "PUT", "/metrics/job/all", "x 1\n")
		r.want(t, 200, "PUT", "/metrics/job/short", "x 1\n", ttlHeader, "10s")
		r.want(t, 200, "PUT", "/metrics/job/long", "x 1\n", ttlHeader, "10m")
		r.want(t, 200, "PUT", "/metrics/job/never", "x 1\n", ttlHeader, "0")
		r.want(t, 200, "PUT", "/metrics/job/again", "x 1\n", ttlHeader, "10s")
		r.want(t, 200, "POST", "/metrics/job/again", "y 1\n") // the header holds for one push
		ends(9 * time.Second)
		ends(2*time.Second, "short")
		ends(30 * time.Second)
		r.want(t, 400, "POST", "/metrics/job/all", "x 1 1\n") // a failure is no push
		ends(20*time.Second, "again", "all")
		if got := shown(r.metricsOf(t)); len(got) != 3 {
			t.Errorf("there is %v", got)
		}
		// The default is that of the configuration in force.
		r.want(t, 200, "PUT", "/metrics/job/all", "x 1\n")
		r.Reload(Settings{Interval: 15 * time.Second})
		ends(5 * time.Minute)
		r.Reload(settings)
		ends(time.Millisecond, "all")

		// What expired while nobody was there ends at the start.
		stop()
		r.close()
		time.Sleep(time.Hour)
		r = newBareRig(t, dir, func(o *Options) { o.Settings = settings })
		stop = r.run(t)
		ends(time.Millisecond, "long")
		ends(24 * time.Hour)
		stop()
		r.close()
		r = newBareRig(t, dir, func(o *Options) { o.Settings = settings })
		if got := shown(r.metricsOf(t)); len(got) != 2 || !strings.Contains(got[1], "never") {
			t.Errorf("after a restart there is %v", got)
		}
	})
}

// TestGroupsWithoutAnOwner: groups of a site for which nobody may push any more end, after a restart too.
func TestGroupsWithoutAnOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var kept sync.Map
		kept.Store("a", true)
		open := func() *rig {
			return newBareRig(t, dir, func(o *Options) {
				o.Site, o.SiteName = func(r *http.Request) string { return r.Header.Get("Site") }, ""
				o.Settings.Keeps = func(site string) bool {
					_, yes := kept.Load(site)
					return yes
				}
			})
		}
		r := open()
		kept.Store("b", true)
		stop := r.run(t)
		r.want(t, 200, "PUT", "/metrics/job/x", "x 1\n", "Site", "a")
		r.want(t, 200, "PUT", "/metrics/job/x", "x 1\n", "Site", "b")
		r.want(t, 200, "PUT", "/metrics/job/y", "x 1\n", ttlHeader, "1h", "Site", "b")
		r.taken()
		kept.Delete("b")
		r.setFail(errors.New("no link"))
		r.Reload(*r.settings.Load())
		time.Sleep(2500 * time.Millisecond)
		if n := r.Stats().Groups; n != 3 {
			t.Errorf("%d groups, although no end was taken", n)
		}
		r.setFail(nil)
		time.Sleep(3 * time.Second)
		if got := r.taken(); r.Stats().Groups != 1 || len(got) != 2 || !strings.HasSuffix(got[0], ": end") || !strings.HasSuffix(got[1], ": end") {
			t.Errorf("%d groups are left; %v", r.Stats().Groups, got)
		}
		stop()
		r.close()
		kept.Delete("a")
		r = open()
		stop = r.run(t)
		time.Sleep(time.Second)
		stop()
		if n := r.Stats().Groups; n != 0 {
			t.Errorf("%d groups after a restart", n)
		}
	})
}

// TestExpiryWaitsForItsRow: a group whose end is not taken is still there, and ends later, once.
func TestExpiryWaitsForItsRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBareRig(t, t.TempDir(), func(o *Options) { o.Settings.TTL = time.Second })
		defer r.run(t)()
		r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n")
		r.setFail(errors.New("the disk is full"))
		time.Sleep(5500 * time.Millisecond) // between two attempts
		synctest.Wait()
		if r.Stats().Groups != 1 {
			t.Error("the group is gone, and nobody was told")
		}
		r.taken()
		r.setFail(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := r.taken(); !slices.Equal(got, []string{"push/job/a: end"}) {
			t.Errorf("rows are %v", got)
		}
		if r.Stats().Groups != 0 {
			t.Error("the group is still there")
		}
	})
}

// TestRowsThatAreNotTaken: what a push wanted is not there if its row is not taken, and the answer says whose fault it is.
func TestRowsThatAreNotTaken(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n")
	want := r.metricsOf(t)
	for _, c := range []struct {
		err   error
		code  int
		again string
	}{
		{&Refusal{Status: 403, Err: errors.New("not admitted")}, 403, ""},
		{&Refusal{Status: 409, RetryAfter: time.Minute, Err: errors.New("an edge writes as this site")}, 409, "60"},
		{&Refusal{Status: 413, Err: errors.New("larger than a message")}, 413, ""},
		{errors.New("no server"), 503, "1"},
	} {
		r.setFail(c.err)
		for _, q := range []request{
			{method: "PUT", path: "/metrics/job/a", body: "y 1\n"},
			{method: "POST", path: "/metrics/job/b", body: "y 1\n"},
		} {
			code, answer, header := q.do(t, r.address())
			if code != c.code || header.Get("Retry-After") != c.again || strings.Contains(answer, "server") {
				t.Errorf("%v is answered with %d, again in %q: %s", c.err, code, header.Get("Retry-After"), answer)
			}
		}
		if got := r.metricsOf(t); got != want {
			t.Errorf("after %v there is\n%s\nwant\n%s", c.err, got, want)
		}
	}
	// A deletion is not held up by one who takes nothing at all, but by one who cannot now.
	r.want(t, 503, "DELETE", "/metrics/job/a", "")
	r.close()
	r = newRig(t, dir, nil)
	if got := r.metricsOf(t); got != want {
		t.Errorf("after a restart there is\n%s\nwant\n%s", got, want)
	}
	r.setFail(&Refusal{Status: 403, Err: errors.New("not admitted")})
	r.want(t, 202, "DELETE", "/metrics/job/a", "")
	if got := r.metricsOf(t); got != "" {
		t.Errorf("after the deletion there is\n%s", got)
	}
}

// TestWaitingChanges: there are not too many, and what nobody waits for any more is not done.
func TestWaitingChanges(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	changes := r.site("ams-1").changes
	for range maxChanges {
		changes <- struct{}{}
	}
	r.want(t, 503, "PUT", "/metrics/job/a", "x 1\n")
	r.want(t, 503, "DELETE", "/metrics/job/a", "")
	for range maxChanges {
		<-changes
	}
	r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n")
	r.taken()

	busy := r.site("ams-1").acquire(grouping{{Name: "job", Value: "a"}})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		w := httptest.NewRecorder()
		r.mux.ServeHTTP(w, httptest.NewRequest("PUT", "/metrics/job/a", strings.NewReader("x 2\n")).WithContext(ctx))
		done <- w.Code
	}()
	r.until(t, "the request", func() bool { return len(changes) == 1 })
	leave()
	busy.release()
	if code := <-done; code != 503 {
		t.Errorf("the answer to nobody is %d", code)
	}
	if got := r.taken(); got != nil {
		t.Errorf("rows are %v", got)
	}
}

// TestSlowBodies: a site whose clients send nothing holds up no other one, and who goes away no longer waits.
func TestSlowBodies(t *testing.T) {
	r := newRig(t, t.TempDir(), func(o *Options) {
		o.Site, o.SiteName = func(r *http.Request) string { return r.Header.Get("Site") }, ""
	})
	for range maxReading {
		r.site("slow").reading <- struct{}{}
	}
	r.want(t, 200, "PUT", "/metrics/job/a", "x 1\n", "Site", "other")
	ctx, leave := context.WithCancel(t.Context())
	leave()
	request := httptest.NewRequest("PUT", "/metrics/job/a", strings.NewReader("x 2\n")).WithContext(ctx)
	request.Header.Set("Site", "slow")
	w := httptest.NewRecorder()
	r.mux.ServeHTTP(w, request)
	if w.Code != 503 {
		t.Errorf("the answer to nobody is %d", w.Code)
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, t.TempDir(), func(o *Options) { o.Limits = Limits{Groups: 3, Series: 12, Bytes: 2000, Body: 1000} })
	r.want(t, 413, "PUT", "/metrics/job/a", "#"+strings.Repeat(" ", 1000)+"\n")
	r.want(t, 413, "PUT", "/metrics/job/a", compressed("gzip", strings.Repeat("#\n", 501)), "Content-Encoding", "gzip")
	r.want(t, 200, "PUT", "/metrics/job/a", strings.Repeat("#\n", 500))
	r.want(t, 429, "PUT", "/metrics/job/a", "x{a=\"1\"} 1\nx{a=\"2\"} 1\nx{a=\"3\"} 1\nx{a=\"4\"} 1\nx{a=\"5\"} 1\nx{a=\"6\"} 1\nx{a=\"7\"} 1\nx{a=\"8\"} 1\nx{a=\"9\"} 1\nx{a=\"10\"} 1\nx{a=\"11\"} 1\n")
	r.want(t, 200, "PUT", "/metrics/job/b", "x 1\n")
	r.want(t, 200, "PUT", "/metrics/job/c", "x 1\n")
	r.want(t, 429, "PUT", "/metrics/job/d", "x 1\n")
	r.want(t, 429, "POST", "/metrics/job/a", "# HELP x "+strings.Repeat("h", 900)+"\nx{a=\""+strings.Repeat("a", 50)+"\"} 1\n")
	r.want(t, 202, "DELETE", "/metrics/job/b", "")
	r.want(t, 200, "PUT", "/metrics/job/d", "x 1\n")
	if s := r.Stats(); s.Groups != 3 || s.Series != 8 || s.Bytes <= 0 {
		t.Errorf("there is %+v", s)
	}
	for _, path := range []string{"a", "c", "d"} {
		r.want(t, 202, "DELETE", "/metrics/job/"+path, "")
	}
	if s := r.Stats(); s != (Stats{}) {
		t.Errorf("there is %+v left", s)
	}
	site := r.site("ams-1")
	if len(site.groups)+len(site.index.families)+len(site.index.metrics)+len(site.deadlines) != 0 {
		t.Errorf("something is left of deleted groups: %+v", site)
	}
}

// TestWipe: many groups are deleted together, and those that somebody is changing, too.
func TestWipe(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, func(o *Options) { o.Settings.Admin = true })
	r.want(t, 405, "POST", "/api/v1/admin/wipe", "")
	site := r.site("ams-1")
	for i := range 2*burst + 5 {
		by := grouping{{Name: "job", Value: fmt.Sprint(i)}}
		s, err := by.pushed(nil, &push{at: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		g := site.acquire(by)
		site.put(g, s, 0)
		g.release()
	}
	busy := site.acquire(grouping{{Name: "job", Value: "3"}})
	release := sync.OnceFunc(busy.release)
	t.Cleanup(release)
	wiped := make(chan struct{})
	go func() {
		defer close(wiped)
		r.want(t, 202, "PUT", "/api/v1/admin/wipe", "")
	}()
	r.until(t, "the end of others", func() bool { return r.Stats().Groups < 2*burst })
	release()
	<-wiped
	if s := r.Stats(); s != (Stats{}) {
		t.Errorf("there is %+v", s)
	}
	if got := len(r.times()); got != 2*burst+5 {
		t.Errorf("%d groups ended", got)
	}
	r.close()
	if r = newRig(t, dir, nil); r.Stats().Groups != 0 {
		t.Errorf("after a restart there are %d groups", r.Stats().Groups)
	}
}

// TestSites: who asks sees, changes and contradicts the groups of its own site only.
func TestSites(t *testing.T) {
	dir := t.TempDir()
	bySite := func(o *Options) {
		o.Site = func(r *http.Request) string { return r.Header.Get("Site") }
		o.Settings.Admin = true
	}
	r := newRig(t, dir, bySite)
	r.want(t, 200, "PUT", "/metrics/job/a", "# TYPE x gauge\nx 1\n", "Site", "one")
	r.want(t, 200, "PUT", "/metrics/job/a", "# TYPE x counter\nx 2\n", "Site", "two")
	f := func(site, want string) {
		t.Helper()
		if got := shown(r.want(t, 200, "GET", "/metrics", "", "Site", site)); !slices.Equal(got, strings.Split(want, "|")) {
			t.Errorf("%s sees %v", site, got)
		}
	}
	for range 2 {
		f("one", `# TYPE x gauge|x{instance="",job="a"} 1`)
		f("two", `# TYPE x counter|x{instance="",job="a"} 2`)
		r.close()
		r = newRig(t, dir, bySite)
	}
	r.want(t, 202, "PUT", "/api/v1/admin/wipe", "", "Site", "two")
	f("one", `# TYPE x gauge|x{instance="",job="a"} 1`)
	if got := r.want(t, 200, "GET", "/metrics", "", "Site", "two"); got != "" {
		t.Errorf("after the wipe there is %s", got)
	}
	if got := r.taken(); !slices.Equal(got, []string{"push/job/a: end"}) {
		t.Errorf("rows are %v", got)
	}
	// An edge has one site, also after its name changed.
	dir = t.TempDir()
	r = newRig(t, dir, nil)
	r.want(t, 200, "PUT", "/metrics/job/a", "# TYPE x gauge\nx 1\n")
	r.close()
	r = newRig(t, dir, func(o *Options) { o.SiteName = "renamed" })
	f("", `# TYPE x gauge|x{instance="",job="a"} 1`)
}
