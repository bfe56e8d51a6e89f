package writeproto

import (
	"cmp"
	"maps"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/thalweg/thalweg/internal/series"
)

// Fields of a MetricMetadata of 1.0.
const (
	fieldMetaType = 1
	fieldMetaName = 2
	fieldMetaHelp = 4
	fieldMetaUnit = 5
)

// MetadataRequests returns type, help and unit of the families of all series that encoders remember as requests of 1.0, with most
// entries at most, each family once: 1.0 knows one help of a name. (2.0 says them with every series.) The requests stay
// valid.
func MetadataRequests(most int, encoders ...*Encoder) (requests []Request) {
	for some := range slices.Chunk(eachFamily(encoders), most) {
		var body []byte
		for _, f := range some {
			body = append(appendTag(body, fieldMeta1, wireBytes), 0)
			from := len(body)
			body = appendUint(body, fieldMetaType, uint64(typeNumber(f.Type)))
			body = appendString(body, fieldMetaName, f.Name)
			if f.Help != "" {
				body = appendString(body, fieldMetaHelp, f.Help)
			}
			if f.Unit != "" {
				body = appendString(body, fieldMetaUnit, f.Unit)
			}
			body = closeLength(body, from)
		}
		requests = append(requests, Request{Message: V1, Body: s2.EncodeSnappy(nil, body), Metadata: len(some)})
	}
	return requests
}

// eachFamily lists the families with a name of all series remembered, by name.
func eachFamily(encoders []*Encoder) []series.Family {
	byName := map[string]series.Family{}
	schemas := map[*series.Schema]bool{} // those of which nothing is dropped, which many sources have
	for _, e := range encoders {
		e.cache.addFamilies(byName, schemas)
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b series.Family) int { return cmp.Compare(a.Name, b.Name) })
}

// addFamilies adds those of a cache, but for schemas that are known to add nothing.
func (c *cache) addFamilies(byName map[string]series.Family, schemas map[*series.Schema]bool) {
	for _, s := range c.sources {
		if s.schema == nil || schemas[s.schema] {
			continue
		}
		columns := s.schema.Columns()
		for i := range columns {
			f := &columns[i].Family
			if s.columns[i].n == 0 || f.Name == "" {
				continue
			}
			if has, ok := byName[f.Name]; !ok || less(has, *f) {
				byName[f.Name] = *f
			}
		}
		schemas[s.schema] = s.series == len(columns)
	}
}

// less decides between families of one name, so that the same one is chosen each time: rather one that says more.
func less(a, b series.Family) bool {
	return cmp.Or(cmp.Compare(typeNumber(a.Type), typeNumber(b.Type)), cmp.Compare(a.Help, b.Help), cmp.Compare(a.Unit, b.Unit)) < 0
}
