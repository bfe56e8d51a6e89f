package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

const typical = `{"type":"counter","name":"http_requests_total","value":1,"labels":{"instance":"web-1","job":"shop","region":"eu-west-1","method":"GET","status":"200"},"help":"Requests."}`

func parseOne(t *testing.T, payload string) Event {
	t.Helper()
	var p Parser
	events, ok := p.Parse([]byte(payload))
	if !ok || len(events) != 1 {
		t.Fatalf("%s: %d events, JSON: %t", payload, len(events), ok)
	}
	return events[0]
}

func TestParse(t *testing.T) {
	e := parseOne(t, typical)
	if e.Type != Counter || e.Name != "http_requests_total" || e.Value != 1 || len(e.Labels) != 5 || e.Labels[3].Value != "GET" || e.Help != "Requests." || e.TTL >= 0 {
		t.Errorf("%+v", e)
	}
	e = parseOne(t, `{"type":"GAUGE","name":"g","op":"max","window":90,"ts":1.7e9,"ttl":0.5,"unit":"bytes","id":"a\u00e9\ud83d\ude00","value":-2.5,"exemplar":{"trace_id":"x"}}`)
	if e.Type != Gauge || e.Op != Max || e.Window != 90*time.Second || e.T != 1_700_000_000_000 || e.TTL != time.Second/2 ||
		e.Unit != "bytes" || e.ID != "aé😀" || e.Value != -2.5 || len(e.Exemplar) != 1 || e.Reason != Taken {
		t.Errorf("%+v", e)
	}
	e = parseOne(t, `{"type":3,"name":"h","buckets":"native","values":[1,2e0,3]}`)
	if e.Type != Histogram || !e.Native || !e.Many || !slices.Equal(e.Values, []float64{1, 2, 3}) || e.Reason != Taken {
		t.Errorf("%+v", e)
	}
	if e = parseOne(t, `{"name":"g","type":"gauge","op":"inc"}`); e.Value != 1 {
		t.Errorf("inc without a value is by %g", e.Value)
	}
	if e = parseOne(t, `{"name":"c","ts":1700000000123}`); e.T != 1_700_000_000_123 {
		t.Errorf("milliseconds are %d", e.T)
	}
}

// What the original takes for what.
func TestParseStrictness(t *testing.T) {
	f := func(want Reason, payload string) {
		t.Helper()
		if got := parseOne(t, payload).Reason; got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
	f(Taken, `{"name":"c"}`)
	f(Taken, " \t\r\n{\"name\":\"c\"}\n ")
	f(Taken, `{"name":"c","labels":null,"help":null}`)
	f(Taken, `{"name":"c","value":1e999}`)
	f(Taken, `{"name":"c","type":" Counter "}`)
	f(Taken, `{"name":"c","type":"1"}`)
	f(Taken, `{"name":"c","unknown":{"a":[1,{"b":null}]},"Value":"x"}`)
	f(Taken, `{"name":"c","type":"counter","quantiles":[0.5]}`)
	f(Taken, `{"name":"s","type":"summary","quantiles":null,"epsilons":null}`)
	f(BadName, `{}`)
	f(BadName, `{"name":null}`)
	f(BadName, `{"name":" \t"}`)
	f(BadName, `{"Name":"c"}`)
	f(BadField, `{"name":1}`)
	f(BadField, `{"name":"c","type":null}`)
	f(BadField, `{"name":"c","type":7}`)
	f(BadField, `{"name":"c","type":"7"}`)
	f(BadField, `{"name":"c","type":"timer"}`)
	f(BadField, `{"name":"c","type":1.0}`)
	f(BadField, `{"name":"c","value":"5"}`)
	f(BadField, `{"name":"c","value":null}`)
	f(BadField, `{"name":"c","value":"5","value":5}`)
	f(BadField, `{"name":"c","labels":[]}`)
	f(BadField, `{"name":"c","labels":{"a":1}}`)
	f(BadField, `{"name":"c","labels":{"a":true}}`)
	f(BadLabel, `{"name":"c","labels":{"a":null}}`)
	f(BadField, `{"name":"c","help":1}`)
	f(BadField, `{"name":"h","type":"histogram","buckets":["1"]}`)
	f(BadField, `{"name":"h","type":"histogram","buckets":"exponential"}`)
	f(BadBuckets, `{"name":"h","type":"histogram"}`)
	f(BadBuckets, `{"name":"h","type":"histogram","buckets":null}`)
	f(BadBuckets, `{"name":"h","type":"histogram","buckets":[]}`)
	f(BadQuantiles, `{"name":"s","type":"summary","quantiles":[0.5]}`)
	f(BadField, `{"name":"c","op":"set"}`)
	f(BadField, `{"name":"g","type":"gauge","op":"Set"}`)
	f(BadField, `{"name":"c","value":1,"values":[1]}`)
	f(BadField, `{"name":"c","ts":-1}`)
	f(BadField, `{"name":"c","ttl":-1}`)
	f(BadField, `{"name":"c","id":"`+strings.Repeat("x", maxID+1)+`"}`)

	g := func(payload string) {
		t.Helper()
		var p Parser
		if events, ok := p.Parse([]byte(payload)); ok {
			t.Errorf("%s is %d events", payload, len(events))
		}
	}
	for _, payload := range []string{
		"", " ", "null", "1", `"x"`, "{", `{"name":"c"`, `{"name":"c",}`, `{'name':'c'}`, `{"name":"c"} x`, `{"name":"c"}{"name":"d"}`,
		`{"name":"c","value":NaN}`, `{"name":"c","value":01}`, `{"name":"c","value":1.}`, `{"name":"c","value":+1}`, `{"name":"c","value":.5}`,
		"{\"name\":\"c\n\"}", `{"name":"\x"}`, `{"name":"c"/**/}`, "[", `[{"name":"c"},]`, `[{"name":"c"}`, "\ufeff" + `{"name":"c"}`,
		`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`,
	} {
		g(payload)
	}
	parseOne(t, `{"a":`+strings.Repeat("[", maxDepth-1)+strings.Repeat("]", maxDepth-1)+`}`)
}

func TestParseBatches(t *testing.T) {
	var p Parser
	f := func(payload string, want ...string) {
		t.Helper()
		events, ok := p.Parse([]byte(payload))
		var got []string
		for _, e := range events {
			got = append(got, e.Name+string(e.Reason))
		}
		if !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
	f("[]")
	f(` [ {"name":"a"} , {"name":"b","labels":{"x":"y"}} ] `, "a", "b")
	f(`[{"name":"a"},1,null,[{"name":"b"}],{"value":1}]`, "a", "field", "field", "field", "name")
	f("{\"name\":\"a\"}\n{\"name\":\"b\"}\r\n\n{\"name\":\"c\"}\n", "a", "b", "c")
}

// Strings that do not stand in the payload as they are survive the events behind them.
func TestParseKeepsStrings(t *testing.T) {
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "{\"name\":\"n\\u0061%d\",\"labels\":{\"a\":\"\\t%d\"},\"values\":[%d,%d]}\n", i, i, i, i+1)
	}
	var p Parser
	events, ok := p.Parse([]byte(b.String()))
	if !ok || len(events) != 500 {
		t.Fatalf("%d events", len(events))
	}
	for i, e := range events {
		if e.Name != fmt.Sprintf("na%d", i) || e.Labels[0].Value != fmt.Sprintf("\t%d", i) || !slices.Equal(e.Values, []float64{float64(i), float64(i + 1)}) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
}

func TestParseAllocates(t *testing.T) {
	var p Parser
	payload := []byte(`[` + typical + `,{"type":"histogram","name":"h\u0061","buckets":[0.1,1,1e1],"value":0.123456789012345678}]`)
	p.Parse(payload)
	if n := testing.AllocsPerRun(100, func() { p.Parse(payload) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// FuzzParse compares with encoding/json, used with the original's strictness.
func FuzzParse(f *testing.F) {
	f.Add([]byte(typical))
	for _, s := range []string{
		`{"name":"c","value":1e999}`, `{"name":"a\ud800b","labels":{"x":"1","x":"2"}}`, `{"type":" Gauge ","name":"g","value":-0.0}`,
		`{"type":"3","name":"h","buckets":[1,2.5,1e3],"labels":{}}`, "{\"name\":\"\xff\xc3\"}", `{"name":"c","labels":{"a":null},"labels":{"b":"c"}}`,
		`{"name":"s","type":2,"quantiles":[0.5],"epsilons":[0.1],"help":"x\ny"}`, `{"a":[[[{}]]],"name":"x","value":123456789012345678901234567890.5}`,
		`{"name":"c","value":0.1e-400}`, `{"name":"c","value":9007199254740993}`, `{"name":"x","value":1,"value":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		want, ok := oracle(payload)
		var p Parser
		events, good := p.Parse(payload)
		if !ok {
			if good && len(events) == 1 && bytes.HasPrefix(bytes.TrimLeft(payload, " \t\r\n"), []byte("{")) {
				t.Fatalf("taken: %+v", events[0])
			}
			return
		}
		if !good || len(events) != 1 {
			t.Fatalf("not taken")
		}
		compare(t, events[0], want)
	})
}

func compare(t *testing.T, got, want Event) {
	if (got.Reason == Taken) != (want.Reason == Taken) {
		t.Fatalf("reason %q, want %q", got.Reason, want.Reason)
	}
	if got.Reason != Taken {
		return
	}
	bitsOf := func(l []float64) (b []uint64) {
		for _, v := range l {
			b = append(b, math.Float64bits(v))
		}
		return b
	}
	if got.Type != want.Type || got.Name != want.Name || math.Float64bits(got.Value) != math.Float64bits(want.Value) || got.Help != want.Help ||
		!slices.Equal(got.Labels, want.Labels) || !slices.Equal(bitsOf(got.Buckets), bitsOf(want.Buckets)) ||
		!slices.Equal(bitsOf(got.Quantiles), bitsOf(want.Quantiles)) || !slices.Equal(bitsOf(got.Epsilons), bitsOf(want.Epsilons)) {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

// oracle reads one event by the tokens of encoding/json.
func oracle(payload []byte) (e Event, ok bool) {
	if !json.Valid(payload) || deep(payload) {
		return e, false
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if open, _ := d.Token(); open != json.Delim('{') {
		return e, false
	}
	bad := func(r Reason) {
		if e.Reason == Taken {
			e.Reason = r
		}
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return e, false
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return e, false
		}
		oracleField(&e, key.(string), raw, bad)
	}
	switch {
	case strings.TrimSpace(e.Name) == "":
		bad(BadName)
	case e.Type == Summary && len(e.Quantiles) != len(e.Epsilons):
		bad(BadQuantiles)
	case e.Type == Histogram && len(e.Buckets) == 0 && !e.Native:
		bad(BadBuckets)
	}
	return e, true
}

func oracleField(e *Event, key string, raw json.RawMessage, bad func(Reason)) {
	str := func(to *string) {
		var s *string
		if json.Unmarshal(raw, &s) != nil {
			bad(BadField)
		} else if *to = ""; s != nil {
			*to = *s
		}
	}
	number := func(raw json.RawMessage) float64 {
		if c := raw[0]; c != '-' && (c < '0' || c > '9') {
			bad(BadField)
			return 0
		}
		v, _ := strconv.ParseFloat(string(raw), 64)
		return v
	}
	list := func(to *[]float64) {
		var l []json.RawMessage
		if json.Unmarshal(raw, &l) != nil {
			bad(BadField)
		}
		*to = nil
		for _, r := range l {
			*to = append(*to, number(r))
		}
	}
	switch key {
	case "type":
		word := strings.TrimSpace(string(raw))
		if raw[0] == '"' {
			_ = json.Unmarshal(raw, &word)
			word = strings.TrimSpace(word)
		}
		i := slices.IndexFunc([]string{"counter", "gauge", "summary", "histogram"}, func(s string) bool { return strings.EqualFold(s, word) })
		if n := slices.Index([]string{"0", "1", "2", "3"}, word); i < 0 {
			i = n
		}
		if i < 0 {
			bad(BadField)
		} else {
			e.Type = Type(i)
		}
	case "name":
		str(&e.Name)
	case "help":
		str(&e.Help)
	case "value":
		e.Value = number(raw)
	case "quantiles":
		list(&e.Quantiles)
	case "epsilons":
		list(&e.Epsilons)
	case "buckets":
		e.Native = string(raw) == `"native"`
		if !e.Native {
			list(&e.Buckets)
		}
	case "labels":
		oracleLabels(e, raw, bad)
	case "op", "ts", "ttl", "window", "unit", "id", "values", "exemplar":
		bad("extended") // compared elsewhere
	}
}

func oracleLabels(e *Event, raw json.RawMessage, bad func(Reason)) {
	e.Labels = nil
	if string(raw) == "null" {
		return
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, _ := d.Token(); open != json.Delim('{') {
		bad(BadField)
		return
	}
	var p Parser
	for d.More() {
		name, _ := d.Token()
		var value any
		if err := d.Decode(&value); err != nil {
			bad(BadField)
			return
		}
		s, isString := value.(string)
		if !isString {
			bad(BadLabel)
		}
		p.label(0, name.(string), s)
	}
	e.Labels = p.labels
}

// deep reports whether lists and objects are in each other too deep.
func deep(payload []byte) bool {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	for depth := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) || err != nil {
			return false
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return true
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

func FuzzParseNeverPanics(f *testing.F) {
	f.Add([]byte(`[{"name":"g","type":"gauge","op":"min","window":5,"ts":1,"ttl":2,"exemplar":{"a":"b"},"id":"x","unit":"s","values":[]}]`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var p Parser
		events, ok := p.Parse(payload)
		if ok && !json.Valid(payload) && payload[0] == '[' {
			t.Fatal("taken, but not JSON")
		}
		for _, e := range events {
			if !utf8.ValidString(e.Name) || !utf8.ValidString(e.ID) || !utf8.ValidString(e.Help) {
				t.Fatalf("%+v is not UTF-8", e)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var p Parser
	payload := []byte(typical)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Parse(payload); !ok {
			b.Fatal("not taken")
		}
	}
}
