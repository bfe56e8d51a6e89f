package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/events"
	"github.com/thalweg/thalweg/internal/node"
	"github.com/thalweg/thalweg/internal/telemetry"
)

func newGatewayCommand() *cobra.Command {
	var (
		file, dataDir string
		own           string
		redis         redisFlags
		log           telemetry.LogOptions
		web           webFlags
	)
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Run the event gateway, which aggregates JSON events of short-lived processes",
		Long: `Run the event gateway: take JSON events from a list in Redis and by HTTP, and serve what they come to
at /gateway/metrics. It needs no file. Environment variables of prom-stream-gateway, such as
Redis__ConnectionString, beat the section gateway of a file, and flags beat both.

What it has counted stands in the data directory, and goes on after a restart.`,
		Example: `  thalweg gateway --gateway.listen-address=:9091 --redis.address=redis.example:6379
  Redis__ConnectionString=redis.example:6379 thalweg gateway`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if redis.PasswordFile != "" { // it is relative to where the program runs
				if redis.PasswordFile, err = filepath.Abs(redis.PasswordFile); err != nil {
					return fmt.Errorf("find password file: %w", err)
				}
			}
			change := func(g *events.Config) error {
				if err := g.ApplyEnvironment(os.Environ()); err != nil {
					return fmt.Errorf("environment: %w", err)
				}
				if c.Flags().Changed("gateway.listen-address") {
					g.ListenAddress = own
				}
				redis.apply(c.Flags(), g)
				return nil
			}
			load := func() (*config.Config, error) { return config.LoadGateway(file, dataDir, change) }
			cfg, err := load()
			if err != nil {
				return fmt.Errorf("the configuration is not valid:\n%w", err)
			}
			return run(c.Context(), node.Options{
				Config: cfg, Load: load, ListenAddress: web.listen, WebConfigFile: web.config, ExternalURL: web.external, Version: build().Version,
			}, log, c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config.file", "", "configuration file with a section gateway; default: none is needed")
	f.StringVar(&dataDir, "data.dir", "", "directory for what has been counted; default: data, or data_dir of the file")
	f.StringVar(&own, "gateway.listen-address", "", "address of /metrics and / as prom-stream-gateway has them, such as :9091; default: /gateway/metrics of the web listener")
	redis.add(f)
	f.Lookup("redis.address").Usage = "HOST:PORT of Redis, or a connection string of StackExchange.Redis; empty: take none from there"
	f.BoolVar(&redis.Replicas, "redis.replicas", false, "this gateway is one of several that stand in for each other")
	web.add(f)
	addLogFlags(f, &log)
	return c
}

// redisFlags name a list in Redis.
type redisFlags struct{ events.RedisConfig }

func (r *redisFlags) add(f *pflag.FlagSet) {
	r.RedisConfig = events.DefaultRedisConfig()
	f.StringVar(&r.Address, "redis.address", r.Address, "HOST:PORT of Redis, or a connection string of StackExchange.Redis")
	f.StringVar(&r.Username, "redis.username", "", "user there; default: Redis' default user")
	f.StringVar(&r.PasswordFile, "redis.password-file", "", "file with the password of the user")
	f.IntVar(&r.Database, "redis.database", 0, "number of the database")
	f.StringVar(&r.Key, "redis.key", r.Key, "key of the list of events")
}

// apply changes what flags say.
func (r *redisFlags) apply(f *pflag.FlagSet, g *events.Config) {
	if f.Changed("redis.address") && r.Address == "" {
		g.Redis = nil
		return
	}
	for name, set := range map[string]func(to *events.RedisConfig){
		"redis.address":       func(to *events.RedisConfig) { to.Address = r.Address },
		"redis.username":      func(to *events.RedisConfig) { to.Username = r.Username },
		"redis.password-file": func(to *events.RedisConfig) { to.PasswordFile = r.PasswordFile },
		"redis.database":      func(to *events.RedisConfig) { to.Database = r.Database },
		"redis.key":           func(to *events.RedisConfig) { to.Key = r.Key },
		"redis.replicas":      func(to *events.RedisConfig) { to.Replicas = r.Replicas },
	} {
		if !f.Changed(name) {
			continue
		}
		if g.Redis == nil {
			redis := events.DefaultRedisConfig()
			g.Redis = &redis
		}
		set(g.Redis)
	}
}
