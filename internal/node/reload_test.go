package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/thalweg/thalweg/internal/config"
)

// TestFailedReload checks that a mistake in a file beside the configuration leaves all of the old one in force.
func TestFailedReload(t *testing.T) {
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(tokens, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ams-1 secret\n")
	// So far ahead that nothing is scraped.
	const yaml = "site: ams-1\ndata_dir: %q\nglobal: {scrape_interval: 1h}\nnats: {embedded: {listen: '127.0.0.1:0', auth: {tokens_file: %q}}}\n" +
		"hub: {%s}\nedge: {scrape_configs: [{job_name: %s, static_configs: [{targets: ['127.0.0.1:1']}]}]}\n"
	file := func(job, hub string) string { return fmt.Sprintf(yaml, filepath.Join(dir, "data"), tokens, hub, job) }
	n := start(t, file("before", ""))
	reload := func(yaml string) error {
		n.options.Load = func() (*config.Config, error) { return config.Parse([]byte(yaml)) }
		return n.Reload(t.Context())
	}
	jobIs := func(want string) func() bool {
		return func() bool {
			targets := n.edge.scrape.Targets()
			return len(targets) == 1 && targets[0].Job == want
		}
	}
	await(t, "the first target", jobIs("before"))

	write("ams-1\n")
	if err := reload(file("after", "")); err == nil {
		t.Error("a tokens file with a mistake was taken")
	}
	if !jobIs("before")() || n.current().Edge.Scrape.Jobs[0].JobName != "before" {
		t.Error("a mistake in the tokens file left the edge changed")
	}
	write("ams-1 secret\n")
	if err := reload(file("after", "views: [{users: [alice], match: [up]}]")); err == nil {
		t.Error("views were taken although nobody has to log in")
	}
	if !jobIs("before")() {
		t.Error("a mistake in the views left the edge changed")
	}
	if err := reload(file("after", "")); err != nil {
		t.Error(err)
	}
	await(t, "the other target", jobIs("after"))
}
