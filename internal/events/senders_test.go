package events

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSenders runs the senders of docs/events.md.
func TestSenders(t *testing.T) {
	document, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(document), "\n## Senders\n")
	s := startRedis(t)
	r := runGateway(t, t.TempDir(), s.addr(), nil)
	programs := map[string][]string{"python": {"python3"}, "php": {"php"}, "js": {"node"}, "go": {"go", "run"}, "bash": {"bash"}}
	optional := map[string]bool{"php": true, "js": true} // they need not be there where the tests are
	sent := 0.0
	for _, block := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(section, -1) {
		run := programs[block[1]]
		delete(programs, block[1])
		if run == nil {
			t.Errorf("nobody runs %s", block[1])
			continue
		}
		if _, err := exec.LookPath(run[0]); err != nil && optional[block[1]] {
			t.Logf("%s is not run: %v", block[1], err)
			continue
		}
		name := filepath.Join(t.TempDir(), "sender."+block[1])
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
	for language := range programs {
		t.Errorf("docs/events.md has no sender in %s", language)
	}
}
