package events

import (
	"context"
	"reflect"
	"slices"
	"testing"
)

func TestQueue(t *testing.T) {
	s := startRedis(t)
	c := DefaultRedisConfig()
	c.Address, c.Database = "127.0.0.1:1,"+s.addr(), 3
	open := func() *Queue {
		t.Helper()
		q, err := OpenQueue(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.Close() })
		return q
	}
	ctx, stop := context.WithCancel(t.Context())
	shown, watched := make(chan string, 100), make(chan error, 1)
	watcher := open()
	go func() {
		_, err := watcher.Watch(ctx, func(payload string) { shown <- payload })
		watched <- err
	}()
	q := open()
	until(t, func() string { // until it watches
		if _, err := q.Push("first"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-shown:
			return ""
		default:
			return "nothing is shown"
		}
	})
	payloads := []string{"{\"name\":\"a\"}", "\x00\xff\t\r\n\"\\ \a\bä", ""}
	waiting, err := q.Push(payloads...)
	if err != nil || waiting < 4 {
		t.Errorf("%d wait, %v", waiting, err)
	}
	var got []string
	for len(got) < len(payloads) {
		if p := <-shown; p != "first" {
			got = append(got, p)
		}
	}
	if !slices.Equal(got, payloads) {
		t.Errorf("shown %q, want %q", got, payloads)
	}
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

func TestQueueOfOthers(t *testing.T) {
	q := Queue{key: "q", database: 1}
	f := func(line string, want ...string) {
		t.Helper()
		if got := q.pushed(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	f("+1.5 [1 127.0.0.1:5] \"lpush\" \"q\" \"a\" \"b\"\r\n", "a", "b")
	f("+1.5 [1 lua] \"RPUSH\" \"q\" \"a\\x00\"\r\n", "a\x00")
	f("+1.5 [1 unix:/a b] \"LPUSH\" \"q\" \"a\"\r\n", "a")
	f("+1.5 [2 127.0.0.1:5] \"lpush\" \"q\" \"a\"\r\n")
	f("+1.5 [1 127.0.0.1:5] \"lpush\" \"p\" \"a\"\r\n")
	f("+1.5 [1 127.0.0.1:5] \"rpop\" \"q\" \"5\"\r\n")
	f("+OK\r\n")
	f("")
}

func TestCheck(t *testing.T) {
	f := func(payload string, want ...Reason) {
		t.Helper()
		if got := Check([]byte(payload)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
	f(`{"name":"a"}`, Taken)
	f(`[{"name":"a"},{"name":"a b"},{}]`, Taken, BadName, BadName)
	f(`{"name":`, Malformed)
}
