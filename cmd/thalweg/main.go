// Command thalweg carries Prometheus metrics from isolated sites to central hubs over NATS JetStream.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/telemetry"
)

// Exit codes.
const (
	exitOK    = 0 // also after a clean drain on SIGTERM or SIGINT
	exitError = 1
	exitUsage = 2 // the command line is wrong
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// execute runs the command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "thalweg: %v\n", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(stderr, "See '%s --help'.\n", command.CommandPath())
		return exitUsage
	}
	return exitError
}

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usage returns an error that ends the program with exitUsage.
func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// takes makes the mistakes that a cobra check of positional arguments finds usage errors.
func takes(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "thalweg",
		Short: "Prometheus federation over NATS JetStream",
		Long: `Thalweg carries Prometheus metrics from many isolated sites (edges) to a few central
hubs over NATS JetStream, and serves them there at /federate.

Try it:  thalweg demo`,
		Version:       build().Version,
		SilenceErrors: true, // execute prints them
		SilenceUsage:  true,
		// How far a word may be from a command's name to be taken for it.
		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			c.SetOut(c.ErrOrStderr())
			if err := c.Help(); err != nil {
				return err
			}
			return usage("name a command")
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newDemoCommand(), newRunCommand(), newGatewayCommand(), newNATSExporterCommand(), newCheckCommand(), newSiteCommand(), newEnrolCommand(), newDumpCommand(), newVerifyCommand(), newRevealCommand(), newEventsCommand(), newConvertCommand(), newVersionCommand())
	return root
}

// unknownCommand refuses what is left when no command of that name was found.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return usage("unknown command %q, did you mean %q?", args[0], near[0])
	}
	return usage("unknown command %q", args[0])
}

// group makes a command that has nothing but subcommands.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = unknownCommand
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, _ []string) error { return usage("name a command of %q", c.CommandPath()) }
	c.AddCommand(commands...)
	return c
}

// addLogFlags adds the flags about the log to a command that runs a process.
func addLogFlags(f *pflag.FlagSet, o *telemetry.LogOptions) {
	f.StringVar(&o.Level, "log.level", "info", "what to log: debug, info, warn or error")
	f.StringVar(&o.Format, "log.format", "logfmt", "form of the log: logfmt or json")
	f.StringVar(&o.File, "log.file", "", "file to log to, reopened on SIGHUP; default: standard error")
}

// webFlags are the flags about the web listener.
type webFlags struct {
	listen   string
	config   string
	external string
}

func (w *webFlags) add(f *pflag.FlagSet) {
	f.StringVar(&w.listen, "web.listen-address", "127.0.0.1:9797", "address of the status page, /federate, /metrics and the rest")
	f.StringVar(&w.config, "web.config.file", "", "file with TLS and users of the web listener, as in Prometheus")
	f.StringVar(&w.external, "web.external-url", "", "URL of the web listener as Prometheus and other hubs reach it; default: its address, with the host name if it listens on all")
}
