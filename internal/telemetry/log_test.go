package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func open(t *testing.T, o LogOptions) *Log {
	t.Helper()
	l, err := OpenLog(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLogFormats(t *testing.T) {
	var b bytes.Buffer
	open(t, LogOptions{Output: &b}).Info("edge started", "site", "ams-1")
	if got := b.String(); !strings.HasPrefix(got, "time=2") || !strings.HasSuffix(got, "Z level=INFO msg=\"edge started\" site=ams-1\n") {
		t.Errorf("logfmt line is %q", got)
	}
	b.Reset()
	open(t, LogOptions{Output: &b, Format: "json"}).Info("edge started", "site", "ams-1")
	var line map[string]string
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["msg"] != "edge started" || line["site"] != "ams-1" {
		t.Errorf("JSON line is %q: %v", b.String(), err)
	}
}

func TestLogLevel(t *testing.T) {
	var b bytes.Buffer
	l := open(t, LogOptions{Output: &b, Level: "warn"})
	l.Info("a")
	if err := l.SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	l.Debug("b")
	if got := b.String(); strings.Contains(got, "msg=a") || !strings.Contains(got, "msg=b") {
		t.Errorf("logged %q", got)
	}
	if err := l.SetLevel("loud"); err == nil || !l.Enabled(t.Context(), slog.LevelDebug) {
		t.Errorf("error %v, debug lines are logged: %t", err, l.Enabled(t.Context(), slog.LevelDebug))
	}
}

func TestLogOptionsThatAreWrong(t *testing.T) {
	for _, o := range []LogOptions{{Level: "loud"}, {Format: "xml"}, {File: t.TempDir() + "/no/such/directory"}} {
		if _, err := OpenLog(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestLogFileIsReopened(t *testing.T) {
	dir := t.TempDir()
	file, rotated := filepath.Join(dir, "log"), filepath.Join(dir, "log.1")
	l := open(t, LogOptions{File: file})
	l.Info("first")
	if err := os.Rename(file, rotated); err != nil {
		t.Fatal(err)
	}
	l.Info("second")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Info("third")
	for name, want := range map[string][]string{rotated: {"first", "second"}, file: {"third"}} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(b), "\n") != len(want) || !strings.Contains(string(b), want[len(want)-1]) {
			t.Errorf("%s holds %q, want %v", name, b, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("a directory was opened as a log")
	}
	l.Info("fourth") // goes on in the old file instead of being an error
}

func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		r := NewRepeats(slog.New(slog.NewTextHandler(&b, nil)), time.Minute)
		lines := func(want int) {
			t.Helper()
			if got := strings.Count(b.String(), "\n"); got != want {
				t.Fatalf("%d lines, want %d: %s", got, want, b.String())
			}
		}
		for range 10 {
			r.Log(slog.LevelWarn, "a/timeout", "scrape failed", slog.String("target", "a"))
		}
		lines(1)
		r.Log(slog.LevelWarn, "b/timeout", "scrape failed", slog.String("target", "b"))
		lines(2)
		time.Sleep(time.Minute)
		r.Log(slog.LevelWarn, "a/timeout", "scrape failed", slog.String("target", "a"))
		lines(3)
		if !strings.HasSuffix(b.String(), "target=a suppressed=9\n") {
			t.Errorf("last line of %s", b.String())
		}
		r.Forget("a/timeout")
		r.Log(slog.LevelWarn, "a/timeout", "scrape failed", slog.String("target", "a"))
		lines(4)
	})
}

func TestRepeatsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRepeats(slog.New(slog.DiscardHandler), time.Minute)
		admitted := 0
		for i := range 2 * maxRepeats {
			if _, ok := r.admit(fmt.Sprint(i)); ok {
				admitted++
			}
		}
		if admitted != maxRepeats+1 || len(r.keys) != maxRepeats {
			t.Errorf("%d lines, %d keys", admitted, len(r.keys))
		}
		time.Sleep(time.Minute)
		if _, ok := r.admit("new"); !ok || len(r.keys) != 1 {
			t.Errorf("after a minute: admitted %v, %d keys", ok, len(r.keys))
		}
	})
}
