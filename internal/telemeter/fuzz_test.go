package telemeter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"

	"github.com/thalweg/thalweg/internal/pipeline"
	"github.com/thalweg/thalweg/internal/series"
)

const seed = `# TYPE up untyped
up{job="a b",_id="c"} 1 1772366390000
# TYPE requests_total counter
requests_total{code="200",_id="c"} 1e3
# TYPE temperature gauge
temperature{_id="c",room="\"x\""} -1.5
temperature{_id="c",room="y"} NaN
# TYPE latency histogram
latency_bucket{_id="c",le="0.5"} 1
latency_bucket{_id="c",le="+Inf"} 2
latency_sum{_id="c"} 3
latency_count{_id="c"} 2
# TYPE size summary
size{_id="c",quantile="0.9"} 7
size_sum{_id="c"} 8
size_count{_id="c"} 9
`

// FuzzDelimited compares the decoder of delimited protobuf with that of Prometheus' library.
func FuzzDelimited(f *testing.F) {
	families, err := decodeText([]byte(seed))
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	for _, family := range families {
		if err := expfmt.NewEncoder(&b, delimited).Encode(family); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()-1])
	f.Add([]byte{0})
	f.Add([]byte{0x80})
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeDelimited(body)
		if err != nil && got != nil {
			t.Fatal("families and an error")
		}
		if announcesMore(body) {
			if err == nil {
				t.Fatal("a length beyond the end is taken")
			}
			return // the library would take the memory
		}
		want, wantErr := []*dto.MetricFamily(nil), error(nil)
		for decoder := expfmt.NewDecoder(bytes.NewReader(body), delimited); ; {
			family := &dto.MetricFamily{}
			if wantErr = decoder.Decode(family); wantErr != nil {
				break
			}
			want = append(want, family)
		}
		if errors.Is(wantErr, io.EOF) {
			wantErr = nil
		}
		// It checks names too, which is the judge's business here.
		if err != nil && wantErr == nil {
			t.Fatalf("got %v, the library takes it", err)
		}
		if wantErr != nil {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("got %d families, want %d", len(got), len(want))
		}
		for i := range got {
			b, err := proto.Marshal(want[i])
			if err == nil {
				want[i] = &dto.MetricFamily{}
				err = known.Unmarshal(b, want[i])
			}
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got[i], want[i]) {
				t.Fatalf("family %d: got %v, want %v", i, got[i], want[i])
			}
		}
	})
}

// announcesMore reports whether a length in a body is beyond its end.
func announcesMore(body []byte) bool {
	_, err := decodeDelimited(body)
	return err != nil && strings.Contains(err.Error(), "are announced")
}

// FuzzPush has both decoders and the judge take anything: what is taken has the id, and is what Prometheus' library
// reads; nothing else is possible than that or a refusal.
func FuzzPush(f *testing.F) {
	families, err := decodeText([]byte(seed))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(seed), true)
	f.Add(delimit(f, families), false)
	f.Add([]byte("# TYPE a untyped\n{}"), true) // the parser panics
	f.Add([]byte("a{_id=\"c\",le=\"1\"} 1\na_bucket{_id=\"c\"} 2\n"), true)
	now := time.UnixMilli(1772366400123)
	catalog := series.NewCatalog()
	rules, err := pipeline.New(pipeline.Options{Catalog: catalog})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, text bool) {
		header := http.Header{"Content-Type": {asClients["Content-Type"]}}
		if text {
			header.Set("Content-Type", asText["Content-Type"])
		}
		families, err := decode(body, header)
		if err != nil {
			if why, ok := errors.AsType[*pushError](err); !ok || why.code != http.StatusBadRequest {
				t.Fatal(err)
			}
			return
		}
		j := newJudge("_id", "c", "site", now)
		if families, err = j.families(families); err != nil {
			if why, ok := errors.AsType[*pushError](err); !ok || why.code/100 != 4 {
				t.Fatal(err)
			}
			return
		}
		var want []string
		for _, family := range families {
			want = append(want, samplesOf(t, family)...)
		}
		row, err := j.toRow(families, catalog, rules, time.Minute, now)
		if err != nil {
			t.Fatalf("what was judged good is not taken: %v", err)
		}
		var got []string
		for _, line := range show(row) {
			if !strings.Contains(line, `_id="c"`) {
				t.Errorf("series without the id: %s", line)
			}
			got = append(got, line)
		}
		if slices.ContainsFunc(families, hasNative) || slices.ContainsFunc(j.verdicts, func(v *verdict) bool { return v.Family == "" && v.Refused[collision] > 0 }) {
			return // the library knows no native histograms, and does not mind what is there twice
		}
		if len(got) != len(want) {
			t.Errorf("got %d series, want %d:\n%s\nwant\n%s", len(got), len(want), strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if sum, wantSum := sumOf(row), sumOfAll(want); sum != wantSum {
			t.Errorf("got the values %s, want %s", sum, wantSum)
		}
	})
}

func hasNative(f *dto.MetricFamily) bool {
	return slices.ContainsFunc(f.Metric, func(m *dto.Metric) bool { return m.Histogram != nil && isNative(m.Histogram) })
}

// samplesOf are the values of a family, as the library has them.
func samplesOf(t *testing.T, f *dto.MetricFamily) (all []string) {
	vector, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.Time(0)}, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range vector {
		all = append(all, fmt.Sprintf("%016x", math.Float64bits(canonical(float64(s.Value)))))
	}
	return all
}

// canonical makes all that are not numbers the same one: on the way through the library some bits are lost.
func canonical(v float64) float64 {
	if math.IsNaN(v) {
		return math.NaN()
	}
	return v
}

func sumOf(row *series.Row) string {
	var all []string
	for _, v := range row.Values {
		all = append(all, fmt.Sprintf("%016x", math.Float64bits(canonical(v))))
	}
	return sumOfAll(all)
}

func sumOfAll(values []string) string {
	values = slices.Sorted(slices.Values(values))
	return strings.Join(values, " ")
}
