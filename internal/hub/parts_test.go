package hub

import (
	"slices"
	"testing"
)

func TestParts(t *testing.T) {
	f := func(in, want string, has ...uint32) {
		t.Helper()
		p, err := ParseParts(in)
		if err != nil {
			t.Fatal(err)
		}
		if p.String() != want || !slices.Equal(p.List(), has) {
			t.Errorf("%q is %q with %v, want %q with %v", in, p, p.List(), want, has)
		}
		for i := range uint32(70) {
			if p.Has(i) != slices.Contains(has, i) {
				t.Errorf("%q has %d: %v", in, i, p.Has(i))
			}
		}
	}
	f("7", "7", 7)
	f("0, 63", "0,63", 0, 63)
	f("3-5,4-6,9", "3-6,9", 3, 4, 5, 6, 9)
	f("62-63,61", "61-63", 61, 62, 63)
	if all, err := ParseParts("0-63"); err != nil || all != AllParts || all.String() != "0-63" {
		t.Errorf("all is %q, %v", all, err)
	}
	for _, bad := range []string{"", "64", "5-3", "-1", "1-", "a", "1,,2", "0-64", "1-2-3", "99999999999999999999"} {
		if p, err := ParseParts(bad); err == nil {
			t.Errorf("%q is %q", bad, p)
		}
	}
}
