package expo

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/thalweg/thalweg/internal/series"
)

// MaxAhead is how far a sample's own timestamp may be ahead of the scrape, as in Prometheus.
const MaxAhead = 10 * time.Minute

// Options of a Parser. Catalog, Source and Map are required.
type Options struct {
	Catalog *series.Catalog
	// Scripts are shared with the parsers of targets that may say the same. Nil: the parser shares nothing.
	Scripts *Scripts
	// Source of whole rows. Series with timestamps of their own get others, one for each (job, instance), whose keys
	// begin with the key of Source.
	Source *series.Source
	// Map turns the labels that a series is exposed with into those of its column, or drops it. It is called when a
	// series appears, and again when the schema is made anew. An error fails the body.
	Map func(exposed labels.Labels) (column labels.Labels, keep bool, err error)
	// Lead are columns that the caller fills in itself. They come first in the schema and stand in every whole row, also
	// in those of failed bodies. They are of kind Float.
	Lead []series.Column
	// CompactAfter is after how many bodies an absent column counts as dead. When a quarter of the columns of a source
	// is dead its schema is made anew. Zero: DefaultCompactAfter.
	CompactAfter int
	// EndAfter is after how many bodies without any of its series a source of series with timestamps ends. Zero:
	// DefaultEndAfter.
	EndAfter int

	// IgnoreTimestamps treats all samples as if they had no timestamps.
	IgnoreTimestamps bool
	// TrackStaleness ends series with timestamps of their own by a stale marker when they are absent. Without it they
	// just stop.
	TrackStaleness bool
	// FallbackContentType is the media type to assume when the body's is missing or unknown. Empty: refuse such bodies.
	FallbackContentType string
	// NativeHistograms takes native histograms where a body has them.
	NativeHistograms bool
	// KeepClassic keeps classic histograms beside native ones.
	KeepClassic bool
	// ConvertClassic makes native histograms with custom buckets from classic ones.
	ConvertClassic bool

	// SampleLimit bounds the samples that Map kept; 0 means no limit.
	SampleLimit int
	// BucketLimit bounds the buckets of a native histogram; above it the resolution is reduced. 0 means no limit.
	BucketLimit int
	// MinBucketFactor is the smallest growth factor between buckets of a native histogram; finer ones are merged. 0
	// means no limit.
	MinBucketFactor float64
}

const (
	// DefaultCompactAfter is a keyframe interval of 10 min at a scrape interval of 15 s.
	DefaultCompactAfter = 40
	// DefaultEndAfter is the lookback of 5 min at a scrape interval of 15 s.
	DefaultEndAfter = 20
	// StampedSuffix is appended to the key of a source for those series with timestamps of their own that have its job
	// and instance.
	StampedSuffix = "/stamped"
)

// Stats counts what became of the samples of a body.
type Stats struct {
	Samples    int // seen, including all below
	Kept       int // not dropped by Map, duplicates included
	Added      int // series that the previous good body did not have, by their spelling
	Duplicates int // dropped: the series was there already, the first sample wins
	OutOfOrder int // dropped: its own timestamp lies before the previous one
	Future     int // dropped: its own timestamp lies more than MaxAhead after the scrape
	Exemplars  int // dropped exemplars: labels too long, or without timestamp on a native histogram
}

// Result is what one body came to. It is valid until the next call of the parser's methods.
type Result struct {
	Stats
	// Whole has one value for each column without timestamps of its own. The caller sets the first len(Options.Lead)
	// values, and leaves the others as they are: the parser goes on with them.
	Whole *series.Row
	// Stamped are the partial rows of samples with timestamps of their own: source by source, each in ascending order
	// of time. Sources that ended follow, each with a row that says so.
	Stamped []series.Row
	// Fallback says why FallbackContentType was used; nil if it was not.
	Fallback error
}

// Parser turns the bodies of one target into rows. It is not safe for concurrent use.
type Parser struct {
	options   Options
	maxSchema int32

	known  *knowledge
	round  uint32 // of the current or last body, good or bad
	media  media  // of the last body
	slow   bool   // leave everything to textparse, for tests
	reader reader

	result Result
	row    series.Row
	// seen are the lines of the script that the current body has had, counted those that were counted as added. Both are
	// bitmaps.
	seen    []uint64
	counted []uint64
	// values are those of the last body, until the current one has others. What is held of a column spells its value here.
	values []float64
	// Buffers of the current body. values, present, histograms, exemplars and starts become row.
	present    []uint64
	histograms []series.HistogramAt
	exemplars  []series.ExemplarAt
	starts     []series.StartAt
	// columns and stamped become result.Stamped.
	columns []uint32
	stamped []float64
}

var (
	// errAnew means that the schema does not describe the body any more and has to be made anew.
	errAnew = errors.New("schema does not fit")
	// errOdd means that a body is not what can be read line by line.
	errOdd = errors.New("not line by line")
)

// NewParser returns a parser that knows no series.
func NewParser(o Options) *Parser {
	p := &Parser{}
	p.use(o)
	p.known = newKnowledge(&p.options)
	return p
}

func (p *Parser) use(o Options) {
	if o.CompactAfter == 0 {
		o.CompactAfter = DefaultCompactAfter
	}
	if o.EndAfter == 0 {
		o.EndAfter = DefaultEndAfter
	}
	p.options, p.maxSchema, p.media = o, maxSchema(o.MinBucketFactor), media{}
}

// Adjust takes over options under which bodies have the same series as before: another interval of the source, other
// limits. Nothing is forgotten.
func (p *Parser) Adjust(o Options) {
	if before := p.options.Source; o.Source.Interval == before.Interval {
		o.Source = before
	}
	if p.known.whole.source != o.Source {
		p.known.whole.source = o.Source
		for _, t := range p.known.stamped {
			t.source = t.origin.source(o.Source)
		}
	}
	p.use(o)
}

// Change takes over other options for the same target. Series are learnt anew from the next body. Those with timestamps
// of their own go on: their timestamps stay known, and they end if the body does not have them any more.
func (p *Parser) Change(o Options) {
	stamped, origins := p.known.stamped, p.known.origins
	p.Adjust(o)
	p.known = newKnowledge(&p.options)
	p.known.stamped, p.known.origins = stamped, origins
}

// End returns the rows that end all sources at t. The parser is not used after it.
func (p *Parser) End(t int64) []series.Row {
	var rows []series.Row
	for table := range p.known.tables {
		rows = append(rows, endOf(table, t))
	}
	return rows
}

// Parse turns a body, received at t (milliseconds since 1970), into rows. An empty body is one without series, whatever
// its type. After an error the result is that of Fail, with the Stats up to the error. The parser may write behind the
// end of body within its capacity; the result does not refer to it.
func (p *Parser) Parse(body []byte, contentType string, t int64) (*Result, error) {
	p.round++
	known, err := p.read(body, contentType, t)
	draft := p.reader.draft
	p.reader = reader{} // it must not hold on to the body
	if err != nil {
		p.known.rollback(p.round)
		stats := p.result.Stats
		p.fail(t)
		p.result.Stats = stats
		return &p.result, err
	}
	known.inherit(p.round, p.options.CompactAfter)
	if p.options.TrackStaleness {
		known.mark(p.round, t)
	}
	known.commit(p.round, p.options.Catalog)
	p.known = known
	p.finish(t, p.round)
	if len(body) > 0 { // some targets answer with nothing now and then, it is not worth losing all for that
		known.keep(p.seen, p.counted, draft, p.options.Scripts)
		p.tidy(t)
	}
	return &p.result, nil
}

// read reads a body and returns the knowledge with which it was possible. What is new in it is to be confirmed by commit.
func (p *Parser) read(body []byte, contentType string, t int64) (*knowledge, error) {
	known, odd := p.known, p.slow
	for {
		err := p.pass(known, body, contentType, t, odd)
		switch {
		case errors.Is(err, errOdd):
			odd = true
		case !errors.Is(err, errAnew):
			return known, err
		}
		p.known.rollback(p.round)
		if known != p.known || errors.Is(err, errAnew) {
			known = p.known.replace(&p.options)
		} else {
			known.unsee(p.round)
		}
	}
}

// Fail is the result of a scrape at t that has no body: everything but the lead columns has ended.
func (p *Parser) Fail(t int64) *Result {
	p.round++
	p.fail(t)
	return &p.result
}

func (p *Parser) fail(t int64) {
	p.reset(p.known)
	p.known.begin(p.round)
	if p.options.TrackStaleness {
		p.known.mark(p.round, t)
	}
	p.finish(t, noRound)
}

// reset clears the buffers for a body.
func (p *Parser) reset(k *knowledge) {
	clear(p.result.Stamped)
	p.result = Result{Stamped: p.result.Stamped[:0]}
	n := k.whole.len()
	p.values = slices.Grow(p.values[:min(n, len(p.values))], n)[:n]
	clear(p.values[:k.whole.lead])
	// What a former body left behind must not be kept alive.
	clear(p.histograms)
	clear(p.exemplars)
	p.histograms, p.exemplars, p.starts = p.histograms[:0], p.exemplars[:0], p.starts[:0]
}

// pass reads a body with the help of k, and notes in k what is new, to be confirmed by commit or undone by rollback.
// odd bodies are left to textparse as a whole.
func (p *Parser) pass(k *knowledge, body []byte, contentType string, t int64, odd bool) error {
	p.reset(k)
	k.begin(p.round)
	r := &p.reader
	p.seen = series.Bitmap(p.seen, len(k.lines))
	p.counted = append(p.counted[:0], k.counted...)
	*r = reader{Parser: p, known: k, cast: k.cast, t: t, item: -1}
	r.cast.counted = p.counted
	if len(body) == 0 {
		return nil
	}
	if contentType != p.media.contentType || p.media.format == unknown {
		p.media = p.mediaOf(contentType)
	}
	if p.media.format == unknown {
		return &ContentTypeError{ContentType: contentType, Err: p.media.err}
	}
	p.result.Fallback = p.media.err
	if r.format = p.media.format; odd {
		r.format = other
	}
	if k.worn {
		r.deviate()
	}
	if r.format != other {
		return r.readLines(body)
	}
	return r.readEntries(body, contentType)
}

// media is what a content type says.
type media struct {
	contentType string
	format      format
	err         error // why it is unknown, or why it was replaced by the fallback
}

// format is how samples stand in a body.
type format uint8

const (
	unknown      format = iota
	textLines           // the text format, a sample a line
	metricsLines        // OpenMetrics
	other               // whatever textparse can read
)

func (p *Parser) textparse(body []byte, contentType string) (textparse.Parser, error) {
	return textparse.New(body, contentType, nil, textparse.ParserOptions{
		IgnoreNativeHistograms:                  !p.options.NativeHistograms,
		KeepClassicOnClassicAndNativeHistograms: p.options.KeepClassic,
		ConvertClassicHistogramsToNHCB:          p.options.ConvertClassic,
		FallbackContentType:                     p.options.FallbackContentType,
	})
}

func (p *Parser) mediaOf(contentType string) media {
	in, err := p.textparse(nil, contentType)
	m := media{contentType: contentType, err: err}
	switch in.(type) {
	case nil:
	case *textparse.PromParser:
		m.format = textLines
	case *textparse.OpenMetricsParser:
		m.format = metricsLines
	default:
		m.format = other
	}
	return m
}

// readEntries reads a body of any format, entry by entry as textparse gives them.
func (r *reader) readEntries(body []byte, contentType string) error {
	in, _ := r.textparse(body, contentType)
	// In OpenMetrics 1.0 start timestamps are series of their own, whose names end in _created. Prometheus leaves them so
	// unless one of its feature flags is on, and queries rely on it.
	_, r.hasStarts = in.(*textparse.ProtobufParser)
	r.in = in
	s := r.known.script
	for {
		next, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			if s.format != other {
				r.deviate()
			}
			return r.limitErr
		case err != nil:
			return &SyntaxError{err}
		}
		switch next {
		case textparse.EntryType:
			r.known.families.setType(in.Type())
		case textparse.EntryHelp:
			r.known.families.setHelp(in.Help())
		case textparse.EntryUnit:
			r.known.families.setUnit(in.Unit())
		case textparse.EntrySeries, textparse.EntryHistogram:
			if err := r.sample(next == textparse.EntryHistogram); err != nil {
				return err
			}
		}
	}
}
