package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/identity"
)

func newEnrolCommand() *cobra.Command {
	var (
		e      identity.Enrolment
		rotate bool
		newKey string
		puppet puppetFlags
	)
	c := &cobra.Command{
		Use:     "enrol TOKEN",
		Aliases: []string{"enroll"},
		Short:   "Join as a site: make a key, and have it admitted",
		Long: `Join as a site, with the token that "thalweg site add" printed at the hub; - reads it from standard input.
A key is made, which never leaves this machine, and written into the data directory with the addresses of the hubs.
An edge whose file says nothing about NATS uses it.

If it is interrupted, the same line finishes it. --rotate changes the key of a site that has joined, while its edge
runs. --new-key makes a key for "thalweg site sign", where the NATS server is not Thalweg's own.

With --puppet-ca the key and certificate of a Puppet agent are made instead, for a NATS server that wants those. The
fingerprint of the CA is given, or its certificate is in --dir already; an interrupted run goes on where it stopped.`,
		Args: takes(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if puppet.given() {
				if len(args) > 0 || rotate || newKey != "" {
					return usage("--puppet-ca=HOST:PORT goes with --identity and --dir, and not with a join token, --rotate or --new-key")
				}
				return puppet.run(c)
			}
			given := len(args)
			for _, set := range []bool{rotate, newKey != ""} {
				if set {
					given++
				}
			}
			if given != 1 {
				return usage("give a join token, --rotate or --new-key, and one of them")
			}
			e.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
			out := c.OutOrStdout()
			switch {
			case newKey != "":
				made, err := e.NewKey(newKey)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, "The public key of site %s, to be signed at the hub with \"thalweg site sign\":\n\n  %s\n", made.Site, made.Public())
				return err
			case rotate:
				changed, err := e.Rotate(c.Context())
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, "Site %s has the key %s. A running edge goes over to it by itself.\n", changed.Site, changed.Public())
				return err
			}
			token, err := readToken(args[0], c.InOrStdin())
			if err != nil {
				return err
			}
			made, err := e.Enrol(c.Context(), token)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "Site %s has joined %s with the key %s.\nThe credential is %s. An edge with this data_dir uses it if its file says nothing about nats.\n",
				made.Site, strings.Join(made.URLs, ", "), made.Public(), identity.CredentialFile(e.Dir))
			return err
		},
	}
	c.Flags().StringVar(&e.Dir, "data.dir", "data", "data directory of the edge")
	c.Flags().BoolVar(&e.Force, "force", false, "replace a credential that is there")
	c.Flags().StringVar(&e.Proxy, "proxy-url", "", "HTTP proxy to connect through")
	c.Flags().BoolVar(&rotate, "rotate", false, "change the key of a site that has joined")
	c.Flags().StringVar(&newKey, "new-key", "", "make a key for the site of this name, to be signed for an external NATS server")
	puppet.add(c.Flags())
	return c
}

// readToken parses an argument, or standard input if that is "-".
func readToken(s string, stdin io.Reader) (*identity.Token, error) {
	if s == "-" {
		const most = 64 << 10
		b, err := io.ReadAll(io.LimitReader(stdin, most))
		if err != nil {
			return nil, fmt.Errorf("read join token: %w", err)
		}
		s = string(b)
	}
	t, err := identity.ParseToken(s)
	if err != nil {
		return nil, &usageError{err}
	}
	return t, nil
}
