package events

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSenders runs the senders of docs/events.md whose languages are there wherever the tests are.
func TestSenders(t *testing.T) {
	document, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(document), "\n## Senders\n")
	s := startRedis(t)
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	sent := 0.0
	for _, block := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(section, -1) {
		run, extension := map[string][]string{"python": {"python3"}, "bash": {"bash"}, "go": {"go", "run"}}[block[1]], ""
		if run == nil {
			continue
		}
		if block[1] == "go" {
			extension = ".go"
		}
		name := filepath.Join(t.TempDir(), "sender"+extension)
		program := strings.ReplaceAll(block[2], "6379", s.port)
		if err := os.WriteFile(name, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(run[0], append(run[1:], name)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", block[1], err, out)
			continue
		}
		sent++
		r.waitFor("jobs_total", sent)
	}
	if sent != 3 {
		t.Errorf("%g senders ran", sent)
	}
}
