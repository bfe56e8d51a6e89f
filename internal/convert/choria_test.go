package convert_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/convert"
)

var update = flag.Bool("update", false, "write what is made to testdata")

// TestChoria converts testdata/NAME.choria.yaml, and compares the result and the notes with NAME.yml and NAME.notes.
func TestChoria(t *testing.T) {
	for name, roles := range map[string]convert.Roles{
		"poller": convert.AllRoles, "receiver": convert.AllRoles, "both": convert.AllRoles, "bare": convert.AllRoles, "puppet": convert.AllRoles,
		"both-edge": convert.EdgeRole, "both-hub": convert.HubRole,
	} {
		t.Run(name, func(t *testing.T) {
			from, _, _ := strings.Cut(name, "-")
			content, err := os.ReadFile(filepath.Join("testdata", from+".choria.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			file, notes, err := convert.Choria(content, roles)
			if err != nil {
				t.Fatal(err)
			}
			var told strings.Builder
			for _, note := range notes {
				told.WriteString(note.String() + "\n")
			}
			golden(t, name+".yml", string(file))
			if from == "bare" {
				file = append([]byte("site: x\n"), file...) // the machine's name need not be one
			}
			if _, err := config.Parse(file); err != nil {
				t.Error(err)
			}
			golden(t, name+".notes", told.String())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
	for _, secret := range []string{"pa55", "s3cret"} {
		if strings.HasSuffix(name, ".notes") && strings.Contains(got, secret) {
			t.Errorf("%s has a secret in it", name)
		}
	}
}

func TestChoriaRefuses(t *testing.T) {
	f := func(content string, roles convert.Roles, want string) {
		t.Helper()
		_, _, err := convert.Choria([]byte(content), roles)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", content, err, want)
		}
	}
	f("", convert.AllRoles, "no file of keys and values")
	f("- a", convert.AllRoles, "no file of keys and values")
	f("a: [", convert.AllRoles, "read YAML: ")
	f("scrape_interval: 30s", convert.AllRoles, "nothing in it makes an edge")
	f("jobs: {}", convert.HubRole, "nothing in it makes an edge")
	f("push_gateway: {}", convert.EdgeRole, "nothing in it makes an edge")
}

// Whatever stands in a file, there is an answer.
func FuzzChoria(f *testing.F) {
	files, err := filepath.Glob("testdata/*.choria.yaml")
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
		file, _, err := convert.Choria(content, convert.AllRoles)
		if err == nil && len(file) == 0 {
			t.Error("nothing is made")
		}
	})
}
