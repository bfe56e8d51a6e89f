package federate

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// openMetrics001 differs from 1.0.0 in its name only.
const openMetrics001 expfmt.Format = expfmt.OpenMetricsType + "; version=" + expfmt.OpenMetricsVersion_0_0_1 + "; charset=utf-8"

// negotiate chooses the format of the answer, with its escaping. Prometheus does not know OpenMetrics here.
func negotiate(header http.Header, untyped bool) expfmt.Format {
	if untyped {
		return expfmt.NegotiateAccept(header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
			expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	}
	format := expfmt.NegotiateAccept(header, expfmt.NewFormat(expfmt.TypeOpenMetrics), openMetrics001,
		expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
	if isProto(format.FormatType()) && allowsUTF8(header.Get("Accept")) {
		// Prometheus asks for protobuf first and says that it takes UTF-8 in later clauses only.
		format = format.WithEscapingScheme(model.NoEscaping)
	}
	return format
}

func isProto(t expfmt.FormatType) bool {
	return t == expfmt.TypeProtoDelim || t == expfmt.TypeProtoText || t == expfmt.TypeProtoCompact
}

// allowsUTF8 reports whether any clause of an Accept header says so.
func allowsUTF8(accept string) bool {
	for clause := range strings.SplitSeq(accept, ",") {
		for parameter := range strings.SplitSeq(clause, ";") {
			if strings.TrimSpace(parameter) == model.EscapingKey+"="+model.AllowUTF8 {
				return true
			}
		}
	}
	return false
}

// Content codings that there are.
const (
	codingZstd     = "zstd"
	codingGzip     = "gzip"
	codingIdentity = ""
)

// negotiateCoding chooses the coding that the client likes best, of equal ones the first that it names; none at all if
// it prefers that, or likes nothing that there is.
func negotiateCoding(accept []string) string {
	quality, named := map[string]float64{}, []string(nil)
	for _, clauses := range accept {
		for clause := range strings.SplitSeq(clauses, ",") {
			coding, parameters, _ := strings.Cut(clause, ";")
			q := 1.0
			if name, value, ok := strings.Cut(parameters, "="); ok && strings.EqualFold(strings.TrimSpace(name), "q") {
				var err error
				if q, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
					q = 0
				}
			}
			coding = strings.ToLower(strings.TrimSpace(coding))
			if _, again := quality[coding]; !again {
				named = append(named, coding)
			}
			quality[coding] = q
		}
	}
	best, highest := codingIdentity, quality["identity"]
	for _, coding := range named {
		q := quality[coding]
		if _, settled := quality[codingGzip]; coding == "*" && !settled {
			coding = codingGzip // what everybody understands
		}
		known := coding == codingZstd || coding == codingGzip
		if known && q > 0 && (q > highest || q == highest && best == codingIdentity) {
			best, highest = coding, q
		}
	}
	return best
}
