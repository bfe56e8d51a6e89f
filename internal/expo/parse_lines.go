package expo

import (
	"bytes"
	"errors"
	"io"
	"math"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// readLines reads a body in one of the text formats against the script: as long as the body repeats it there is one
// comparison of memory and one number to read for each sample. Other lines are looked up, and textparse judges those that
// are new or uncommon. Where even that is not possible, as after syntax errors, it returns errOdd.
//
// from is where the current segment begins, which is where the line of the sample before ends.
func (r *reader) readLines(body []byte) error {
	if r.format == textLines && body[len(body)-1] != '\n' {
		body = append(body, '\n') // as textparse does
	}
	for from, done := 0, false; !done; {
		var err error
		if from, err = r.follow(body, from); err != nil {
			return err
		}
		if r.ends(body[from:]) {
			break
		}
		if from, done, err = r.search(body, from); err != nil {
			return err
		}
	}
	return r.limitErr
}

// ends reports whether the body has repeated the whole script and rest is what the script ends with.
func (r *reader) ends(rest []byte) bool {
	s := r.known.script
	return r.draft == nil && s.format == r.format && r.same == len(s.lines) && bytes.Equal(rest, s.tail())
}

// search reads lines up to the first sample, and returns where its line ends, or that there is none.
func (r *reader) search(body []byte, from int) (to int, done bool, err error) {
	begin := from
	if begin > 0 {
		begin++
	}
	for begin < len(body) {
		end := lineEnd(body, begin)
		text := body[begin:end]
		switch {
		case len(text) == 0:
			if r.format == metricsLines {
				return 0, false, errOdd
			}
		case text[0] != '#':
			return end, false, r.searched(body, from, begin, end)
		case r.format == metricsLines && string(text) == "# EOF":
			if end+1 < len(body) {
				return 0, false, errOdd
			}
			return 0, true, r.finish(body[from:])
		default:
			if err := r.comment(text); err != nil {
				return 0, false, err
			}
		}
		begin = end + 1
	}
	if r.format == metricsLines {
		return 0, false, errOdd // there is no end mark
	}
	return 0, true, r.finish(body[from:])
}

// finish ends the draft.
func (r *reader) finish(tail []byte) error {
	r.deviate()
	r.draft.text = append(r.draft.text, tail...)
	return nil
}

func lineEnd(body []byte, i int) int {
	if n := bytes.IndexByte(body[i:], '\n'); n >= 0 {
		return i + n
	}
	return len(body)
}

// follow reads samples as long as the body repeats the script. It returns where the line of the last one ends.
func (r *reader) follow(body []byte, from int) (int, error) {
	s, k := r.known.script, r.known
	if s.format != r.format || !r.inState(r.at) {
		return from, nil
	}
	for r.at < len(s.lines) {
		first := r.at
		from = r.followPlain(body, from)
		if r.at > first {
			l := &s.lines[r.at-1]
			k.families.resume(l.family)
			r.typ = l.typ
		}
		if r.at == len(s.lines) {
			break
		}
		// Either the segment is another one, or the sample is not plain.
		g := s.segment(r.at)
		if !bytes.HasPrefix(body[from:], g.text) {
			break
		}
		l := &s.lines[r.at]
		k.families.resume(l.family)
		r.typ, r.item = l.typ, r.at
		end := lineEnd(body, from+len(g.text))
		if err := r.repeated(body, from+g.key, end, g); err != nil {
			return 0, err
		}
		from = end
	}
	r.item = -1
	return from, nil
}

// inState reports whether line i of the script stands under the metadata that are current.
func (r *reader) inState(i int) bool {
	if i == 0 {
		return r.draft == nil && r.same == 0 // at the beginning of the body
	}
	l := &r.known.script.lines[i-1]
	return l.typ == r.typ && l.family == r.known.families.current()
}

// followPlain reads samples without timestamps and exemplars, as long as the body repeats the script from line at on.
func (r *reader) followPlain(body []byte, from int) int {
	s, k := r.known.script, r.known
	if max := r.options.SampleLimit; r.limitErr != nil || max > 0 && r.limited+len(s.lines)-r.at > max {
		return from
	}
	var (
		first, dropped = r.at, 0
		lines, text    = s.lines, s.text
		whole, round   = k.whole, r.round
		columns        = whole.columns
		values         = r.values
		place          = uint32(r.result.Samples)
		begin          = s.begin(first)
		at             = first
	)
	for ; at < len(lines); at++ {
		l := &lines[at]
		segment := text[begin:l.end]
		if len(body)-from <= len(segment) || string(body[from:from+len(segment)]) != string(segment) {
			break
		}
		v, end := number(body, from+len(segment))
		if end == len(body) || body[end] != '\n' {
			if v, end = longNumber(body, from+len(segment)); end == len(body) {
				break
			}
		}
		if l.repeat || l.seen == round {
			break
		}
		place++
		if l.dropped {
			dropped++
		} else {
			if l.table != whole || !l.counted || columns[l.column].seen == round {
				break
			}
			c := &columns[l.column]
			c.seen, c.place = round, place
			values[l.column] = v
		}
		l.seen = round
		from, begin = end, l.end
	}
	n := at - first
	if n == 0 {
		return from
	}
	r.at = at
	r.result.Samples += n
	r.result.Kept += n - dropped
	r.limited += n - dropped
	r.taken += n - dropped
	whole.seen = round
	if r.draft == nil {
		r.same = at
	} else {
		r.repeat(first, at)
	}
	return from
}

// repeated takes a sample that is not plain. Its line is body[begin:end], its segment g.
func (r *reader) repeated(body []byte, begin, end int, g segment) error {
	n := len(g.text) - g.key
	if s, ok := r.valueOf(body[begin+n : end]); ok {
		key := body[begin : begin+n-g.gap]
		r.in = nil
		l, at := r.find(key)
		return r.add(l, at, key, &s)
	}
	return r.judge(body, begin-g.key, begin, end)
}

// searched takes a sample that is not what the script says. Its line is body[begin:end], its segment begins at from.
func (r *reader) searched(body []byte, from, begin, end int) error {
	text := body[begin:end]
	key := text[:seriesLen(text)]
	if gap := r.gap(text[len(key):]); gap > 0 {
		if s, ok := r.valueOf(text[len(key)+gap:]); ok {
			if l, at := r.find(key); l != nil {
				r.segment = segment{text: body[from : begin+len(key)+gap], key: begin - from, gap: gap}
				r.in = nil
				return r.add(l, at, key, &s)
			}
		}
	}
	return r.judge(body, from, begin, end)
}

// judge leaves the line body[begin:end] with a sample to textparse. The segment begins at from.
func (r *reader) judge(body []byte, from, begin, end int) error {
	text := body[begin:end]
	entry, err := r.parseLine(text)
	if err != nil || entry != textparse.EntrySeries {
		return errOdd
	}
	key, _, _ := r.in.Series()
	gap := r.gap(text[len(key):])
	if gap == 0 {
		return errOdd // what comes first belongs to the series or to the value, depending on what follows
	}
	if r.item < 0 {
		r.segment = segment{text: body[from : begin+len(key)+gap], key: begin - from, gap: gap}
	} else if !bytes.Equal(key, r.known.script.key(r.item)) {
		return errOdd
	}
	if err := r.sample(false); err != nil {
		return err
	}
	return r.lineEnds()
}

// comment takes a line that begins with #.
func (r *reader) comment(text []byte) error {
	f := &r.known.families
	if name, help, ok := metadata(text, "# HELP "); ok && r.format == textLines && bytes.IndexByte(help, '\\') < 0 && utf8.Valid(help) {
		f.setHelp(name, help)
		return nil
	}
	entry, err := r.parseLine(text)
	if err != nil {
		return errOdd
	}
	switch entry {
	case textparse.EntryType:
		name, t := r.in.Type()
		f.setType(name, t)
		r.typ = typOf(t)
	case textparse.EntryHelp:
		f.setHelp(r.in.Help())
	case textparse.EntryUnit:
		f.setUnit(r.in.Unit())
	}
	return r.lineEnds()
}

// typ is as much of the type of a metric family as the labels of a series below depend on: textparse writes the bounds of
// buckets and the quantiles of summaries in one way.
type typ uint8

const (
	anyType typ = iota
	histogramType
	summaryType
)

func typOf(t model.MetricType) typ {
	switch t {
	case model.MetricTypeHistogram:
		return histogramType
	case model.MetricTypeSummary:
		return summaryType
	}
	return anyType
}

// parseLine gives one line to textparse as the body that it is in the place where it stands, and returns its entry.
func (r *reader) parseLine(text []byte) (textparse.Entry, error) {
	if bytes.IndexByte(text, 0) >= 0 {
		return 0, errOdd // it ends a body for textparse in some places
	}
	b := r.buffer[:0]
	switch r.typ {
	case histogramType:
		b = append(b, "# TYPE x histogram\n"...)
	case summaryType:
		b = append(b, "# TYPE x summary\n"...)
	}
	b = append(append(b, text...), '\n')
	if r.format == metricsLines {
		b = append(b, "# EOF\n"...)
		r.in = textparse.NewOpenMetricsParser(b, labels.NewSymbolTable())
	} else {
		b = append(b, '\n')
		r.in = textparse.NewPromParser(b[:len(b)-1], labels.NewSymbolTable(), false)
	}
	r.buffer = b
	if r.typ != anyType {
		if _, err := r.in.Next(); err != nil {
			return 0, err
		}
	}
	return r.in.Next()
}

// lineEnds returns an error if textparse has found more in a line than one entry.
func (r *reader) lineEnds() error {
	if _, err := r.in.Next(); !errors.Is(err, io.EOF) {
		return errOdd
	}
	return nil
}

// metadata splits a comment in the common spelling.
func metadata(text []byte, prefix string) (name, rest []byte, ok bool) {
	rest, ok = bytes.CutPrefix(text, []byte(prefix))
	if !ok || bytes.IndexByte(rest, 0) >= 0 {
		return nil, nil, false
	}
	n := nameLen(rest)
	if n == 0 || n == len(rest) || rest[n] != ' ' {
		return nil, nil, false
	}
	return rest[:n], rest[n+1:], true
}

// nameLen is the length of the name of a metric at the beginning of text.
func nameLen(text []byte) int {
	for i, c := range text {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == ':'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(text)
}

// seriesLen is the length of the series at the beginning of a line in the common spelling: a name with labels behind it
// or without. The line may turn out to be something else; if so, nothing is known of such a series.
func seriesLen(text []byte) int {
	n := nameLen(text)
	if n == 0 || n == len(text) || text[n] != '{' {
		return n
	}
	quoted := false
	for i := n + 1; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '}' && !quoted:
			return i + 1
		}
	}
	return len(text)
}

// gap is the length of the white space at the beginning of text; 0 if it is not what may stand behind a series.
func (r *reader) gap(text []byte) int {
	n := 0
	for n < len(text) && (text[n] == ' ' || text[n] == '\t' && r.format == textLines) {
		n++
	}
	if n > 255 || n > 1 && r.format == metricsLines {
		return 0
	}
	return n
}

// valueOf reads what stands behind a series in the common spelling: a value, and after a space maybe a timestamp.
func (r *reader) valueOf(text []byte) (sample, bool) {
	s := sample{t: r.t}
	digits, stamp, stamped := bytes.Cut(text, []byte{' '})
	v, ok := float(digits)
	if !ok {
		return s, false
	}
	s.v = v
	if !stamped {
		return s, true
	}
	var t int64
	if r.format == textLines {
		t, ok = milliseconds(stamp)
	} else if v, ok = float(stamp); ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
		t = int64(v * 1000)
	} else {
		ok = false
	}
	if ok && !r.options.IgnoreTimestamps {
		s.t, s.stamped = t, true
	}
	return s, ok
}
