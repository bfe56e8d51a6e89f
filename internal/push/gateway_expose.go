package push

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// pieceBytes is how much of a family is decoded at a time.
const pieceBytes = 256 << 10

// openMetrics001 differs from 1.0.0 in its name only.
const openMetrics001 expfmt.Format = expfmt.OpenMetricsType + "; version=" + expfmt.OpenMetricsVersion_0_0_1 + "; charset=utf-8"

// ServeMetrics serves all groups of a site, without timestamps, in the format that the client likes best; and the
// gateway's own metrics with Options.Own. What is in memory for it is one pointer for each family of a group, and a piece
// of a family.
func (g *Gateway) ServeMetrics(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	format := expfmt.NegotiateAccept(r.Header, expfmt.NewFormat(expfmt.TypeOpenMetrics), openMetrics001, expfmt.NewFormat(expfmt.TypeProtoDelim),
		expfmt.NewFormat(expfmt.TypeProtoText), expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	x := exposition{out: bufio.NewWriterSize(w, 64<<10), format: format}
	if err := g.expose(&x, g.siteOf(r)); err != nil {
		return // the client has gone
	}
	_ = x.out.Flush()
}

func (g *Gateway) expose(x *exposition, site *site) error {
	if g.own != nil {
		families, err := g.own.registry.Gather()
		if err != nil {
			return fmt.Errorf("gather own metrics: %w", err)
		}
		for _, f := range families {
			if err := x.piece(f, true); err != nil {
				return err
			}
		}
	}
	byName := map[string][]*family{}
	for _, c := range site.contents() {
		for i := range c.state.families {
			f := &c.state.families[i]
			if len(f.hashes) > 0 {
				byName[f.name] = append(byName[f.name], f)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if err := x.family(byName[name]); err != nil {
			return err
		}
	}
	return x.end()
}

// exposition is an answer with metrics on its way out.
type exposition struct {
	out    *bufio.Writer
	format expfmt.Format
	data   []byte // messages that are decoded as one
	text   bytes.Buffer
}

// family writes a family of which groups have parts. Those of another type than the first, which the consistency check does
// not let in, are left out.
func (x *exposition) family(parts []*family) error {
	typ, first := parts[0].typ, true
	parts = slices.DeleteFunc(parts, func(f *family) bool { return f.typ != typ })
	x.data = x.data[:0]
	for i, f := range parts {
		x.data = append(x.data, f.data...)
		if len(x.data) < pieceBytes && i < len(parts)-1 {
			continue
		}
		var m dto.MetricFamily
		// Messages one behind the other are one that has all of their metrics.
		if err := known.Unmarshal(x.data, &m); err != nil {
			return fmt.Errorf("metric family %q: %w", f.name, err)
		}
		if err := x.piece(&m, first); err != nil {
			return err
		}
		first, x.data = false, x.data[:0]
	}
	return nil
}

// piece writes a family, or what follows of it.
func (x *exposition) piece(m *dto.MetricFamily, first bool) error {
	x.text.Reset()
	if err := expfmt.NewEncoder(&x.text, x.format).Encode(m); err != nil {
		return fmt.Errorf("encode metric family %q: %w", m.GetName(), err)
	}
	text := x.text.Bytes()
	if t := x.format.FormatType(); !first && (t == expfmt.TypeTextPlain || t == expfmt.TypeOpenMetrics) {
		for bytes.HasPrefix(text, []byte("# ")) { // what is said once of a family
			_, text, _ = bytes.Cut(text, []byte("\n"))
		}
	}
	_, err := x.out.Write(text)
	return err
}

func (x *exposition) end() error {
	if x.format.FormatType() != expfmt.TypeOpenMetrics {
		return nil
	}
	_, err := expfmt.FinalizeOpenMetrics(x.out)
	return err
}
