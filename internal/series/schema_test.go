package series

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

func columns(names ...string) []Column {
	var cs []Column
	for _, n := range names {
		cs = append(cs, Synthetic(n, "help of "+n))
	}
	return cs
}

func namesOf(s *Schema) string {
	text := ""
	for i := range s.Columns() {
		text += s.Column(i).Labels.Get(model.MetricNameLabel) + " "
	}
	return text
}

func TestExtendShares(t *testing.T) {
	c := NewCatalog()
	given := columns("a", "b")
	ab := c.Extend(c.Empty(), given)
	given[0] = Synthetic("overwritten", "") // the caller may
	if got := namesOf(ab); got != "a b " {
		t.Errorf("columns are %s", got)
	}
	if c.Extend(c.Empty(), columns("a", "b")) != ab {
		t.Error("equal schemas are two")
	}
	if c.Extend(ab, nil) != ab {
		t.Error("growth by nothing is another schema")
	}
	a := c.Extend(c.Empty(), columns("a"))
	if c.Extend(a, columns("b")) == ab {
		t.Error("schemas with different chains are one")
	}
	if c.Extend(c.Empty(), columns("b", "a")) == ab {
		t.Error("the order of columns does not count")
	}
	for name, change := range map[string]func(*Column){
		"labels": func(c *Column) { c.Labels = labels.FromStrings(model.MetricNameLabel, "b", "x", "") },
		"kind":   func(c *Column) { c.Kind = Histogram },
		"name":   func(c *Column) { c.Family.Name = "other" },
		"type":   func(c *Column) { c.Family.Type = "counter" },
		"help":   func(c *Column) { c.Family.Help = "other" },
		"unit":   func(c *Column) { c.Family.Unit = "seconds" },
	} {
		other := columns("a", "b")
		change(&other[1])
		if c.Extend(c.Empty(), other) == ab {
			t.Errorf("the %s of a column does not count", name)
		}
	}
	runtime.KeepAlive(ab)
}

func TestFork(t *testing.T) {
	c := NewCatalog()
	ab := c.Extend(c.Empty(), columns("a", "b"))
	grown := c.Extend(ab, columns("c"))
	forked := c.Extend(ab, columns("d", "e"))
	again := c.Extend(grown, columns("f"))
	for s, want := range map[*Schema]string{ab: "a b ", grown: "a b c ", forked: "a b d e ", again: "a b c f "} {
		if got := namesOf(s); got != want {
			t.Errorf("columns are %s, want %s", got, want)
		}
	}
	if grown.Parent() != ab || ab.Parent() != c.Empty() || c.Empty().Parent() != nil {
		t.Error("parents are others")
	}
	f := func(s, old *Schema, want bool) {
		t.Helper()
		if got := s.Extends(old); got != want {
			t.Errorf("%s extends %s: %t", namesOf(s), namesOf(old), got)
		}
	}
	f(ab, ab, true)
	f(again, ab, true)
	f(again, grown, true)
	f(again, c.Empty(), true)
	f(forked, ab, true)
	f(forked, grown, false)
	f(ab, again, false)
	f(c.Empty(), ab, false)
	f(c.Extend(c.Empty(), columns("a", "b", "c")), ab, false)
}

// A schema that grows again and again has its columns in memory once, whoever holds the shorter ones.
func TestGrownSchemasShareMemory(t *testing.T) {
	c := NewCatalog()
	chain := []*Schema{c.Extend(c.Empty(), columns("m0"))}
	for i := range 1000 {
		chain = append(chain, c.Extend(chain[i], columns(fmt.Sprint("m", i+1))))
	}
	longest := chain[len(chain)-1]
	for i, s := range chain {
		if s.Len() != i+1 || s.Column(i) != longest.Column(i) {
			t.Fatalf("the schema of %d columns has memory of its own", s.Len())
		}
	}
	forked := c.Extend(chain[10], columns("other"))
	if forked.Column(0) == longest.Column(0) || forked.Column(11).Labels.Get("__name__") != "other" || longest.Column(11).Labels.Get("__name__") != "m11" {
		t.Error("two schemas have grown into one memory")
	}
}

func TestFloatsOnly(t *testing.T) {
	c := NewCatalog()
	a := c.Extend(c.Empty(), columns("a"))
	h := c.Extend(a, []Column{{Kind: GaugeHistogram}})
	if !c.Empty().FloatsOnly() || !a.FloatsOnly() || h.FloatsOnly() || c.Extend(h, columns("b")).FloatsOnly() {
		t.Error("a schema says the wrong thing of its columns")
	}
}

// collect runs the collector until a catalog has forgotten enough.
func collect(t *testing.T, c *Catalog, want int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); c.Schemas() != want; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("the catalog has %d schemas, want %d", c.Schemas(), want)
		}
	}
}

func TestCatalogForgets(t *testing.T) {
	c := NewCatalog()
	kept := c.Extend(c.Empty(), columns("a"))
	for i := range 100 {
		c.Extend(c.Extend(kept, columns("b")), columns(fmt.Sprint("c", i)))
	}
	collect(t, c, 1)
	if c.Extend(c.Empty(), columns("a")) != kept {
		t.Error("what is held was forgotten")
	}
	// A schema that comes back while or after its predecessor is collected is known again.
	for range 100 {
		s := c.Extend(kept, columns("b"))
		runtime.GC()
		if c.Extend(kept, columns("b")) != s {
			t.Fatal("what is held was forgotten")
		}
		if got := namesOf(s); got != "a b " {
			t.Fatalf("columns are %s", got)
		}
		runtime.KeepAlive(s)
	}
	collect(t, c, 1)
	child := c.Extend(kept, columns("b"))
	kept = nil
	runtime.GC()
	collect(t, c, 2) // a child holds its parent
	runtime.KeepAlive(child)
}

// TestCatalogConcurrent lets goroutines grow the same and different schemas while the collector runs; it is for the
// race detector, too.
func TestCatalogConcurrent(t *testing.T) {
	c := NewCatalog()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				s := c.Empty()
				want := ""
				for j := range 10 {
					n := fmt.Sprint("m", j, "_", (i+g)%3)
					want += n + " "
					s = c.Extend(s, columns(n))
				}
				if got := namesOf(s); got != want {
					t.Errorf("columns are %s, want %s", got, want)
				}
				if i%50 == 0 {
					runtime.GC()
				}
			}
		})
	}
	wg.Wait()
	collect(t, c, 0)
}
