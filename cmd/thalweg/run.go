package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/node"
	"github.com/thalweg/thalweg/internal/telemetry"
)

func newRunCommand() *cobra.Command {
	var (
		file, dataDir string
		log           telemetry.LogOptions
		web           webFlags
	)
	c := &cobra.Command{
		Use:   "run --config.file=FILE",
		Short: "Run the roles whose sections stand in a configuration file",
		Long: `Run the roles whose sections stand in a configuration file: edge, hub, gateway and nats_exporter, in any
combination.

SIGHUP and POST /-/reload read the file again; SIGTERM and SIGINT stop the process after what was
accepted is on its way. The reference of the file is docs/config.md.`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usage("--config.file is missing")
			}
			load := func() (*config.Config, error) { return config.Load(file, dataDir) }
			cfg, err := load()
			if err != nil {
				return fmt.Errorf("%s is not valid:\n%w", file, err)
			}
			return run(c.Context(), node.Options{
				Config: cfg, Load: load, ListenAddress: web.listen, WebConfigFile: web.config, ExternalURL: web.external, Version: build().Version,
			}, log, c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&file, "config.file", "", "configuration file")
	c.Flags().StringVar(&dataDir, "data.dir", "", "directory for everything that outlives the process; default: data_dir of the file")
	web.add(c.Flags())
	addLogFlags(c.Flags(), &log)
	return c
}

// run runs a node until a signal asks it to stop.
func run(ctx context.Context, o node.Options, logOptions telemetry.LogOptions, stderr io.Writer) (err error) {
	// First of all: a signal that comes while the process starts must not end it in another way than later.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	logOptions.Output = stderr
	if o.Log, err = telemetry.OpenLog(logOptions); err != nil {
		return &usageError{err}
	}
	defer func() { err = errors.Join(err, o.Log.Close()) }()
	tuneMemory(o.Config, o.Log.Logger)
	n, err := node.New(o)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	reloader := make(chan struct{})
	go func() {
		defer close(reloader)
		for {
			select {
			case <-hangups:
				if err := o.Log.Reopen(); err != nil {
					o.Log.Error("reopen log file", "err", err)
				}
				_ = n.Reload(ctx) // logged and counted there
			case <-ended:
				return
			}
		}
	}()
	err = n.Run(ctx)
	close(ended)
	<-reloader
	return err
}
