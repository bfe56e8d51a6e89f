package thalweg_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDeliveryDocument: each test and scenario that docs/delivery.md names exists.
func TestDeliveryDocument(t *testing.T) {
	document, err := os.ReadFile("docs/delivery.md")
	if err != nil {
		t.Fatal(err)
	}
	_, faults, found := strings.Cut(string(document), "## Tested faults")
	if !found {
		t.Fatal("the tested faults are missing")
	}
	there := testNames(t)
	named := regexp.MustCompile("`(?:Test|Benchmark)[A-Za-z]+`|[a-z_]+\\.txtar").FindAllString(faults, -1)
	for _, name := range named {
		if !there[strings.Trim(name, "`")] {
			t.Errorf("there is no %s", name)
		}
	}
	if len(named) < 50 {
		t.Errorf("only %d tests are named", len(named))
	}
}

// testNames has the names of all test functions and scenarios.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark)[A-Za-z]+)\(`)
	names := map[string]bool{}
	for _, root := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".txtar") {
				names[entry.Name()] = true
			}
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, match := range function.FindAllSubmatch(source, -1) {
				names[string(match[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
