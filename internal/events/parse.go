package events

import (
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// maxDepth is how deep lists and objects may be in each other.
const maxDepth = 64

// maxID bounds the length of ids.
const maxID = 128

// Parser reads payloads: one event, a list of them, or several with line breaks between them. It is for one goroutine,
// and allocates nothing once it has seen the largest payload.
type Parser struct {
	scanner
	events  []Event
	labels  []labels.Label
	numbers []float64
	value   span // of the last value
}

// span is a part of a payload.
type span struct{ first, last int }

// Parse returns the events of a payload. They are valid until the next call, and as long as the payload stays as it is.
// Without ok the payload is not JSON, or not of events: nothing of it counts. An event that is JSON but has something
// wrong in it has a Reason.
func (p *Parser) Parse(payload []byte) (events []Event, ok bool) {
	p.data, p.i, p.failed, p.text = payload, 0, false, p.text[:0]
	p.events, p.labels, p.numbers = p.events[:0], p.labels[:0], p.numbers[:0]
	switch p.space(); p.peek() {
	case '{':
		p.lines()
	case '[':
		p.list()
	default:
		return nil, false
	}
	if p.failed || p.i != len(p.data) {
		return nil, false
	}
	return p.events, true
}

// lines reads objects, one behind the other, each on lines of its own.
func (p *Parser) lines() {
	for p.peek() == '{' && !p.failed {
		p.event(1)
		end := p.i
		p.space()
		if p.i < len(p.data) && !strings.Contains(text(p.data[end:p.i]), "\n") {
			p.failed = true
		}
	}
}

func (p *Parser) list() {
	p.i++
	if p.space(); p.accept(']') {
		p.space()
		return
	}
	for !p.failed {
		if p.peek() == '{' {
			p.event(2)
		} else {
			p.events = append(p.events, Event{Reason: BadField})
			p.skip(2)
		}
		if !p.more(']') {
			break
		}
	}
	p.space()
}

// event reads an object. Whatever is wrong with it but not with the JSON is its Reason, of which the first counts.
func (p *Parser) event(depth int) {
	p.i++ // the brace
	p.events = append(p.events, Event{TTL: -1})
	e := &p.events[len(p.events)-1]
	said := fields(0)
	if p.space(); !p.accept('}') {
		for !p.failed {
			key := p.string()
			p.colon()
			said |= p.field(e, key, depth)
			if !p.more('}') {
				break
			}
		}
	}
	e.finish(said)
}

// fields are what an event said something about that has to be known of the whole event.
type fields uint8

const (
	saidValue fields = 1 << iota
	saidOp
)

// field reads the value of a field. What is null, where that is allowed, is as if it were not there.
func (p *Parser) field(e *Event, key string, depth int) (said fields) {
	ok := true
	switch key {
	case "type":
		e.Type, ok = p.typeField(depth)
	case "name":
		e.Name, ok = p.stringField(depth)
	case "value":
		first := p.i
		e.Value, ok = p.numberField(depth)
		p.value = span{first, p.i}
		said = saidValue
	case "labels":
		if e.Labels, ok = p.labelsField(e, depth); !ok && e.Reason == Taken {
			e.Reason = BadField
		}
	case "help":
		e.Help, ok = p.stringField(depth)
	case "buckets":
		e.Buckets, e.Native = nil, false
		if p.peek() == '"' {
			e.Native = p.string() == "native"
			ok = e.Native
		} else {
			e.Buckets, ok = p.numbersField(depth)
		}
	case "quantiles":
		e.Quantiles, ok = p.numbersField(depth)
	case "epsilons":
		e.Epsilons, ok = p.numbersField(depth)
	case "op", "ts", "ttl", "window", "unit", "id", "values", "exemplar":
		return p.extended(e, key, depth)
	default:
		p.skip(depth + 1)
	}
	if !ok && e.Reason == Taken {
		e.Reason = BadField
	}
	return said
}

// extended reads the value of a field that only this gateway knows.
func (p *Parser) extended(e *Event, key string, depth int) (said fields) {
	ok := true
	switch key {
	case "op":
		e.Op, ok = p.opField(depth)
		said = saidOp
	case "ts":
		var seconds float64
		if seconds, ok = p.numberField(depth); ok {
			e.T, ok = milliseconds(seconds)
		}
	case "ttl":
		e.TTL, ok = p.secondsField(depth)
	case "window":
		if e.Window, ok = p.secondsField(depth); e.Window == 0 {
			ok = false
		}
	case "unit":
		e.Unit, ok = p.stringField(depth)
	case "id":
		e.ID, ok = p.stringField(depth)
		ok = ok && len(e.ID) <= maxID
	case "values":
		e.Values, ok = p.numbersField(depth)
		e.Many = e.Values != nil
	case "exemplar":
		var of Event
		e.Exemplar, ok = p.labelsField(&of, depth)
		ok = ok && of.Reason == Taken
	}
	if !ok && e.Reason == Taken {
		e.Reason = BadField
	}
	return said
}

// finish says what is wrong with the event as a whole.
func (e *Event) finish(said fields) {
	if said&saidValue == 0 && (e.Op == Inc || e.Op == Dec) {
		e.Value = 1
	}
	switch {
	case e.Reason != Taken:
	case strings.TrimSpace(e.Name) == "":
		e.Reason = BadName
	case said&saidOp != 0 && e.Type != Gauge, said&saidValue != 0 && e.Many:
		e.Reason = BadField
	case e.Type == Summary && len(e.Quantiles) != len(e.Epsilons):
		e.Reason = BadQuantiles
	case e.Type == Histogram && len(e.Buckets) == 0 && !e.Native:
		e.Reason = BadBuckets
	}
}

// milliseconds makes a time of Unix seconds. What is far beyond them was meant in milliseconds.
func milliseconds(seconds float64) (int64, bool) {
	const latest = 1e11 // the year 5138
	switch {
	case seconds > 0 && seconds < latest:
		return int64(seconds*1000 + 0.5), true
	case seconds >= latest && seconds < latest*1000:
		return int64(seconds), true
	}
	return 0, false
}

// maxSeconds of a TTL or a window: a hundred years.
const maxSeconds = 100 * 366 * 86400

func (p *Parser) secondsField(depth int) (time.Duration, bool) {
	seconds, ok := p.numberField(depth)
	if !ok || !(seconds >= 0 && seconds <= maxSeconds) {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// stringField reads a string or null.
func (p *Parser) stringField(depth int) (string, bool) {
	switch p.peek() {
	case '"':
		return p.string(), true
	case 'n':
		p.skip(depth + 1)
		return "", true
	}
	p.skip(depth + 1)
	return "", false
}

func (p *Parser) numberField(depth int) (float64, bool) {
	if c := p.peek(); c == '-' || c >= '0' && c <= '9' {
		return p.number(), true
	}
	p.skip(depth + 1)
	return 0, false
}

// typeField reads a type: a word in any case, or its number.
func (p *Parser) typeField(depth int) (Type, bool) {
	var s string
	switch c := p.peek(); {
	case c == '"':
		s = p.string()
	case c >= '0' && c <= '9':
		first := p.i
		p.number()
		s = text(p.data[first:p.i])
	default:
		p.skip(depth + 1)
		return 0, false
	}
	switch s {
	case "counter", "0":
		return Counter, true
	case "gauge", "1":
		return Gauge, true
	case "summary", "2":
		return Summary, true
	case "histogram", "3":
		return Histogram, true
	}
	s = strings.TrimSpace(s)
	for t := Counter; t <= Histogram; t++ {
		if strings.EqualFold(s, t.String()) {
			return t, true
		}
	}
	return 0, false
}

func (p *Parser) opField(depth int) (Op, bool) {
	s, ok := p.stringField(depth)
	if !ok {
		return 0, false
	}
	switch s {
	case "set":
		return Set, true
	case "inc":
		return Inc, true
	case "dec":
		return Dec, true
	case "min":
		return Min, true
	case "max":
		return Max, true
	}
	return 0, false
}

// numbersField reads a list of numbers, or null, which is nil.
func (p *Parser) numbersField(depth int) ([]float64, bool) {
	switch p.peek() {
	case '[':
	case 'n':
		p.skip(depth + 1)
		return nil, true
	default:
		p.skip(depth + 1)
		return nil, false
	}
	p.i++
	if p.numbers == nil {
		p.numbers = make([]float64, 0, 16)
	}
	first := len(p.numbers)
	ok := true
	if p.space(); !p.accept(']') {
		for !p.failed {
			n, good := p.numberField(depth + 1)
			ok = ok && good
			p.numbers = append(p.numbers, n)
			if !p.more(']') {
				break
			}
		}
	}
	return p.numbers[first:len(p.numbers):len(p.numbers)], ok
}

// labelsField reads an object of strings, or null. A value that is null is a reason of the event.
func (p *Parser) labelsField(e *Event, depth int) ([]labels.Label, bool) {
	switch p.peek() {
	case '{':
	case 'n':
		p.skip(depth + 1)
		return nil, true
	default:
		p.skip(depth + 1)
		return nil, false
	}
	p.i++
	first := len(p.labels)
	ok := true
	if p.space(); !p.accept('}') {
		for !p.failed {
			name := p.string()
			p.colon()
			if p.peek() == 'n' && e.Reason == Taken {
				e.Reason = BadLabel
			}
			value, good := p.stringField(depth + 1)
			ok = ok && good
			p.label(first, name, value)
			if !p.more('}') {
				break
			}
		}
	}
	return p.labels[first:len(p.labels):len(p.labels)], ok
}

// maxCompared bounds the labels among which a name is looked for: events with more are not taken.
const maxCompared = 256

// label adds a label to those from first on, in place of one of its name.
func (p *Parser) label(first int, name, value string) {
	for i := first; i < len(p.labels) && i-first < maxCompared; i++ {
		if p.labels[i].Name == name {
			p.labels[i].Value = value
			return
		}
	}
	p.labels = append(p.labels, labels.Label{Name: name, Value: value})
}
