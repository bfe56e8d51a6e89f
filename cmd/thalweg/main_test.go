package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good.yml", "site: ams-1\nedge: {scrape_configs: [{job_name: node}]}\nhub: {}\n")
	bad := write("bad.yml", "site: ams-1\nedge: {flush_intervall: 1s}\n")
	missing := write("missing.yml", "site: ams-1\nnats: {urls: ['nats://h:4222'], token_file: token}\nedge: {}\n")

	f := func(code int, stdout, stderr string, args ...string) {
		t.Helper()
		var out, err bytes.Buffer
		got := execute(args, &out, &err)
		if got != code || !strings.Contains(out.String(), stdout) || !strings.Contains(err.String(), stderr) {
			t.Errorf("%q: exit %d, want %d; stdout %q, want %q; stderr %q, want %q",
				args, got, code, out.String(), stdout, err.String(), stderr)
		}
		if (code == exitOK) != (err.Len() == 0) {
			t.Errorf("%q: exit %d with stderr %q", args, got, err.String())
		}
	}
	f(exitOK, "thalweg ", "", "--version")
	f(exitOK, "revision ", "", "version")
	f(exitOK, "Usage:", "", "--help")
	f(exitOK, "check config FILE", "", "check", "config", "--help")
	f(exitOK, "__start_thalweg", "", "completion", "bash")
	f(exitUsage, "", "name a command")
	f(exitUsage, "", `unknown command "chek", did you mean "check"?`, "chek")
	f(exitUsage, "", `unknown command "nonsense"`, "nonsense")
	f(exitUsage, "", "a:1 is given twice", "demo", "--scrape=a:1", "--scrape=a:1")
	f(exitUsage, "", "unknown flag: --nonsense", "version", "--nonsense")
	f(exitUsage, "", "accepts 1 arg(s), received 0", "check", "config")
	f(exitUsage, "", `name a command of "thalweg check"`, "check")
	f(exitUsage, "", `unknown command "confg", did you mean "config"?`, "check", "confg")
	f(exitOK, "edge: 1 scrape job", "", "check", "config", good)
	f(exitError, "", "line 2, column 8: edge.flush_intervall: unknown key, did you mean flush_interval?", "check", "config", bad)
	f(exitError, "", "nats.token_file: open "+filepath.Join(dir, "token"), "check", "config", missing)
	f(exitError, "", "no such file", "check", "config", filepath.Join(dir, "none.yml"))
}

// What check says about the examples of package config.
func TestExplain(t *testing.T) {
	f := func(file string, want ...string) {
		t.Helper()
		var out, err bytes.Buffer
		if code := execute([]string{"check", "config", file}, &out, &err); code != exitOK {
			t.Fatalf("exit %d: %s", code, err.String())
		}
		rest := out.String()
		for _, w := range want {
			_, after, found := strings.Cut(rest, w)
			if !found {
				t.Fatalf("%q is not there, or not in its place, in\n%s", w, out.String())
			}
			rest = after
		}
	}
	const examples = "../../internal/config/testdata/"
	f(examples+"minimal.yml",
		"is valid.\n", "Runs:", "site ams-1", "edge: 0 scrape jobs, and its own metrics", "hub ams-1: reads all sites",
		"NATS server on 127.0.0.1:4222, clients without a credential are admitted",
		"Off:", "edge.scrape_configs is empty", "Not as in Prometheus:", "scrape_interval is 15s", `label "site"`)
	regional := filepath.Join(t.TempDir(), "regional.yml")
	content := "{site: region, nats: {urls: ['nats://localhost:4222']}, hub: {}, edge: {nats: {urls: ['nats://central:4222']}}}"
	if err := os.WriteFile(regional, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f(regional,
		"edge sends to nats://central:4222", "from nats://localhost:4222", "embedded NATS server: an existing one is used")
}
