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

	"github.com/thalweg/thalweg/internal/series"
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

// ends reports whether the body says nothing but what the script does, and rest is what that ends with.
func (r *reader) ends(rest []byte) bool {
	s := r.known.script
	return r.draft == nil && s.format == r.format && bytes.Equal(rest, s.tail())
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

// follow reads samples as long as the body repeats the script, or leaves out parts of it. It returns where the line of
// the last one ends.
func (r *reader) follow(body []byte, from int) (int, error) {
	s, k := r.known.script, r.known
	if s.format != r.format || !r.inState(r.at, from) {
		return from, nil
	}
	for r.at < len(s.lines) {
		first := r.at
		from = r.followPlain(body, from)
		if r.at > first {
			k.families.resume(s.family(r.at - 1))
			r.typ = s.lines[r.at-1].typ
		}
		if r.at == len(s.lines) {
			break
		}
		// Either the segment is another one, or the sample is not plain.
		g := s.segment(r.at)
		if !bytes.HasPrefix(body[from:], g.text) {
			if i := r.furtherDown(body[from:]); i > 0 {
				r.skip(i)
				continue
			}
			break
		}
		k.families.resume(s.family(r.at))
		r.typ, r.item = s.lines[r.at].typ, r.at
		end := lineEnd(body, from+len(g.text))
		if err := r.repeated(body, from+g.key, end, g); err != nil {
			return 0, err
		}
		from = end
	}
	r.item = -1
	return from, nil
}

// inState reports whether line i of the script stands under the metadata that are current at body[from].
func (r *reader) inState(i, from int) bool {
	if i == 0 {
		return from == 0
	}
	s := r.known.script
	expected := s.family(i - 1)
	return s.lines[i-1].typ == r.typ && sameFamily(expected, r.known.families.current(expected))
}

// furtherDown returns the first of the near lines of the script that rest begins with, if that stands there under the same
// metadata as in the script; 0 if there is none.
func (r *reader) furtherDown(rest []byte) int {
	s := r.known.script
	if r.at == 0 {
		return 0
	}
	for i := r.at + 1; i < min(r.at+near, len(s.lines)); i++ {
		if bytes.HasPrefix(rest, s.text[s.begin(i):s.lines[i].end]) && s.mayFollow(r.at-1, i) {
			return i
		}
	}
	return 0
}

// mayFollow reports whether line i is what it is also if it follows line last and not line i-1: whether it stands under
// the same metadata.
func (s *script) mayFollow(last, i int) bool {
	l := &s.lines[i]
	switch f := s.family(i); {
	case l.repeat:
		return false
	case l.key == s.begin(i)+1: // nothing stands between the samples but a newline
		return l.typ == s.lines[last].typ && sameFamily(f, s.family(last))
	default: // the lines above must say all: the type of a metric whose name is another one
		return f != nil && f.Type != "" && !named(s.family(last), f.Name) && !named(s.family(i-1), f.Name)
	}
}

func named(f *series.Family, name string) bool { return f != nil && f.Name == name }

// followPlain reads samples of whole rows that have nothing behind their values, as long as the body repeats the script.
func (r *reader) followPlain(body []byte, from int) int {
	s, k := r.known.script, r.known
	first := r.at
	// A series that the body has had already, because it is in another order, is not plain.
	last := nextBit(r.seen, first, len(s.lines))
	if max := r.options.SampleLimit; r.limitErr != nil || max > 0 && r.limited+last-first > max {
		return from
	}
	var (
		owners, lines = r.cast.owners, s.lines[:last]
		roles         = r.cast.columns[:len(lines)]
		text, values  = s.text, r.values
		columns       = k.whole.columns[:len(values)]
		round         = r.round
		place         = uint32(r.result.Samples)
		begin         = s.begin(first)
		none, added   = 0, 0
		at            = first
	)
	for ; at < len(lines); at++ {
		end := lines[at].end
		segment := text[begin:end]
		value := from + len(segment)
		if len(body) <= value || string(body[from:value]) != string(segment) {
			break
		}
		role := roles[at]
		if role >= uint32(len(columns)) || owners != nil && owners[at] != nil {
			if role != dropped {
				break
			}
			_, after := valueAt(body, value)
			if after == 0 {
				break
			}
			if none++; !hasBit(r.cast.counted, at) {
				added--
			}
			from = after
		} else {
			c := &columns[role]
			if c.seen == round {
				break
			}
			if n := c.held.size(); n > 0 && value+heldBytes <= len(body) && c.held.at(body, value) {
				from = value + n - 1
			} else {
				v, after := valueAt(body, value)
				if after == 0 {
					break
				}
				c.held = hold(body, value, after)
				values[role], from = v, after
			}
			c.seen, c.place = round, place+1
		}
		place++
		begin = end
	}
	n := at - first
	if n == 0 {
		return from
	}
	added += setBits(r.cast.counted, first, at)
	setBits(r.seen, first, at)
	r.at = at
	r.result.Samples += n
	r.result.Kept += n - none
	r.result.Added += added
	r.limited += n - none
	k.whole.seen = round
	k.whole.present += n - none
	if r.draft != nil {
		r.draft.copy(&r.cast, first, at)
	}
	return from
}

// valueAt returns the value that begins at body[i] if nothing but a newline follows, and where it ends; otherwise 0 as
// the end.
func valueAt(body []byte, i int) (v float64, end int) {
	if v, end = number(body, i); end == 0 {
		return longNumber(body, i)
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
		if l := r.find(key, &s); l.known() {
			r.in = nil
			return r.add(l, key, &s)
		}
	}
	return r.judge(body, begin-g.key, begin, end)
}

// searched takes a sample that is not what the script says. Its line is body[begin:end], its segment begins at from.
func (r *reader) searched(body []byte, from, begin, end int) error {
	text := body[begin:end]
	key := text[:seriesLen(text)]
	if gap := r.gap(text[len(key):]); gap > 0 {
		if s, ok := r.valueOf(text[len(key)+gap:]); ok {
			if l := r.find(key, &s); l.known() {
				value := begin + len(key) + gap
				r.segment = segment{text: body[from:value], key: begin - from, gap: gap}
				r.in = nil
				return r.add(l, key, &s)
			}
		}
	}
	return r.judge(body, from, begin, end)
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
		r.segment = segment{text: body[from : begin+len(key)+gap], key: begin - from, gap: gap}
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
