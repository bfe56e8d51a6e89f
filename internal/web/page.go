package web

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/thalweg/thalweg/internal/telemetry"
)

//go:embed page.html
var pageHTML string

// maxShown bounds the rows of each table of the page; the JSON API has them all.
const maxShown = 500

// pageData is what page.html shows.
type pageData struct {
	Process     Process
	Now         time.Time
	Ready       bool
	Conditions  []telemetry.ConditionStatus
	Hub         bool // there are sites to show, if none yet
	Sites       []Site
	MoreSites   int
	Account     *Account // nil if there is nothing to say yet
	Gaps        []Gap
	MoreGaps    int
	Outputs     []Output
	Edge        bool
	Pushed      []Pushed
	Outbox      *Outbox // nil where there is none
	Lanes       []Lane  // of the edge
	Targets     []Target
	MoreTargets int
	Federate    bool
	Pages       []string // of metrics that are not those of this process
}

// page returns the handler of the status page.
func page(o *Options) http.Handler {
	t := template.Must(template.New("page").Funcs(template.FuncMap{"ago": ago, "clock": clock, "lasts": lasts, "size": size}).Parse(pageHTML))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := o.status(r)
		d := pageData{
			Now:        time.Now(),
			Ready:      o.Health.Ready(),
			Conditions: o.Health.Conditions(),
			Hub:        status.Sites != nil,
			Edge:       status.Targets != nil,
			Federate:   o.Handlers["/federate"] != nil,
			Pages: slices.DeleteFunc([]string{"/gateway/metrics", "/nats/metrics"}, func(path string) bool {
				return o.Handlers[path] == nil
			}),
		}
		if status.Process != nil {
			d.Process = status.Process()
		}
		d.Sites, d.MoreSites = first(sitesByNeed(call(status.Sites)))
		if status.Account != nil {
			if a := status.Account(); !a.Since.IsZero() {
				d.Account = &a
			}
		}
		d.Gaps, d.MoreGaps = first(call(status.Gaps))
		d.Outputs = call(status.Outputs)
		d.Pushed = call(status.Pushed)
		if status.Outbox != nil {
			outbox := status.Outbox()
			d.Outbox = &outbox
			d.Lanes = slices.DeleteFunc(call(status.Lanes), func(l Lane) bool { return l.Role != "edge" })
		}
		d.Targets, d.MoreTargets = first(targetsByNeed(call(status.Targets)))
		var b bytes.Buffer
		if err := t.Execute(&b, d); err != nil {
			o.Logger.Error("status page not rendered", "err", err)
			http.Error(w, "status page not rendered", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		_, _ = b.WriteTo(w) // an error means that the client is gone
	})
}

func first[T any](list []T) (shown []T, more int) {
	n := min(len(list), maxShown)
	return list[:n], len(list) - n
}

// sitesByNeed puts first what somebody should look at: sites in trouble, then those with gaps, then the rest by name.
func sitesByNeed(sites []Site) []Site {
	rank := func(s Site) int {
		switch {
		case s.State != SiteLive:
			return 0
		case s.Gaps > 0:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(sites, func(a, b Site) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
	})
	return sites
}

// targetsByNeed puts those that fail first.
func targetsByNeed(targets []Target) []Target {
	slices.SortStableFunc(targets, func(a, b Target) int {
		switch failsA, failsB := a.Health == "down", b.Health == "down"; {
		case failsA && !failsB:
			return -1
		case failsB && !failsA:
			return 1
		}
		return 0
	})
	return targets
}

// ago writes how long before now something was, in one unit.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < -time.Second:
		return "in the future"
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// lasts writes how long something goes on, in one unit.
func lasts(d time.Duration) string {
	switch {
	case d < 0:
		return ""
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	}
	return fmt.Sprintf("%d h", int(d.Hours()))
}

// size writes a number of bytes in the greatest unit that fits.
func size(bytes int64) string {
	x, unit := float64(bytes), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for ; x >= 1024 && unit < len(units)-1; unit++ {
		x /= 1024
	}
	return fmt.Sprintf("%.3g %s", x, units[unit])
}

// clock writes a time for people who compare it with their logs.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
