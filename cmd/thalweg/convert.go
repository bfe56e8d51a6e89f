package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/convert"
)

func newConvertCommand() *cobra.Command {
	return group(&cobra.Command{Use: "convert", Short: "Turn configuration files of other systems into ours"}, newConvertChoriaCommand())
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
			content, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read file to convert: %w", err)
			}
			file, notes, err := convert.Choria(content, roles)
			if err != nil {
				return fmt.Errorf("convert %s: %w", args[0], err)
			}
			for _, note := range notes {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", args[0], note)
			}
			if _, err := fmt.Fprintf(c.OutOrStdout(), "# Made of %s by thalweg convert choria.\n%s", args[0], file); err != nil {
				return err
			}
			if _, err := config.Parse(file); err != nil {
				return fmt.Errorf("what was made of %s is not valid yet:\n%w", args[0], err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&role, "role", "", "what to make: edge or hub; default: what stands in the file")
	return c
}
