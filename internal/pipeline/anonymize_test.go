package pipeline

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

const testKey = "0123456789abcdef0123456789abcdef"

func newAnonymizer(t testing.TB, change func(*AnonymizeConfig), names ...string) *Anonymizer {
	t.Helper()
	c := DefaultAnonymizeConfig()
	c.Labels = names
	if change != nil {
		change(&c)
	}
	a, err := NewAnonymizer(c, []byte(testKey+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPseudonyms(t *testing.T) {
	f := func(label, value string, length int) {
		t.Helper()
		a := newAnonymizer(t, func(c *AnonymizeConfig) { c.Length = length }, "user", "host")
		m := hmac.New(sha256.New, []byte(testKey))
		m.Write([]byte(label + "\x00" + value))
		want := base64.RawURLEncoding.EncodeToString(m.Sum(nil))[:length]
		if value == "" {
			want = ""
		}
		if got := a.Pseudonym(label, value); got != want || a.Pseudonym(label, value) != want {
			t.Errorf("%s=%q is %q, want %q", label, value, got, want)
		}
	}
	f("user", "alice", 16)
	f("host", "alice", 16) // other labels, other pseudonyms
	f("user", "", 16)
	f("user", "bob", minPseudonym)
	f("user", strings.Repeat("x", 10_000), maxPseudonym)

	// As a telemeter-client: the first 9 bytes of SHA-256 of salt and value, whichever the label.
	a := newAnonymizer(t, func(c *AnonymizeConfig) { c.Mode, c.Length = ModeTelemeter, 30 }, "user")
	sum := sha256.Sum256([]byte(testKey + "alice"))
	if got, want := a.Pseudonym("user", "alice"), base64.RawURLEncoding.EncodeToString(sum[:9]); got != want || len(got) != 12 || a.Pseudonym("host", "alice") != want {
		t.Errorf("telemeter: %q, want %q", got, want)
	}
}

func TestKeys(t *testing.T) {
	f := func(mode AnonymizeMode, key, want string) {
		t.Helper()
		_, err := NewAnonymizer(AnonymizeConfig{Labels: []string{"user"}, Mode: mode, Length: 16}, []byte(key))
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) || strings.Contains(got, "secret") {
				t.Errorf("key of %d bytes: %v, want %q", len(key), err, want)
			}
		} else if want != "" {
			t.Errorf("a key of %d bytes was taken", len(key))
		}
	}
	f(ModeHMAC, testKey, "")
	f(ModeHMAC, "  secret"+strings.Repeat(" ", 100)+"\n", "a key of 6 bytes is too short")
	f(ModeHMAC, "\n", "empty")
	f(ModeTelemeter, "secret", "")
	f(ModeTelemeter, " \n", "empty")
	if a, err := NewAnonymizer(DefaultAnonymizeConfig(), nil); a != nil || err != nil {
		t.Errorf("without labels there is %v, %v", a, err)
	}
}

// Nothing of a clear value leaves: not in series, in what a source's series share, in its key, nor in exemplars, and not
// in what the wire makes of them. What relabelling drops does not leave with the source either.
func TestNothingClearLeaves(t *testing.T) {
	c := series.NewCatalog()
	seen := map[string]bool{}
	p := newPipeline(t, Options{
		Catalog: c, Anonymize: newAnonymizer(t, nil, "user", "instance"), ExternalLabels: labels.FromStrings("region", "eu"),
		Relabel: []*relabel.Config{
			rule(t, relabel.LabelDrop, func(r *relabel.Config) { r.Regex = relabel.MustNewRegexp("rack") }),
			rule(t, relabel.Replace, func(r *relabel.Config) {
				r.SourceLabels, r.Regex = model.LabelNames{"login"}, relabel.MustNewRegexp("(.+)")
				r.TargetLabel, r.Replacement = "user", "$1"
			}),
			rule(t, relabel.LabelDrop, func(r *relabel.Config) { r.Regex = relabel.MustNewRegexp("login") }),
		},
		Pseudonymized: func(label, value string) { seen[label+"="+value] = true },
	})
	source := &series.Source{Key: "scrape/node/secret-host:9100/0123", Labels: labels.FromStrings("instance", "secret-host:9100", "job", "node", "rack", "secret-rack")}
	schema := c.Extend(c.Empty(), []series.Column{
		{Labels: labels.FromStrings("__name__", "a", "user", "secret-alice"), Family: series.Family{Name: "a", Help: "Help."}},
		column("__name__", "b", "login", "secret-bob"), column("__name__", "up"),
	})
	encoder := frame.NewEncoder(frame.EncoderConfig{Epoch: 1})
	decoder := frame.NewDecoder(frame.DecoderConfig{Catalog: series.NewCatalog()})
	var text, wire []byte
	var out *series.Row
	for i := range int64(2) {
		row := &series.Row{Source: source, Schema: schema, T: 1000 * i, Values: []float64{1, 2, 3}, Exemplars: []series.ExemplarAt{{
			Column: 0, Exemplar: exemplar.Exemplar{Value: 1, Labels: labels.FromStrings("trace_id", "42", "user", "secret-carol")},
		}}}
		var frames [][]byte
		err := p.Apply(row, row.T, func(r *series.Row) (err error) {
			out = clone(r)
			frames, err = encoder.Append(frames, r, row.T)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range encoder.Close(frames, row.T) {
			wire = append(wire, f...)
			if _, err := decoder.Decode(f, frame.TextHandler(&text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text = append(text, out.Source.Key...)
	for _, b := range [][]byte{text, wire} {
		for _, clear := range []string{"secret", "9100", "0123"} {
			if bytes.Contains(b, []byte(clear)) {
				t.Errorf("%q leaves the site:\n%q", clear, b)
			}
		}
	}
	a := p.rules.anonymize
	for _, pseudonym := range []string{
		a.Pseudonym("instance", "secret-host:9100"), a.Pseudonym("user", "secret-alice"), a.Pseudonym("user", "secret-bob"),
		a.Pseudonym("user", "secret-carol"), "trace_id", "node", "Help.", "eu",
	} {
		if !bytes.Contains(text, []byte(pseudonym)) {
			t.Errorf("%q does not leave", pseudonym)
		}
	}
	for _, value := range []string{"instance=secret-host:9100", "user=secret-alice", "user=secret-bob", "user=secret-carol"} {
		if !seen[value] {
			t.Errorf("%s was not told of", value)
		}
	}
	// Two processes, and two keyframes, give the same source.
	again := newPipeline(t, Options{Catalog: c, Anonymize: newAnonymizer(t, nil, "user", "instance"), ExternalLabels: labels.FromStrings("region", "eu")})
	if got := apply(t, again, &series.Row{Source: source, Schema: schema, Values: []float64{1, 2, 3}}); got.Source.Key != out.Source.Key {
		t.Errorf("source keys are %q and %q", got.Source.Key, out.Source.Key)
	}
}

// Pseudonyms that collide are not two series with the same labels, whichever rows they come in.
func TestPseudonymsThatCollide(t *testing.T) {
	c := series.NewCatalog()
	p := newPipeline(t, Options{Catalog: c, Anonymize: newAnonymizer(t, nil, "user"), Relabel: []*relabel.Config{
		rule(t, relabel.Replace, func(r *relabel.Config) { r.TargetLabel, r.Replacement = "user", "same" }),
	}})
	source := &series.Source{Key: "s"}
	schema := c.Extend(c.Empty(), []series.Column{column("__name__", "a", "user", "1")})
	first := apply(t, p, &series.Row{Source: source, Schema: schema, Columns: []uint32{0}, Values: []float64{1}})
	schema = c.Extend(schema, []series.Column{column("__name__", "a", "user", "2"), column("__name__", "b", "user", "2")})
	second := apply(t, p, &series.Row{Source: source, Schema: schema, Columns: []uint32{1, 2}, Values: []float64{2, 3}})
	if len(first.Values) != 1 || len(second.Values) != 1 || second.Values[0] != 3 {
		t.Errorf("values %v and %v", first.Values, second.Values)
	}
	if n := p.Usage(0).Refused[Collision]; n != 1 {
		t.Errorf("%d collisions are counted, want 1", n)
	}
}

func TestRequiredLabelsAndLengths(t *testing.T) {
	p := newPipeline(t, Options{
		Always: AlwaysPass("thalweg"), RequiredLabels: map[string]string{"tenant": "a", "env": "prod"},
		ExternalLabels: labels.FromStrings("env", "prod"), Limits: Limits{Labels: 5, LabelNameLength: 8, LabelValueLength: 6},
		Anonymize: newAnonymizer(t, nil, "user"),
	})
	f := func(reason Reason, in ...string) {
		t.Helper()
		if got, why := p.Verdict(labels.FromStrings(in...)); why != reason {
			t.Errorf("%v: %q %s, want %q", in, why, got, reason)
		}
	}
	f(Pass, "__name__", "a", "tenant", "a")
	f(RequiredLabel, "__name__", "a")
	f(RequiredLabel, "__name__", "up") // nothing is excepted
	f(RequiredLabel, "__name__", "a", "tenant", "b")
	f(RequiredLabel, "__name__", "a", "tenant", "a", "env", "test")
	f(Pass, "__name__", "a", "tenant", "a", "x", "1", "y", "2")
	f(TooManyLabels, "__name__", "a", "tenant", "a", "x", "1", "y", "2", "z", "3")
	f(Pass, "__name__", "a", "tenant", "a", "eightlet", "sixlet")
	f(LongName, "__name__", "a", "tenant", "a", "ninelette", "1")
	f(LongValue, "__name__", "a", "tenant", "a", "x", "seven..")
	f(Pass, "__name__", "a", "tenant", "a", "user", "alice") // the pseudonym is longer, which is nobody's fault
	f(LongValue, "__name__", "a", "tenant", "a", "user", "alice-b")
}

func FuzzAnonymizeConfig(f *testing.F) {
	f.Add("user", "hmac", 16, "k", "p", []byte(testKey))
	f.Add("le", "telemeter", 0, "", "", []byte{})
	f.Add("instance", "hmac", 43, "k", "", bytes.Repeat([]byte{0xff}, 32))
	f.Fuzz(func(t *testing.T, label, mode string, length int, file, previous string, key []byte) {
		c := AnonymizeConfig{Labels: []string{label}, Mode: AnonymizeMode(mode), Length: length, KeyFile: file, PreviousKeyFile: previous}
		if c.Validate("anonymize.") != nil {
			return
		}
		a, err := NewAnonymizer(c, key)
		if err != nil {
			return
		}
		for _, value := range []string{label, mode, string(key), "\x00"} {
			got := a.Pseudonym(label, value)
			want := length
			switch {
			case value == "":
				want = 0
			case c.Mode == ModeTelemeter:
				want = 12
			}
			if len(got) != want || got != "" && got == value {
				t.Errorf("pseudonym %q of %q has %d characters, want %d", got, value, len(got), want)
			}
		}
	})
}
