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
			if r.ahead.at(begin) {
				r.ahead.advance(end)
			}
		case text[0] != '#':
			return end, false, r.searched(body, from, begin, end)
		case r.format == metricsLines && string(text) == "# EOF":
			if end+1 < len(body) {
				return 0, false, errOdd
			}
			return 0, true, r.finish(body[from:])
		default:
			if err := r.comment(body, begin, end); err != nil {
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
		if t := s.lines[first].table; t == nil || !t.stamped {
			from = r.followPlain(body, from)
		}
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
	return l.typ == r.typ && l.family == r.known.families.current(l.family)
}

// followPlain reads samples of whole rows that have nothing behind their values, as long as the body repeats the script
// and none of them counts in another way than before.
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
		v, end := l.value, from+int(l.end-begin)+int(l.held)
		if l.held == 0 || len(body) < end || string(body[from:end]) != string(text[begin:l.end+uint32(l.held)]) {
			if v, end = valueBehind(body, from, text[begin:l.end]); end == 0 {
				break
			}
			l.hold(text, body[from+int(l.end-begin):end+1], v)
		} else {
			end--
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
		from, begin = end, l.end+uint32(l.room)
	}
	n := at - first
	if n == 0 {
		return from
	}
	r.at = at
	r.result.Samples += n
	r.result.Kept += n - dropped
	r.limited += n - dropped
	whole.seen = round
	whole.present += n - dropped
	if r.draft == nil {
		r.same = at
	} else {
		r.repeat(first, at)
	}
	return from
}

// valueBehind returns the value that stands behind segment in the body from from on, if nothing else does, and where its
// line ends. If the body has another segment, or something else stands behind it, it returns 0 as the end.
func valueBehind(body []byte, from int, segment []byte) (v float64, end int) {
	begin := from + len(segment)
	if len(body) <= begin || string(body[from:begin]) != string(segment) {
		return 0, 0
	}
	if v, end = number(body, begin); end == 0 {
		return longNumber(body, begin)
	}
	if end == len(body) || body[end] != '\n' {
		return 0, 0
	}
	return v, end
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
				r.segment = newSegment(body, from, begin, len(key), gap, end)
				r.in = nil
				return r.add(l, at, key, &s)
			}
		}
	}
	return r.judge(body, from, begin, end)
}

// newSegment returns the segment that begins at from, with a series of n bytes at begin and a gap behind it, in a line that
// ends at end.
func newSegment(body []byte, from, begin, n, gap, end int) segment {
	value := begin + n + gap
	g := segment{text: body[from:value], key: begin - from, gap: gap}
	if size := end - value; size <= longest && bytes.IndexByte(body[value:end], ' ') < 0 {
		g.room = size + 2 // for the newline, and for one digit more
	}
	return g
}

// judge leaves the line body[begin:end] with a sample to textparse. The segment begins at from.
func (r *reader) judge(body []byte, from, begin, end int) error {
	text := body[begin:end]
	entry, err := r.parse(body, begin, end)
	if err != nil || entry != textparse.EntrySeries {
		return errOdd
	}
	key, _, _ := r.in.Series()
	if !bytes.HasPrefix(text, key) {
		return errOdd // there is a newline in a label
	}
	gap := r.gap(text[len(key):])
	if gap == 0 {
		return errOdd // what comes first belongs to the series or to the value, depending on what follows
	}
	if r.item < 0 {
		r.segment = newSegment(body, from, begin, len(key), gap, end)
	} else if !bytes.Equal(key, r.known.script.key(r.item)) {
		return errOdd
	}
	if err := r.sample(false); err != nil {
		return err
	}
	return r.lineEnds()
}

// comment takes the line body[begin:end], which begins with #.
func (r *reader) comment(body []byte, begin, end int) error {
	f := &r.known.families
	if name, help, ok := helpOf(body[begin:end]); ok && r.format == textLines && !r.ahead.at(begin) {
		f.setHelp(name, help)
		return nil
	}
	entry, err := r.parse(body, begin, end)
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

// ahead is what textparse was given beyond the line that was asked for.
type ahead struct {
	in    textparse.Parser
	given int // lines
	left  int // of them
	next  int // where the first of these begins in the body
}

// at reports whether textparse stands at the line that begins at i.
func (a *ahead) at(i int) bool { return a.left > 0 && a.next == i }

func (a *ahead) advance(end int) { a.left, a.next = a.left-1, end+1 }

// parse returns what textparse finds in the line body[begin:end], as if it had read all that stands above. To make a
// parser costs more than to read a line, so that it is given the more lines at once the longer none is known. In
// OpenMetrics it is given one: some errors show in the next line only.
func (r *reader) parse(body []byte, begin, end int) (textparse.Entry, error) {
	const most = 64
	a := &r.ahead
	text := body[begin:end]
	if bytes.IndexByte(text, 0) >= 0 {
		return 0, errOdd // it ends a body for textparse in some places
	}
	if text[0] == '#' && bytes.IndexByte(text, '"') >= 0 {
		*a = ahead{} // there may be a newline in a name
	} else if a.at(begin) {
		a.advance(end)
		r.in = a.in
		return r.in.Next()
	}
	given, to := 1, end
	if r.format == textLines && a.next == begin && a.given > 0 {
		for more := min(2*a.given, most); given < more && to+1 < len(body); given++ {
			to = lineEnd(body, to+1)
		}
	}
	r.give(body[begin:to])
	*a = ahead{in: r.in, given: given, left: given}
	a.advance(end)
	if r.typ != anyType {
		if _, err := r.in.Next(); err != nil {
			return 0, err
		}
	}
	return r.in.Next()
}

// give makes a textparse parser for lines that stand under the current type line.
func (r *reader) give(lines []byte) {
	b := r.buffer[:0]
	switch r.typ {
	case histogramType:
		b = append(b, "# TYPE x histogram\n"...)
	case summaryType:
		b = append(b, "# TYPE x summary\n"...)
	}
	b = append(append(b, lines...), '\n')
	if r.format == metricsLines {
		b = append(b, "# EOF\n"...)
		r.in = textparse.NewOpenMetricsParser(b, labels.NewSymbolTable())
	} else {
		r.in = textparse.NewPromParser(b[:len(b)-1], labels.NewSymbolTable(), false)
	}
	r.buffer = b
}

// lineEnds returns an error if textparse has found more in a line than one entry.
func (r *reader) lineEnds() error {
	if r.format == textLines {
		return nil // its parser has read the newline
	}
	if _, err := r.in.Next(); !errors.Is(err, io.EOF) {
		return errOdd
	}
	return nil
}

// helpOf splits a help line of the text format in the common spelling.
func helpOf(text []byte) (name, help []byte, ok bool) {
	help, ok = bytes.CutPrefix(text, []byte("# HELP "))
	n := nameLen(help)
	if !ok || n == 0 || n == len(help) || help[n] != ' ' {
		return nil, nil, false
	}
	name, help = help[:n], help[n+1:]
	return name, help, bytes.IndexByte(help, 0) < 0 && bytes.IndexByte(help, '\\') < 0 && utf8.Valid(help)
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
	var ok bool
	v, end := number(text, 0)
	if end > 0 {
		ok = end == len(text) || text[end] == ' '
	} else {
		if end = bytes.IndexByte(text, ' '); end < 0 {
			end = len(text)
		}
		v, ok = float(text[:end])
	}
	s.v = v
	if !ok || end == len(text) {
		return s, ok
	}
	stamp := text[end+1:]
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
