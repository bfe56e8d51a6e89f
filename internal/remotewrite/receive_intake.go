package remotewrite

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
	"github.com/thalweg/thalweg/internal/writeproto"
)

const (
	// idleAfter is when a source without samples makes room for others, forgottenAfter when it is forgotten anyway.
	idleAfter      = 5 * time.Minute
	forgottenAfter = 15 * time.Minute
	// maxSpellings bounds in how many ways a series is known to be spelled. What is spelled otherwise is sorted each time.
	maxSpellings = 4
	// maxLabel bounds the name and the value of a label, in bytes, maxLabels the labels of a series.
	maxLabel  = 64 << 10
	maxLabels = 1000
)

// intake is what is known of the series of one site. A series is found by its labels as they stand in a request; it is
// looked at only when they were never spelled like that before.
type intake struct {
	options  *ReceiverOptions
	seed     maphash.Seed
	underWay chan struct{} // has a token for each request that is served
	decoding chan struct{} // has a token for each of them that is decoded, or large and waits for another one

	bytes atomic.Int64 // of their bodies

	mu       sync.Mutex
	byKey    map[uint64]*spelling // how series are spelled in 1.0, and their labels in order
	byRefs   map[uint64]*spelling // how they are spelled in 2.0
	sources  map[origin]*intakeSource
	series   int
	families families
	answered answered
	swept    int64 // when it was last looked for sources that are silent, in ms
	crowded  int64 // when it was last looked for some that make room
	builder  *labels.Builder
}

// spelling is a way to write the labels of a series.
type spelling struct {
	key    string
	hash   uint64
	refs   bool // it is in byRefs
	series *intakeSeries
	next   *spelling // of the same hash
	other  *spelling // of the same series
	then   *spelling // that stood behind it in the last request
	gone   bool      // its series was forgotten
}

// follower returns the spelling that is expected behind another, which may be nil, in a request of the same version.
func (s *spelling) follower(refs bool) *spelling {
	if s == nil || s.then == nil || s.then.gone || s.then.refs != refs {
		return nil
	}
	return s.then
}

// origin is what makes series belong to one source.
type origin struct{ job, instance string }

// intakeSeries is one series of a site.
type intakeSeries struct {
	spelling // its labels in order
	source   *intakeSource
	column   uint32
	kind     series.Kind
	metadata uint64 // hash of what 2.0 last said of it; 0 if nothing
	seen     int64  // when a sample came last, in ms

	// The newest sample, and who brought it: as long as that has not landed, nobody else looks at it.
	flight *flight
	last   int64
	bits   uint64
	stamp  int // where it is in the plan of the flight
}

// flight is a request whose rows are being committed.
type flight struct {
	landed bool          // guarded by intake.mu
	done   chan struct{} // closed when it has landed
}

func (s *intakeSeries) busy() bool { return s.flight != nil && !s.flight.landed }

func newIntake(o *ReceiverOptions, seed maphash.Seed) *intake {
	return &intake{
		options: o, seed: seed, underWay: make(chan struct{}, maxUnderWay), decoding: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		byKey: map[uint64]*spelling{}, byRefs: map[uint64]*spelling{},
		sources: map[origin]*intakeSource{}, families: newFamilies(), builder: labels.NewBuilder(labels.EmptyLabels()),
	}
}

func (in *intake) size() (series, sources int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.series, len(in.sources)
}

func (in *intake) spellings(refs bool) map[uint64]*spelling {
	if refs {
		return in.byRefs
	}
	return in.byKey
}

// find returns how a series of a request is spelled; nil if it never was like that.
func (in *intake) find(b *writeproto.Batch, message writeproto.Message, hash uint64, s *writeproto.Series) *spelling {
	for at := in.spellings(message == writeproto.V2)[hash]; at != nil; at = at.next {
		if b.HasKey(s, at.key) {
			return at
		}
	}
	return nil
}

// findKey returns the series with the labels of a key.
func (in *intake) findKey(hash uint64, key []byte) *intakeSeries {
	for at := in.byKey[hash]; at != nil; at = at.next {
		if at.key == string(key) {
			return at.series
		}
	}
	return nil
}

// enter makes a spelling known.
func (in *intake) enter(s *spelling) {
	all := in.spellings(s.refs)
	s.next = all[s.hash]
	all[s.hash] = s
}

// spell makes another spelling of a series known and returns it, or the first one if there are many.
func (in *intake) spell(m *intakeSeries, hash uint64, refs bool, raw []byte) *spelling {
	n := 1
	for at := m.other; at != nil; at = at.other {
		n++
	}
	if n >= maxSpellings {
		return &m.spelling
	}
	s := &spelling{key: m.key, hash: hash, refs: refs, series: m, other: m.other}
	if m.key != string(raw) {
		s.key = string(raw)
	}
	m.other = s
	in.enter(s)
	return s
}

// add makes a series known. It has no sample yet.
func (in *intake) add(key []byte, hash uint64, full labels.Labels, kind series.Kind, now int64) *intakeSeries {
	m := &intakeSeries{source: in.source(full, now), kind: kind, last: math.MinInt64, seen: now}
	m.spelling = spelling{key: string(key), hash: hash, series: m}
	in.enter(&m.spelling)
	in.series++
	m.source.add(m, series.Column{
		Labels: series.Relative(full, m.source.source.Labels),
		Family: in.families.of(full.Get(model.MetricNameLabel), kind), Kind: kind,
	}, now)
	return m
}

// source returns the source of a series.
func (in *intake) source(full labels.Labels, now int64) *intakeSource {
	from := origin{full.Get(model.JobLabel), full.Get(model.InstanceLabel)}
	s := in.sources[from]
	if s == nil {
		from = origin{strings.Clone(from.job), strings.Clone(from.instance)} // full is larger
		s = &intakeSource{source: from.source(), schema: in.options.Catalog.Empty(), seen: now, tended: now}
		in.sources[from] = s
	}
	return s
}

// source returns the source for series of the origin, until more is known of what they have in common. Its key is the
// same after a restart. Escaped names have no slash, so that keys are as different as origins are.
func (o origin) source() *series.Source {
	key := "write/" + url.PathEscape(o.job) + "/" + url.PathEscape(o.instance)
	if len(key) > 256 {
		hash := xxhash.Sum64String(o.job + "\xff" + o.instance)
		key = fmt.Sprintf("write/%.100s/%.100s/%016x", url.PathEscape(o.job), url.PathEscape(o.instance), hash)
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	b.Set(model.JobLabel, o.job)
	b.Set(model.InstanceLabel, o.instance)
	return &series.Source{Key: key, Labels: b.Labels()}
}

// forget drops a series.
func (in *intake) forget(m *intakeSeries) {
	in.series--
	for s := &m.spelling; s != nil; s = s.other {
		s.then, s.gone = nil, true
		all := in.spellings(s.refs)
		if all[s.hash] == s {
			if s.next == nil {
				delete(all, s.hash)
			} else {
				all[s.hash] = s.next
			}
			continue
		}
		for at := all[s.hash]; at != nil; at = at.next {
			if at.next == s {
				at.next = s.next
				break
			}
		}
	}
}

// makeRoom forgets sources until there is room for another series: those that are idle, the longest first.
func (in *intake) makeRoom(now int64) bool {
	if in.series < in.options.MaxSeries {
		return true
	}
	if now-in.crowded < (10 * time.Second).Milliseconds() { // it would be the same as a moment ago
		return false
	}
	in.crowded = now
	var idle []origin
	for from, s := range in.sources {
		if now-s.seen >= idleAfter.Milliseconds() {
			idle = append(idle, from)
		}
	}
	slices.SortFunc(idle, func(a, b origin) int { return int(in.sources[a].seen - in.sources[b].seen) })
	for _, from := range idle {
		if in.series <= in.options.MaxSeries-in.options.MaxSeries/10 {
			break
		}
		in.drop(from)
	}
	return in.series < in.options.MaxSeries
}

// sweep forgets sources that are silent.
func (in *intake) sweep(now int64) {
	if now-in.swept < time.Minute.Milliseconds() {
		return
	}
	in.swept = now
	for from, s := range in.sources {
		if now-s.seen >= forgottenAfter.Milliseconds() {
			in.drop(from)
		}
	}
}

func (in *intake) drop(from origin) {
	for _, m := range in.sources[from].series {
		in.forget(m)
	}
	delete(in.sources, from)
}

// sortLabels brings labels into order, takes out those that are empty, which are as good as not there, and says what is
// wrong with the rest; "" is nothing.
func sortLabels(list []writeproto.Label) (sorted []writeproto.Label, wrong string) {
	list = slices.DeleteFunc(list, func(l writeproto.Label) bool { return len(l.Value) == 0 && string(l.Name) != model.MetricNameLabel })
	slices.SortFunc(list, func(a, b writeproto.Label) int { return bytes.Compare(a.Name, b.Name) })
	named := false
	for i, l := range list {
		switch {
		case i > 0 && bytes.Equal(l.Name, list[i-1].Name):
			return list, fmt.Sprintf("label %.100q stands there twice", l.Name)
		case len(l.Name) == 0 || !utf8.Valid(l.Name):
			return list, fmt.Sprintf("label name %.100q is not valid", l.Name)
		case !utf8.Valid(l.Value):
			return list, fmt.Sprintf("value %.100q of label %.100q is not valid UTF-8", l.Value, l.Name)
		case len(l.Name) > maxLabel || len(l.Value) > maxLabel:
			return list, fmt.Sprintf("label %.100q is longer than %d bytes", l.Name, maxLabel)
		case string(l.Name) == model.MetricNameLabel:
			named = len(l.Value) > 0
		}
	}
	if len(list) > maxLabels {
		return list, fmt.Sprintf("%d labels are more than %d", len(list), maxLabels)
	}
	if !named {
		return list, "there is no metric name"
	}
	return list, ""
}

// toLabels copies labels that are sorted.
func toLabels(list []writeproto.Label) labels.Labels {
	b := labels.NewScratchBuilder(len(list))
	for _, l := range list {
		b.Add(string(l.Name), string(l.Value))
	}
	return b.Labels()
}

// show renders the labels of a series for a message, valid or not.
func show(list []writeproto.Label) string {
	var text strings.Builder
	for i, l := range list {
		if i == 20 {
			text.WriteString(", ...")
			break
		}
		fmt.Fprintf(&text, "%.*s%.100s=%.100q", 2*min(i, 1), ", ", strings.ToValidUTF8(string(l.Name), "\ufffd"), l.Value)
	}
	return "{" + text.String() + "}"
}

// labelsOf returns the labels of a series.
func (in *intake) labelsOf(m *intakeSeries) labels.Labels {
	return m.source.source.SeriesLabels(in.builder, m.source.columnOf(m))
}
