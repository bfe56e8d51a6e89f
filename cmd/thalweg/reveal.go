package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/edge"
	"github.com/thalweg/thalweg/internal/pipeline"
)

func newRevealCommand() *cobra.Command {
	var file, dataDir, candidates string
	c := &cobra.Command{
		Use:   "reveal --config.file=FILE [PSEUDONYM...]",
		Short: "Tell which values stand behind pseudonyms, where the key is",
		Long: `Tell which label values stand behind the pseudonyms that edge.anonymize makes; all that are known, if
none is named. It needs the configuration, the key and the data directory of the edge, which keeps the
values that it has replaced. No process has to run.

Each line has the pseudonym, the label, the value, and the key it was made with: current, or previous
(previous_key_file). Values that are not kept any more can be tried with --candidates.`,
		Example: "  thalweg reveal --config.file=edge.yml x7Qm2Vb1kTz0aYp4\n  thalweg reveal --config.file=edge.yml --candidates=hosts.txt x7Qm2Vb1kTz0aYp4",
		RunE: func(c *cobra.Command, pseudonyms []string) error {
			if file == "" {
				return usage("--config.file is missing")
			}
			r, err := newRevealer(file, dataDir)
			if err != nil {
				return err
			}
			if candidates != "" {
				if err := r.try(candidates, c.InOrStdin()); err != nil {
					return err
				}
			}
			return r.reveal(c.OutOrStdout(), pseudonyms)
		},
	}
	c.Flags().StringVar(&file, "config.file", "", "configuration file of the edge")
	c.Flags().StringVar(&dataDir, "data.dir", "", "data directory of the edge; default: data_dir of the file")
	c.Flags().StringVar(&candidates, "candidates", "", "file with further values to try for every label, one a line; - is standard input")
	return c
}

// revealer has the keys of an edge, and values that may stand behind its pseudonyms.
type revealer struct {
	keys   []namedKey
	values []edge.ClearValue
}

type namedKey struct {
	name string
	*pipeline.Anonymizer
}

func newRevealer(file, dataDir string) (*revealer, error) {
	cfg, err := config.Load(file, dataDir)
	if err != nil {
		return nil, fmt.Errorf("%s is not valid:\n%w", file, err)
	}
	r := &revealer{}
	for _, k := range []struct {
		name string
		read func() (*pipeline.Anonymizer, error)
	}{{"current", cfg.Anonymizer}, {"previous", cfg.PreviousAnonymizer}} {
		a, err := k.read()
		if err != nil {
			return nil, err
		}
		if a != nil {
			r.keys = append(r.keys, namedKey{k.name, a})
		}
	}
	if len(r.keys) == 0 {
		return nil, fmt.Errorf("%s: edge.anonymize makes no pseudonyms", file)
	}
	r.values, err = edge.ReadClearValues(cfg.DataDir)
	return r, err
}

// try adds the lines of a file as values of every label.
func (r *revealer) try(file string, stdin io.Reader) error {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read candidates: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		for _, label := range r.keys[0].Labels() {
			r.values = append(r.values, edge.ClearValue{Label: label, Value: strings.TrimSuffix(lines.Text(), "\r")})
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read candidates: %w", err)
	}
	return nil
}

// reveal prints what stands behind the pseudonyms, or behind all that are known. An error names those that are not.
func (r *revealer) reveal(out io.Writer, pseudonyms []string) error {
	wanted, known := map[string]bool{}, map[string]bool{}
	for _, p := range pseudonyms {
		wanted[p] = true
	}
	w := bufio.NewWriter(out)
	for _, key := range r.keys {
		for _, v := range r.values {
			p := key.Pseudonym(v.Label, v.Value)
			line := fmt.Sprintf("%s\t%s\t%s\t%s\n", p, v.Label, v.Value, key.name)
			if p == "" || len(wanted) > 0 && !wanted[p] || known[line] {
				continue
			}
			known[line], known[p] = true, true
			w.WriteString(line)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var unknown []string
	for _, p := range pseudonyms {
		if !known[p] {
			unknown = append(unknown, p)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("of %d known values none stands behind %s", len(r.values), strings.Join(unknown, ", "))
	}
	return nil
}
