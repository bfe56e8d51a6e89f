package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/natsd"
	"github.com/thalweg/thalweg/internal/series"
)

// encode makes frames of one row of series up each, with a keyframe where its number stands in keys.
func encode(t *testing.T, epoch frame.Epoch, before frame.Predecessor, n int, keys ...int) (frames [][]byte) {
	t.Helper()
	catalog := series.NewCatalog()
	schema := catalog.Extend(catalog.Empty(), []series.Column{series.Synthetic("up", "Is it up.")})
	source := &series.Source{Key: "scrape/a", Labels: labels.FromStrings("job", "a")}
	enc := frame.NewEncoder(frame.EncoderConfig{Epoch: epoch, Predecessor: before})
	for i := 1; i <= n; i++ {
		if slices.Contains(keys, i) {
			enc.RequestKeyframe()
		}
		var err error
		if frames, err = enc.Append(frames, &series.Row{Source: source, Schema: schema, T: int64(i) * 1000, Values: []float64{float64(i)}}, 0); err != nil {
			t.Fatal(err)
		}
		frames = enc.Close(frames, 1_800_000_000_000+int64(i)*1000)
	}
	return frames
}

func cat(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// outboxDir writes files in the way of an outbox.
func outboxDir(t *testing.T, files ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	for i, b := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%012d-x-y.frames", i+1)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// command runs a command line and returns what it prints.
func command(t *testing.T, wantCode int, args ...string) string {
	t.Helper()
	var out, err bytes.Buffer
	if code := execute(args, &out, &err); code != wantCode {
		t.Errorf("%q: exit %d, want %d\n%s%s", args, code, wantCode, out.String(), err.String())
	}
	return out.String()
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("it lacks %q:\n%s", w, text)
		}
	}
}

func TestVerify(t *testing.T) {
	f := encode(t, 1, frame.Predecessor{}, 6, 4)
	next := encode(t, 2, frame.Predecessor{ID: frame.ID{Epoch: 1, Number: 6}, Rows: 6}, 2)
	damaged := slices.Clone(f[1])
	damaged[len(damaged)-1] ^= 1
	lying := bytes.Clone(f[2])
	h, err := frame.Verify(lying)
	if err != nil {
		t.Fatal(err)
	}
	h.RowsBefore = 77
	lying = frame.Seal(nil, h, lying[frame.HeaderSize:])

	verify := func(code int, dir string, want ...string) {
		t.Helper()
		contains(t, command(t, code, "verify", dir), want...)
	}
	verify(exitOK, outboxDir(t, cat(f[:3]...), cat(f[3:]...), cat(next...)), "8 frames (3 keyframes, 0 repeated, 0 not decoded for want of a keyframe), 8 rows", "0 gaps; 0 faults")
	verify(exitOK, outboxDir(t, cat(f[1:3]...), cat(f[3:]...)), "5 frames (1 keyframes, 0 repeated, 2 not decoded", "0 faults")
	verify(exitOK, outboxDir(t, cat(f[:2]...), cat(f[3:]...), cat(next...)), "frames 0000000000000001/3 to 3 are not here, 1 rows: no loss notice names them", "1 gaps; 0 faults")
	verify(exitOK, outboxDir(t, cat(f[:5]...), cat(next...)), "frames 0000000000000001/6 to 6 are not here, 1 rows", "0 faults")
	verify(exitOK, outboxDir(t, cat(f[:3]...), cat(f[:3]...)), "6 frames (2 keyframes, 3 repeated", "3 rows", "0 faults")

	whole := cat(f[:3]...)
	torn := whole[:len(whole)-1]
	at := len(cat(f[:2]...))
	verify(exitOK, outboxDir(t, torn), fmt.Sprintf("000000000001-x-y.frames:%d: torn tail, not a fault", at), "2 frames", "0 faults")
	verify(exitError, outboxDir(t, torn, cat(f[3:]...)), fmt.Sprintf("000000000001-x-y.frames:%d: parse frame header", at), "cut short", "1 faults")
	verify(exitError, outboxDir(t, append(slices.Clone(whole), make([]byte, 100)...)), fmt.Sprintf(":%d: parse frame header: magic", len(whole)), "1 faults")
	verify(exitError, outboxDir(t, cat(f[0], damaged, f[2], f[3])), fmt.Sprintf(":%d: verify frame 0000000000000001/2: frame checksum does not match", len(f[0])),
		"1 not decoded", "1 faults")
	verify(exitError, outboxDir(t, cat(f[0], f[1], lying)), "counts 77 rows before it, up to frame 2 there are 2", "1 faults")
	verify(exitError, outboxDir(t, cat(f[0], f[2])), "it applies to frame 2, this state is after 0000000000000001/1", "1 faults")

	command(t, exitUsage, "verify")
	command(t, exitError, "verify", filepath.Join(t.TempDir(), "none"))
	command(t, exitError, "verify", t.TempDir())
}

func TestDump(t *testing.T) {
	f := encode(t, 1, frame.Predecessor{ID: frame.ID{Epoch: 9, Number: 3}, Rows: 5}, 2)
	dir := outboxDir(t, cat(f...))
	lines := strings.Split(command(t, exitOK, "dump", dir), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	contains(t, lines[0], ".frames:0 keyframe 0000000000000001/1 predecessor=0000000000000009/3 version=2 rows=1 before=0 sent=2027-01-15T08:00:01.000Z size=",
		"blocks=origin*1:1,source*1:", "schema*1:", "row*1:")
	contains(t, lines[1], fmt.Sprintf(".frames:%d delta 0000000000000001/2 base=1 version=2 rows=1 before=1", len(f[0])), "blocks=row*1:")

	contains(t, command(t, exitOK, "dump", "--rows", dir), `row whole key="scrape/a" t=2000`, `  0 float {"__name__"="up"} family="up" type="gauge" help="Is it up." unit="" = 2`)

	var second dumpedFrame
	out := command(t, exitOK, "dump", "--rows", "--json", dir)
	if err := json.Unmarshal([]byte(strings.Split(out, "\n")[1]), &second); err != nil {
		t.Fatal(err)
	}
	if second.Kind != "delta" || second.Number != 2 || second.Base != 1 || second.Size != len(f[1]) || len(second.Content) != 2 {
		t.Errorf("got %+v", second)
	}

	contains(t, command(t, exitOK, "dump", outboxDir(t, f[1])), "delta 0000000000000001/2", `error="decode frame 0000000000000001/2: it applies to frame 1 and no keyframe came before"`)
	contains(t, command(t, exitOK, "dump", outboxDir(t, f[0][:100])), "keyframe 0000000000000001/1", "cut short")
	contains(t, command(t, exitOK, "dump", outboxDir(t, []byte("nonsense"))), ".frames:0 error=", "cut short")
}

// TestStreamFrames looks into the lanes of a site at a real server.
func TestStreamFrames(t *testing.T) {
	server := bustest.NewServer(t)
	conn, err := bus.Connect(bus.Options{Config: bustest.Config(server.URL()), Name: "test", Logger: bustest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bustest.WaitFor(t, "the connection", func() bool { return conn.State().Connected })
	bustest.WaitFor(t, "the stream", func() bool { _, err := conn.EnsureStream(t.Context()); return err == nil })
	f := encode(t, 1, frame.Predecessor{}, 6, 3, 6)
	publish := func(lane bus.Lane, expect uint64, payload []byte) uint64 {
		t.Helper()
		sequence, err := conn.Publish(t.Context(), conn.Root().Lane("ams-1", lane), payload, expect)
		if err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	last := publish(bus.Live, 0, f[0])
	last = publish(bus.Live, last, f[1])
	publish(bus.Live, last, f[5])
	publish(bus.Backfill, 0, cat(f[2:4]...))

	address := server.URL() + "#ams-1"
	both := command(t, exitOK, "verify", address)
	contains(t, both, "frames 0000000000000001/5 to 5 are not here, 1 rows", "5 frames (3 keyframes", "1 gaps; 0 faults")
	dumped := command(t, exitOK, "dump", address+"/backfill")
	if !regexp.MustCompile(`^thalweg\.v1\.lane\.\d+\.ams-1\.backfill#4:0 keyframe 0000000000000001/3 .*\n.*#4:\d+ delta 0000000000000001/4 .*\n$`).MatchString(dumped) {
		t.Errorf("got %s", dumped)
	}
	if out := command(t, exitOK, "dump", server.URL()+"#nowhere"); out != "" {
		t.Errorf("got %s", out)
	}
	command(t, exitUsage, "dump", address+"/sideways")
	command(t, exitUsage, "dump", server.URL())
}

// TestStreamThatCannotBeRead says why instead of trying for ever.
func TestStreamThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tokens := write("tokens", "ams-1 site-token\n@hub hub-token\n")
	server := bustest.NewServer(t, func(o *natsd.Options) { o.Config.Auth.TokensFile = tokens })
	f := func(token, want string) {
		t.Helper()
		file := write("run.yml", fmt.Sprintf("site: any\nnats: {urls: [%q], token_file: %q}\nedge: {}\n", server.URL(), write("token", token)))
		var out, err bytes.Buffer
		if code := execute([]string{"verify", "--config.file", file, server.URL() + "#ams-1"}, &out, &err); code != exitError {
			t.Errorf("exit %d, want %d", code, exitError)
		}
		contains(t, err.String(), want)
	}
	f("hub-token", "stream does not exist")
	f("site-token", "permission denied")
	f("another", "server refused the credential (token_file")
}
