package thalweg_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDeliveryDocument: each test and scenario that docs/delivery.md names exists, in the package it is said to be in.
func TestDeliveryDocument(t *testing.T) {
	text, err := os.ReadFile("docs/delivery.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "## Tested faults")
	if !found {
		t.Fatal("the table of tested faults is missing")
	}
	named := regexp.MustCompile("(?:([a-z]+) )?`(Test[A-Za-z]+)`|scenario `([a-z_]+)`")
	pkg, count := "", 0
	for _, m := range named.FindAllStringSubmatch(table, -1) {
		count++
		if scenario := m[3]; scenario != "" {
			if _, err := os.Stat(filepath.Join("cmd/thalweg/testdata/script", scenario+".txtar")); err != nil {
				t.Errorf("scenario %s: %v", scenario, err)
			}
			continue
		}
		if m[1] != "" {
			pkg = m[1]
		}
		if !hasTest(t, pkg, m[2]) {
			t.Errorf("package %s has no test %s", pkg, m[2])
		}
	}
	if count < 20 {
		t.Errorf("the table names %d tests", count)
	}
}

func hasTest(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("internal", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "func "+name+"(t ") {
			return true
		}
	}
	return false
}
