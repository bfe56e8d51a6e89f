package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// version is set by the linker (-X main.version=1.2.3); "" in other builds. Nothing else writes it.
var version string

// build says which program this is.
func build() telemetry.Build { return telemetry.ReadBuild(version) }

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, revision and platform",
		Args:  takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			b := build()
			_, err := fmt.Fprintf(c.OutOrStdout(), "thalweg %s\nrevision %s\n%s %s/%s\n",
				b.Version, orUnknown(b.Revision), b.GoVersion, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
