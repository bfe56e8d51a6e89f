package web

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Status are the functions behind the page and the JSON API. Each returns a copy and may be called at any time, by
// several goroutines; one that is nil has nothing to show in this process.
type Status struct {
	Process func() Process
	Sites   func() []Site
	Lanes   func() []Lane
	Gaps    func() []Gap
	Sources func(site string) []Source // of one site, of all if it is ""
	Targets func() []Target
}

// Process is what runs here.
type Process struct {
	Version string    `json:"version"`
	Site    string    `json:"site"`
	Roles   []string  `json:"roles"` // in words, such as "edge of nats://hub:4222"
	Started time.Time `json:"started"`
	// Notes are what somebody who looks at this process should know, such as keys that need a restart.
	Notes []string `json:"notes,omitempty"`
}

// SiteState says in one word whether somebody should look at a site.
type SiteState string

const (
	SiteLive    SiteState = "live"
	SiteWaiting SiteState = "waiting" // frames come, but cannot be decoded before the next keyframe
	SiteSilent  SiteState = "silent"  // no row for longer than the lookback
	SiteMissing SiteState = "missing" // expected by the configuration, and never seen
)

// Site is what a hub knows of a site.
type Site struct {
	Name        string    `json:"name"`
	State       SiteState `json:"state"`
	Part        uint32    `json:"part"`
	Expected    bool      `json:"expected"`         // listed in hub.sites, and not as one that may be absent
	Version     string    `json:"version"`          // of the edge; "" if it did not say
	Epoch       string    `json:"epoch"`            // of the newest frame
	LastRow     time.Time `json:"lastRow,omitzero"` // zero: none yet
	SkewSeconds float64   `json:"skewSeconds"`      // how far the edge's clock is ahead of the hub's
	Sources     int       `json:"sources"`
	Series      int       `json:"series"`
	Samples     uint64    `json:"samples"` // since this process started, as Bytes
	Bytes       uint64    `json:"bytes"`   // of all messages
	Gaps        int       `json:"gaps"`
	MissingRows uint64    `json:"missingRows"`
}

// BytesPerSample is the cost on the wire, "" before the first sample.
func (s Site) BytesPerSample() string {
	if s.Samples == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(s.Bytes)/float64(s.Samples), 'f', 2, 64)
}

// Lane is one lane of a site, as the hub reads it or the edge writes it.
type Lane struct {
	Role      string    `json:"role"` // whose view it is: hub or edge
	Site      string    `json:"site"`
	Lane      string    `json:"lane"`  // live or backfill
	Epoch     string    `json:"epoch"` // of the last frame
	Number    uint64    `json:"number"`
	Sequence  uint64    `json:"sequence"` // in the stream
	Rows      uint64    `json:"rows"`     // delivered since this process started
	Bytes     uint64    `json:"bytes"`
	LastFrame time.Time `json:"lastFrame,omitzero"` // zero: none yet
	State     string    `json:"state"`              // in a few words, such as "in order" or "waits for a keyframe"
}

// Gap is a range of rows that a hub does not have.
type Gap struct {
	Site     string    `json:"site"`
	Epoch    string    `json:"epoch"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Rows     uint64    `json:"rows"`
	Cause    string    `json:"cause"`
	Fillable bool      `json:"fillable"` // the rows may still come
}

// Source is one origin of samples.
type Source struct {
	Site            string            `json:"site"`
	Key             string            `json:"key"`
	Labels          map[string]string `json:"labels"`
	Series          int               `json:"series"`
	LastRow         time.Time         `json:"lastRow,omitzero"`
	IntervalSeconds float64           `json:"intervalSeconds"`
}

// Target is one scrape target of an edge. Only the page shows it.
type Target struct {
	Job        string
	URL        string
	Health     string        // up, down or unknown
	LastScrape time.Time     // zero: none yet
	Duration   time.Duration // of the last scrape
	Samples    int
	Error      string // of the last scrape
}

// api adds the JSON API. Answers have the form of Prometheus' own API: {"status": "success", "data": [...]}.
func api(o *Options, handle func(pattern, name string, h http.Handler)) {
	add := func(name string, list func(*http.Request) any) {
		path := "/api/v1/thalweg/" + name
		handle("GET "+path, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(w).Encode(answer{"success", list(r)}) // an error means that the client is gone
		}))
	}
	add("sites", func(r *http.Request) any { return call(o.status(r).Sites) })
	add("lanes", func(r *http.Request) any { return call(o.status(r).Lanes) })
	add("gaps", func(r *http.Request) any { return call(o.status(r).Gaps) })
	add("sources", func(r *http.Request) any {
		sources := o.status(r).Sources
		if sources == nil {
			return []Source{}
		}
		return call(func() []Source { return sources(r.URL.Query().Get("site")) })
	})
}

type answer struct {
	Status string `json:"status"`
	Data   any    `json:"data"`
}

// call returns an empty list, not null, where there is nothing.
func call[T any](list func() []T) []T {
	if list != nil {
		if l := list(); l != nil {
			return l
		}
	}
	return []T{}
}
