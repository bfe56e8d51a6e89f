package natsmon

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// accountsOf answers pages of Jsz from a list of accounts, which may change between them.
func accountsOf(names func(page int) []string) func(server.JSzOptions) (*server.JSInfo, error) {
	page := 0
	return func(o server.JSzOptions) (*server.JSInfo, error) {
		all := names(page)
		page++
		info := &server.JSInfo{Total: len(all)}
		from := min(o.Offset, len(all))
		for _, name := range all[from:min(from+o.Limit, len(all))] {
			info.AccountDetails = append(info.AccountDetails, &server.AccountDetail{Id: name})
		}
		return info, nil
	}
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("a%04d", i)
	}
	return names
}

func TestJetStreamInPages(t *testing.T) {
	f := func(limit, want int, names func(page int) []string) {
		t.Helper()
		info, err := readJetStream(limit, accountsOf(names))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, a := range info.AccountDetails {
			if seen[a.Id] {
				t.Errorf("%s twice", a.Id)
			}
			seen[a.Id] = true
		}
		if len(seen) != want {
			t.Errorf("%d accounts, want %d", len(seen), want)
		}
	}
	for _, n := range []int{0, 1, accountsPerPage - 1, accountsPerPage, accountsPerPage + 1, 3 * accountsPerPage} {
		f(10_000, n, func(int) []string { return numbered(n) })
	}
	f(300, 300, func(int) []string { return numbered(1000) })
	// One comes before all others while pages are read: it is missed once, and nobody is there twice.
	f(10_000, 600, func(page int) []string {
		if page == 0 {
			return numbered(600)
		}
		return append([]string{"a"}, numbered(600)...)
	})
	// All but a few go away.
	f(10_000, accountsPerPage, func(page int) []string { return numbered(600)[:600-500*min(page, 1)] })
}

// TestJetStreamInPart is none: half of the streams would look as if the rest had gone.
func TestJetStreamInPart(t *testing.T) {
	refused := errors.New("connection refused")
	pages := accountsOf(func(int) []string { return numbered(600) })
	info, err := readJetStream(10_000, func(o server.JSzOptions) (*server.JSInfo, error) {
		if o.Offset > 0 {
			return nil, refused
		}
		return pages(o)
	})
	if info != nil || !errors.Is(err, refused) {
		t.Errorf("%v, %v", info, err)
	}
}
