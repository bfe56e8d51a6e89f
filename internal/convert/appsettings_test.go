package convert_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/convert"
)

// TestAppsettings converts testdata/NAME.appsettings.json, and compares the result and the notes with NAME.yml and
// NAME.notes.
func TestAppsettings(t *testing.T) {
	f := func(name, invalid string) {
		t.Helper()
		content, err := os.ReadFile(filepath.Join("testdata", name+".appsettings.json"))
		if err != nil {
			t.Fatal(err)
		}
		file, notes, err := convert.Appsettings(content)
		if err != nil {
			t.Fatal(err)
		}
		var told strings.Builder
		for _, note := range notes {
			told.WriteString(note.String() + "\n")
		}
		golden(t, name+".yml", string(file))
		golden(t, name+".notes", told.String())
		file = append([]byte("site: x\n"), file...) // the machine's name need not be one
		if _, err := config.Parse(file); (err != nil) != (invalid != "") || err != nil && !strings.Contains(err.Error(), invalid) {
			t.Errorf("%s: error %v, want %q", name, err, invalid)
		}
	}
	f("plain", "")
	f("odd", "")
	f("wrong", "option tunnel of StackExchange.Redis is not there")
}

func TestAppsettingsRefuses(t *testing.T) {
	f := func(content, want string) {
		t.Helper()
		_, _, err := convert.Appsettings([]byte(content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", content, err, want)
		}
	}
	f("", "this is no JSON object")
	f("[]", "this is no JSON object")
	f(`{"a`, "read JSON: ")
	f("/* {}", "this is no JSON object")
}

// Whatever stands in a file, there is an answer.
func FuzzAppsettings(f *testing.F) {
	files, err := filepath.Glob("testdata/*.appsettings.json")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file, _, err := convert.Appsettings(content)
		if err == nil && len(file) == 0 {
			t.Error("nothing is made")
		}
	})
}
