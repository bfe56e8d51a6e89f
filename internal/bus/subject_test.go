package bus_test

import (
	"strings"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
)

func TestValidSite(t *testing.T) {
	for _, name := range []string{"a", "ams-1", "_", "-", "A_z-09", strings.Repeat("x", 64)} {
		if err := bus.ValidSite(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "ams.1", "a b", "*", ">", "é", "a\x00", "$SYS", "@hub", strings.Repeat("x", 65)} {
		if err := bus.ValidSite(name); err == nil || name != "" && !strings.Contains(err.Error(), "\"") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSubjects(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// Parts are in the subjects of stored messages: these numbers never change.
	for site, part := range map[string]int{"a": 44, "b": 37, "ams-1": 50} {
		if got := bus.PartOf(site); got != part {
			t.Errorf("site %q is in part %d, want %d", site, got, part)
		}
	}
	root := bus.Root("acme.metrics")
	f(root.Lane("a", bus.Live), "acme.metrics.v1.lane.44.a.live")
	f(bus.DefaultRoot.Lane("b", bus.Backfill), "thalweg.v1.lane.37.b.backfill")
	f(root.AllLanes(), "acme.metrics.v1.lane.>")
	f(root.LanesOfPart(7, bus.Live), "acme.metrics.v1.lane.7.*.live")
	f(root.Hello("a"), "acme.metrics.v1.hello.a")
	f(root.Hellos(), "acme.metrics.v1.hello.*")
	f(root.Events("a"), "acme.metrics.v1.events.a")
	f(root.Controls("a"), "acme.metrics.v1.ctl.a.*")
	f(bus.InboxPrefix("a"), "_INBOX_a")
	f(bus.DirectGetSubject("", "S", "x.y"), "$JS.API.DIRECT.GET.S.x.y")
	f(bus.DirectGetSubject("hub", "S", "x.y"), "$JS.hub.API.DIRECT.GET.S.x.y")
	if one, two := root.NewControl("a"), root.NewControl("a"); one == two {
		t.Errorf("two control subjects are %q", one)
	}
}

func TestParseLaneRefuses(t *testing.T) {
	for _, subject := range []string{
		"", "thalweg.v1.lane.", "thalweg.v1.lane.44.a", "thalweg.v1.lane.44.a.live.x", "thalweg.v1.lane.44.a.dead",
		"thalweg.v1.lane.37.a.live", "thalweg.v1.lane.044.a.live", "thalweg.v1.lane.-20.a.live", "thalweg.v1.lane.44.*.live",
		"thalweg.v2.lane.44.a.live", "other.v1.lane.44.a.live", "thalweg.v1.hello.a",
	} {
		if site, lane, err := bus.DefaultRoot.ParseLane(subject); err == nil || !strings.Contains(err.Error(), "\""+subject+"\"") {
			t.Errorf("%q is lane %q of site %q, %v", subject, lane, site, err)
		}
	}
	for _, subject := range []string{"thalweg.v1.ctl.a", "thalweg.v1.ctl.a.", "thalweg.v1.ctl.a.b.c", "thalweg.v1.ctl.*.x", "thalweg.v1.ctl.a.>"} {
		if site, err := bus.DefaultRoot.ParseControl(subject); err == nil {
			t.Errorf("%q is a control subject of %q", subject, site)
		}
	}
	for _, subject := range []string{"thalweg.v1.hello.", "thalweg.v1.hello.a.b", "thalweg.v1.hello.*"} {
		if site, err := bus.DefaultRoot.ParseHello(subject); err == nil {
			t.Errorf("%q is a hello of %q", subject, site)
		}
	}
}

// FuzzParseLane: what is accepted is what Lane makes.
func FuzzParseLane(f *testing.F) {
	f.Add("thalweg.v1.lane.44.a.live")
	f.Add("thalweg.v1.lane.37.b.backfill")
	f.Fuzz(func(t *testing.T, subject string) {
		site, lane, err := bus.DefaultRoot.ParseLane(subject)
		if err == nil && bus.DefaultRoot.Lane(site, lane) != subject {
			t.Errorf("%q is lane %q of site %q", subject, lane, site)
		}
	})
}

func TestPositionText(t *testing.T) {
	p := bus.Position{Created: time.Unix(1732176000, 123).UTC(), Sequence: 42, Checksum: 0xe3069283}
	const text = "1732176000000000123-42-e3069283"
	if p.String() != text {
		t.Errorf("position is %q", p)
	}
	b, err := p.MarshalText()
	var back bus.Position
	if err != nil || back.UnmarshalText(b) != nil || back != p {
		t.Errorf("%+v is read back as %+v", p, back)
	}
	if back, err := bus.ParsePosition(""); err != nil || !back.IsZero() {
		t.Errorf("no position is read as %+v, %v", back, err)
	}
	for _, s := range []string{
		"x", "1-2", "1-2-3", "1-2-0000000g", "1--2-00000000", "01-2-00000003", "1-2-000000003", "1-0-00000000",
		"1-18446744073709551616-00000000", "99999999999999999999-1-00000000", " 1-2-00000003", "1-2-0000000A",
	} {
		if back, err := bus.ParsePosition(s); err == nil || !strings.Contains(err.Error(), "\""+s+"\"") {
			t.Errorf("%q is read as %+v, %v", s, back, err)
		}
	}
}

// FuzzParsePosition: one position has one text.
func FuzzParsePosition(f *testing.F) {
	f.Add("1732176000000000123-42-e3069283")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := bus.ParsePosition(s); err == nil && p.String() != s {
			t.Errorf("%q is read as %q", s, p)
		}
	})
}
