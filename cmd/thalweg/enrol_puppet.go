package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/puppetca"
)

// puppetFlags are those of "enrol" that are about a Puppet CA.
type puppetFlags struct {
	client puppetca.Client
	renew  bool
}

func (p *puppetFlags) add(f *pflag.FlagSet) {
	f.StringVar(&p.client.Address, "puppet-ca", "", "get a certificate from the Puppet CA at HOST:PORT instead; without a value puppet:8140")
	f.Lookup("puppet-ca").NoOptDefVal = "puppet:8140"
	f.StringVar(&p.client.Identity, "identity", "", "with --puppet-ca: name in the certificate")
	f.StringVar(&p.client.Dir, "dir", "", "with --puppet-ca: ssl directory, laid out as that of Puppet's agent")
	f.StringVar(&p.client.Fingerprint, "fingerprint", "", "with --puppet-ca: SHA-256 of the CA's certificate, as \"openssl x509 -fingerprint -sha256\" prints it at the CA")
	f.BoolVar(&p.client.TrustFirst, "trust-on-first-use", false, "with --puppet-ca: believe the CA that the network shows, if none is known")
	f.DurationVar(&p.client.Wait, "wait", 30*time.Minute, "with --puppet-ca: how long to wait for the request to be signed")
	f.BoolVar(&p.renew, "renew", false, "with --puppet-ca: renew the certificate if it ends within 30 days")
}

// given reports whether the command line is about a Puppet CA.
func (p *puppetFlags) given() bool { return p.client.Address != "" }

// run does the whole conversation with the CA.
func (p *puppetFlags) run(c *cobra.Command) error {
	cl := &p.client
	cl.Every = 10 * time.Second
	cl.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	if err := cl.Validate(); err != nil {
		return &usageError{err}
	}
	out := c.OutOrStdout()
	if p.renew {
		renewed, err := cl.Renew(c.Context(), false)
		if err != nil {
			return err
		}
		if !renewed {
			_, err = fmt.Fprintf(out, "%s is valid for more than 30 days. Nothing was done.\n", cl.CertFile())
			return err
		}
		_, err = fmt.Fprintf(out, "%s is renewed. It is read at the next connect.\n", cl.CertFile())
		return err
	}
	if err := cl.Enrol(c.Context()); err != nil {
		if errors.Is(err, puppetca.ErrEnrolled) {
			return fmt.Errorf("%s: %w; --renew renews it", cl.CertFile(), err)
		}
		return err
	}
	_, err := fmt.Fprintf(out, `%s has its certificate. In the file of the edge:

nats:
  urls: [...]
  puppet_ssl_dir: %q
  puppet_identity: %s
`, cl.Identity, cl.Dir, cl.Identity)
	return err
}
