package web

import (
	"encoding/json"
	"fmt"
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
	Account func() Account // of all gaps
	Outputs func() []Output
	// OutputGaps lists the gaps of an output; ok tells whether there is one of that name.
	OutputGaps func(name string) (gaps []Gap, ok bool)
	Sources    func(site string) []Source // of one site, of all if it is ""
	Targets    func() []Target
	Outbox     func() Outbox
	Pushed     func() []Pushed
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

// SiteLive is the state of a site that nobody need look at.
const SiteLive = "live"

// Site is what a hub knows of a site.
type Site struct {
	Name        string    `json:"name"`
	State       string    `json:"state"` // live, waiting (for a keyframe), silent or missing
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
	MissingRows uint64    `json:"missingRows"` // in all of them, lost ones included
	// RefusedSeries are there and refused by a limit at the moment, and Refused what was refused since this process
	// started, by reason, with the worst offenders in words.
	RefusedSeries int               `json:"refusedSeries,omitempty"`
	Refused       map[string]uint64 `json:"refused,omitempty"`
	Offenders     []string          `json:"offenders,omitempty"`
}

// BytesPerSample is the cost on the wire, "" before the first sample.
func (s Site) BytesPerSample() string {
	if s.Samples == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(s.Bytes)/float64(s.Samples), 'f', 2, 64)
}

// ClockNote says that the clock of the site is off; "" if it is not worth a word.
func (s Site) ClockNote() string {
	switch off := time.Duration(s.SkewSeconds * float64(time.Second)).Round(time.Second); {
	case off >= maxSkew:
		return fmt.Sprintf("clock %s ahead", off)
	case off <= -maxSkew:
		return fmt.Sprintf("clock %s behind", -off)
	}
	return ""
}

// maxSkew is how far a clock may be off without a word on the page.
const maxSkew = 5 * time.Second

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
	// LastKeyframe is when the last one was decoded; zero: none yet, or an edge.
	LastKeyframe time.Time `json:"lastKeyframe,omitzero"`
	// Backlog are rows that are known to exist and have not got through: at an edge those that the server is not known
	// to have stored, at a hub those that have not arrived. Both stand at the backfill lane.
	Backlog uint64 `json:"backlogRows"`
	// SkewSeconds is how far the clock of the site is ahead of the hub's, as either end measured it; nil: not known.
	SkewSeconds *float64 `json:"skewSeconds,omitempty"`
	// LastError is the last thing that was wrong, and LastErrorAt when; zero: it still is.
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
}

// Gap is a range of rows that a hub does not have.
type Gap struct {
	Site   string `json:"site"`
	Output string `json:"output,omitempty"` // "": the hub itself
	Epoch  string `json:"epoch"`
	// The frames that the rows are in, both included, and when they were sent, by the clock of the site.
	FirstFrame uint64    `json:"firstFrame"`
	LastFrame  uint64    `json:"lastFrame"`
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Rows       uint64    `json:"rows"`
	Cause      string    `json:"cause"`
	Fillable   bool      `json:"fillable"` // the rows may still come
}

// Account is what a hub says of all its sites together: which rows exist and are not here.
type Account struct {
	// Since is from when on every row that the server stored is accounted for; zero before anything was read.
	Since time.Time `json:"since,omitzero"`
	// Complete: nothing since then is left to be read. Until it is, gaps may close without anything arriving.
	Complete bool `json:"complete"`
	// MissingRows by cause; those of not_arrived may still come.
	MissingRows map[string]uint64 `json:"missingRows"`
}

// Lost counts the rows that will not come.
func (a Account) Lost() (n uint64) {
	for cause, rows := range a.MissingRows {
		if cause != NotArrived {
			n += rows
		}
	}
	return n
}

// Awaited counts the rows that may still come.
func (a Account) Awaited() uint64 { return a.MissingRows[NotArrived] }

// NotArrived is the cause of gaps that can still be filled.
const NotArrived = "not_arrived"

// Output is a destination that gets every row of all sites.
type Output struct {
	Name  string   `json:"name"`
	Kind  string   `json:"kind"`          // such as remote write 1.0
	URL   string   `json:"url,omitempty"` // of the destination, without credentials
	State string   `json:"state"`         // in a few words
	Notes []string `json:"notes,omitempty"`
	// Holder: this hub delivers it, of all with the same parts. HeldBy names the one that does, "" if it is not known.
	Holder bool   `json:"holder"`
	HeldBy string `json:"heldBy,omitempty"`
	Live   Feed   `json:"live"`
	// Backfill is what comes after an outage.
	Backfill Feed `json:"backfill"`
	// Gaps that it has, and the rows in them; 0 where another hub delivers it.
	Gaps        int    `json:"gaps"`
	MissingRows uint64 `json:"missingRows"`
	// Problem is what is wrong at the moment. LastError ended it last, at LastErrorAt, and Errors counts how often.
	Problem     string    `json:"problem,omitempty"`
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	Errors      uint64    `json:"errors"`
}

// Feed is one of the two feeds of an output. Counts are since this process started.
type Feed struct {
	LagSeconds  float64   `json:"lagSeconds"`      // age of the oldest message that is not delivered; 0 if all are
	Behind      uint64    `json:"behindMessages"`  // that are still to be read
	WaitingRows int       `json:"waitingRows"`     // that were read and are not delivered
	Newest      time.Time `json:"newest,omitzero"` // when the server stored the newest frame that was delivered
	Rows        uint64    `json:"rows"`
	Samples     uint64    `json:"samples"`
	Refused     uint64    `json:"refusedSamples"` // that the destination will never take
}

// Lag as time.
func (f Feed) Lag() time.Duration { return time.Duration(f.LagSeconds * float64(time.Second)) }

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

// Outbox is the log of an edge. Only the page shows it.
type Outbox struct {
	Rows  uint64    // that the server is not known to have
	Since time.Time // when the oldest of them was sent; zero: there are none
	// Bytes that they take of Limit.
	Bytes, Limit int64
	Left         time.Duration // until the oldest ones are dropped if the server gets none; negative: not known yet
	Dropped      uint64        // rows that the server did not have, since the process started
}

// Pushed is what one role holds of groups that clients pushed, of all sites.
type Pushed struct {
	Role    string `json:"role"`
	Groups  int    `json:"groups"`
	Metrics int    `json:"metrics"`
	Bytes   int    `json:"bytes"`
}

// api adds the JSON API. Answers have the form of Prometheus' own API: {"status": "success", "data": [...]}; that of gaps
// has the account beside the list.
func api(o *Options, handle func(pattern, name string, h http.Handler)) {
	serve := func(name string, answer func(*http.Request) answer) {
		path := "/api/v1/thalweg/" + name
		handle("GET "+path, path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			a := answer(r)
			if a.Error != "" {
				w.WriteHeader(http.StatusNotFound)
			}
			_ = json.NewEncoder(w).Encode(a) // an error means that the client is gone
		}))
	}
	add := func(name string, list func(*http.Request) any) {
		serve(name, func(r *http.Request) answer { return answer{Status: "success", Data: list(r)} })
	}
	add("sites", func(r *http.Request) any { return call(o.status(r).Sites) })
	add("lanes", func(r *http.Request) any { return call(o.status(r).Lanes) })
	add("pushed", func(r *http.Request) any { return call(o.status(r).Pushed) })
	add("outputs", func(r *http.Request) any { return call(o.status(r).Outputs) })
	serve("gaps", func(r *http.Request) answer {
		status := o.status(r)
		if name := r.URL.Query().Get("output"); name != "" {
			return gapsOf(&status, name)
		}
		a := answer{Status: "success", Data: call(status.Gaps)}
		if status.Account != nil {
			account := status.Account()
			a.Account = &account
		}
		return a
	})
	add("sources", func(r *http.Request) any {
		sources := o.status(r).Sources
		if sources == nil {
			return []Source{}
		}
		return call(func() []Source { return sources(r.URL.Query().Get("site")) })
	})
}

// gapsOf lists the gaps of an output.
func gapsOf(s *Status, output string) answer {
	if s.OutputGaps != nil {
		if gaps, ok := s.OutputGaps(output); ok {
			return answer{Status: "success", Data: call(func() []Gap { return gaps })}
		}
	}
	return answer{Status: "error", Error: fmt.Sprintf("there is no output %q", output)}
}

type answer struct {
	Status  string   `json:"status"`
	Data    any      `json:"data,omitempty"`
	Account *Account `json:"account,omitempty"`
	Error   string   `json:"error,omitempty"` // then Status is error, and what was asked for is not there
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
