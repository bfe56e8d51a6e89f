package writeproto

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/series"
)

// cache remembers what a series is called, by source.
type cache struct {
	options *EncoderOptions
	builder *labels.Builder

	// Of fresh:
	buf    []byte
	hashes []uint64
	found  []*exemplar.Exemplar

	sources map[sourceKey]*source
	clock   uint64 // counts rows
	swept   uint64 // when silent sources were looked for
	series  int
	bytes   int

	// Of 2.0:
	symbols  symbols
	families map[series.Family]uint32
	metadata []metadata // by family; 0: nothing is known
	// gone counts series that were forgotten since symbols and families were begun, which keep theirs.
	gone int
}

// sourceKey: the address of a source is its identity, and its labels are final only with its site.
type sourceKey struct {
	site   string
	source *series.Source
}

type source struct {
	key     sourceKey
	schema  *series.Schema
	columns []column
	// text has the labels of all columns as fields of a TimeSeries of 1.0, ids as symbols of 2.0.
	text   []byte
	ids    []uint32
	floats []uint64 // the columns of floats that are not dropped, as bits
	// templates, each of templateColumns columns.
	templates []template

	series int    // columns that are not dropped
	bytes  int    // counted for it
	seen   uint64 // its last row

	request uint64 // the last one that it has samples in
	t       int64  // the time of its last row there
	// exemplars are hashes of those of the last row that had some, by column: expositions repeat them.
	exemplars map[uint32][]uint64
}

// column is where the labels of a series are in text or ids, and its family. n is 0 if the series is dropped.
type column struct{ at, n, family uint32 }

// metadata of a family, in symbols.
type metadata struct {
	kind       byte
	help, unit uint32
}

const (
	sourceBytes   = 256 // what is counted for a source, without its columns
	columnBytes   = 12
	exemplarBytes = 8
)

func newCache(o *EncoderOptions) cache {
	return cache{
		options: o, builder: labels.NewBuilder(labels.EmptyLabels()), sources: map[sourceKey]*source{},
		symbols: newSymbols(), families: map[series.Family]uint32{{}: 0}, metadata: make([]metadata, 1),
	}
}

// find returns what is known of the source of a row, with all columns of the row.
func (c *cache) find(site string, row *series.Row) *source {
	c.clock++
	if c.clock-c.swept > uint64(c.options.SilentRows)/8 {
		c.sweep()
	}
	key := sourceKey{site, row.Source}
	s := c.sources[key]
	if s == nil {
		s = &source{key: key}
		c.sources[key] = s
		c.charge(s, sourceBytes)
	}
	s.seen = c.clock
	if s.schema != row.Schema && (s.schema == nil || !s.schema.Extends(row.Schema)) {
		c.learn(s, row.Schema)
	}
	return s
}

func (c *cache) charge(s *source, bytes int) {
	s.bytes += bytes
	c.bytes += bytes
}

// learn makes the names of the columns of a schema.
func (c *cache) learn(s *source, schema *series.Schema) {
	if s.schema == nil || !schema.Extends(s.schema) {
		c.unlearn(s)
	}
	s.schema = schema
	before := len(s.text) + 4*len(s.ids)
	from := len(s.columns)
	s.columns = slices.Grow(s.columns, schema.Len()-from)
	s.floats = append(s.floats, make([]uint64, (schema.Len()+63)/64-len(s.floats))...)
	s.templates = append(s.templates, make([]template, (schema.Len()+templateColumns-1)/templateColumns-len(s.templates))...)
	for i := from; i < schema.Len(); i++ {
		col := schema.Column(i)
		x := column{}
		if c.options.Labels(s.key.site, s.key.source, col, c.builder) {
			x = c.render(s, c.builder.Labels(), &col.Family)
		}
		if x.n > 0 {
			s.series++
			c.series++
			if col.Kind == series.Float {
				series.SetBit(s.floats, i)
			}
		}
		s.columns = append(s.columns, x)
	}
	c.charge(s, len(s.text)+4*len(s.ids)-before+(len(s.columns)-from)*columnBytes)
	if c.bytes > c.options.CacheBytes {
		c.halve(s)
	}
}

// unlearn drops the columns of a source.
func (c *cache) unlearn(s *source) {
	c.charge(s, sourceBytes-s.bytes)
	c.series -= s.series
	c.gone += s.series
	*s = source{key: s.key, seen: s.seen, request: s.request, t: s.t}
	s.bytes = sourceBytes
}

// render appends the labels of a series to what the source has.
func (c *cache) render(s *source, ls labels.Labels, family *series.Family) column {
	if c.options.Message == V1 {
		x := column{at: uint32(len(s.text))}
		ls.Range(func(l labels.Label) { s.text = appendLabel(s.text, fieldLabels1, l) })
		x.n = uint32(len(s.text)) - x.at
		return x
	}
	x := column{at: uint32(len(s.ids))}
	ls.Range(func(l labels.Label) {
		s.ids = append(s.ids, c.intern(l.Name), c.intern(l.Value))
	})
	if x.n = uint32(len(s.ids)) - x.at; x.n > 0 {
		x.family = c.family(family)
	}
	return x
}

func (c *cache) intern(s string) uint32 {
	id, isNew := c.symbols.intern(s)
	if isNew {
		c.bytes += symbolBytes + len(s)
	}
	return id
}

// family returns the number of what is sent of a family.
func (c *cache) family(f *series.Family) uint32 {
	sent := series.Family{Type: f.Type, Help: f.Help, Unit: f.Unit}
	if typeNumber(sent.Type) == 0 {
		sent.Type = ""
	}
	if n, ok := c.families[sent]; ok {
		return n
	}
	sent.Help, sent.Unit = strings.Clone(sent.Help), strings.Clone(sent.Unit)
	n := uint32(len(c.metadata))
	c.metadata = append(c.metadata, metadata{kind: typeNumber(sent.Type), help: c.intern(sent.Help), unit: c.intern(sent.Unit)})
	c.families[sent] = n
	c.bytes += symbolBytes
	return n
}

func appendLabel(dst []byte, field int, l labels.Label) []byte {
	n := 2 + uvarintLen(uint64(len(l.Name))) + len(l.Name) + uvarintLen(uint64(len(l.Value))) + len(l.Value)
	dst = binary.AppendUvarint(appendTag(dst, field, wireBytes), uint64(n))
	return appendString(appendString(dst, 1, l.Name), 2, l.Value)
}

// end forgets a source.
func (c *cache) end(s *source) {
	c.unlearn(s)
	c.bytes -= sourceBytes
	delete(c.sources, s.key)
}

// sweep forgets silent sources.
func (c *cache) sweep() {
	c.swept = c.clock
	for _, s := range c.sources {
		if s.seen+uint64(c.options.SilentRows) < c.clock {
			c.end(s)
		}
	}
}

// halve makes room: all but one go that were not seen for longest, half of what there is.
func (c *cache) halve(keep *source) {
	bySeen := slices.SortedFunc(maps.Values(c.sources), func(a, b *source) int { return cmp.Compare(a.seen, b.seen) })
	for _, s := range bySeen {
		if c.bytes <= c.options.CacheBytes/2 {
			return
		}
		if s != keep {
			c.end(s)
		}
	}
}

// tidy makes room if templates have become too many, and forgets symbols that no series has any more, with all series,
// when they are most of what there is. Nothing of a request may be under construction.
func (c *cache) tidy() {
	if c.bytes > c.options.CacheBytes {
		c.halve(nil)
	}
	if c.options.Message == V2 && c.gone > c.series+10_000 {
		c.forget()
	}
}

// forget begins anew.
func (c *cache) forget() {
	clock := c.clock
	*c = newCache(c.options)
	c.clock, c.swept = clock, clock
}

// fresh returns those of the exemplars of a column that were not in the source's last row that had some of it: an
// exposition shows an exemplar until there is another one. What it returns is valid until the next call.
func (c *cache) fresh(s *source, list []series.ExemplarAt) []*exemplar.Exemplar {
	if s.exemplars == nil {
		s.exemplars = map[uint32][]uint64{}
	}
	last := s.exemplars[list[0].Column]
	c.hashes, c.found = c.hashes[:0], c.found[:0]
	for i := range list {
		x := &list[i].Exemplar
		hash := c.hashExemplar(x)
		c.hashes = append(c.hashes, hash)
		if !slices.Contains(last, hash) {
			c.found = append(c.found, x)
		}
	}
	if len(c.found) > 0 || len(last) != len(list) {
		c.charge(s, exemplarBytes*(len(list)-len(last)))
		s.exemplars[list[0].Column] = append(last[:0], c.hashes...)
	}
	return c.found
}

// hashExemplar is what an exemplar is recognised by when it comes again.
func (c *cache) hashExemplar(x *exemplar.Exemplar) uint64 {
	c.buf = x.Labels.Bytes(c.buf[:0])
	c.buf = appendFixed(c.buf, 1, x.Value)
	if x.HasTs {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(x.Ts))
	}
	return xxhash.Sum64(c.buf)
}
