package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/convert"
)

func newConvertCommand() *cobra.Command {
	return group(&cobra.Command{Use: "convert", Short: "Turn configuration files of other systems into ours"}, newConvertChoriaCommand(), newConvertAppsettingsCommand())
}

func newConvertChoriaCommand() *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "choria FILE",
		Short: "Convert a file of choria prometheus-streams",
		Long: `Convert a file of choria prometheus-streams: what its poller reads becomes an edge, what its receiver
reads a hub. The configuration is printed to standard output. What was not carried over as it stood
there is named on standard error, line by line, with what to do instead.`,
		Example: "  thalweg convert choria prometheus-streams.yaml > thalweg.yml\n  thalweg convert choria --role=edge prometheus-streams.yaml > edge.yml",
		Args:    takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			roles := convert.Roles(role)
			switch roles {
			case convert.AllRoles, convert.EdgeRole, convert.HubRole:
			default:
				return usage("--role is %q, not edge or hub", role)
			}
			return convertFile(c, args[0], func(content []byte) ([]byte, []convert.Note, error) { return convert.Choria(content, roles) })
		},
	}
	c.Flags().StringVar(&role, "role", "", "what to make: edge or hub; default: what stands in the file")
	return c
}

func newConvertAppsettingsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "appsettings FILE",
		Short: "Convert an appsettings.json of prom-stream-gateway",
		Long: `Convert an appsettings.json of prom-stream-gateway to a section gateway. The configuration is printed to
standard output. What was not carried over as it stood there is named on standard error, line by line.
Environment variables such as Redis__ConnectionString need no conversion: thalweg gateway knows them.`,
		Example: "  thalweg convert appsettings appsettings.json > thalweg.yml",
		Args:    takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return convertFile(c, args[0], convert.Appsettings)
		},
	}
}

// convertFile prints what is made of a file, the notes, and what is wrong with it.
func convertFile(c *cobra.Command, name string, to func(content []byte) ([]byte, []convert.Note, error)) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read file to convert: %w", err)
	}
	file, notes, err := to(content)
	if err != nil {
		return fmt.Errorf("convert %s: %w", name, err)
	}
	for _, note := range notes {
		fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", name, note)
	}
	if _, err := fmt.Fprintf(c.OutOrStdout(), "# Made of %s by %s.\n%s", name, c.CommandPath(), file); err != nil {
		return err
	}
	if _, err := config.Parse(file); err != nil {
		return fmt.Errorf("what was made of %s is not valid yet:\n%w", name, err)
	}
	return nil
}
