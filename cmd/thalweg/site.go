package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/identity"
	"github.com/thalweg/thalweg/internal/web"
)

func newSiteCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "site",
		Short: "Let sites join, list them, revoke them",
		Long: `Manage who may connect to the NATS server that runs in a process of Thalweg.

The process is asked over HTTP. It listens to whoever is on its machine or, if its --web.config.file has users, to
those that hub.views does not limit: give their password in an --http.config.file.`,
	}, newSiteAddCommand(), newSiteListCommand(), newSiteRevokeCommand(), newSiteSignCommand())
}

// remote is another process of Thalweg, reached over HTTP.
type remote struct{ url, httpConfig string }

func (p *remote) add(f *pflag.FlagSet) {
	f.StringVar(&p.url, "url", "http://127.0.0.1:9797", "web listener of the process to ask")
	f.StringVar(&p.httpConfig, "http.config.file", "", "file with the HTTP client settings to ask with (basic_auth, tls_config, ...), as in Prometheus")
}

// ask makes a request of the JSON API and decodes the data of the answer.
func (p *remote) ask(ctx context.Context, method, path string, query, form url.Values, data any) error {
	settings := config.DefaultHTTPClientConfig
	if p.httpConfig != "" {
		loaded, _, err := config.LoadHTTPConfigFile(p.httpConfig)
		if err != nil {
			return fmt.Errorf("read --http.config.file: %w", err)
		}
		settings = *loaded
	}
	client, err := config.NewClientFromConfig(settings, "thalweg")
	if err != nil {
		return fmt.Errorf("read --http.config.file: %w", err)
	}
	client.Timeout = 30 * time.Second
	target := strings.TrimSuffix(p.url, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return usage("--url: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the process at %s: %w", p.url, err)
	}
	defer response.Body.Close()
	const most = 64 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return fmt.Errorf("ask the process at %s: %w", p.url, err)
	}
	var answer struct {
		Error string          `json:"error"`
		Data  json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", p.url, response.Status, cmp.Or(answer.Error, firstLine(body)))
	}
	return json.Unmarshal(answer.Data, data)
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line[:min(len(line), 200)]
}

func sitePath(name string) string { return "/api/v1/thalweg/sites/" + url.PathEscape(name) }

func newSiteAddCommand() *cobra.Command {
	var (
		process   remote
		addresses []string
		expires   time.Duration
	)
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a join token for a site",
		Long: `Make a join token for a site, and print the line to run there. The token is good for one key, for an
hour unless --expires says otherwise, and only its hash is kept.`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := bus.ValidSite(args[0]); err != nil {
				return &usageError{err}
			}
			var made web.Invitation
			form := url.Values{"address": addresses, "expires": {expires.String()}}
			if err := process.ask(c.Context(), http.MethodPost, sitePath(args[0]), nil, form, &made); err != nil {
				return err
			}
			if made.Warning != "" {
				fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", made.Warning)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "Site %s can join once, until %s. Run there, with the data_dir of its edge:\n\n  %s\n",
				made.Site, made.Expires.UTC().Format(time.RFC3339), enrolLine(made.Token))
			return err
		},
	}
	c.Flags().StringArrayVar(&addresses, "address", nil, "address of a NATS server as the site reaches it, such as tls://hub.example:4222 (can be repeated); default: that of the process, with the machine's name if it listens on all")
	c.Flags().DurationVar(&expires, "expires", time.Hour, "how long the token is good")
	process.add(c.Flags())
	return c
}

func enrolLine(token string) string { return "thalweg enrol --data.dir=./data " + token }

func newSiteListCommand() *cobra.Command {
	var process remote
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the sites that have a key or may join",
		Args:  takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var list []web.Identity
			if err := process.ask(c.Context(), http.MethodGet, "/api/v1/thalweg/credentials", nil, nil, &list); err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(list)
			}
			return listSites(c.OutOrStdout(), list)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, with whole keys")
	process.add(c.Flags())
	return c
}

// listSites prints a line for each key and each pending token, and one for a site that has neither.
func listSites(out io.Writer, list []web.Identity) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SITE\tSTATE\tLAST SEEN\tKEY\tADDED\tEXPIRES")
	moment := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	for _, s := range list {
		for _, k := range s.Keys {
			state := "enrolled"
			if k.Replaces != "" {
				state = "replaces " + identity.Short(k.Replaces)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\tnever\n", s.Site, state, moment(s.LastSeen), identity.Short(k.Key), moment(k.Added))
		}
		for _, j := range s.Joins {
			fmt.Fprintf(w, "%s\tinvited\t%s\t-\t-\t%s\n", s.Site, moment(s.LastSeen), moment(j.Expires))
		}
		if len(s.Keys)+len(s.Joins) == 0 {
			state := "no key"
			if s.Revoked > 0 {
				state = "revoked"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t-\t-\t-\n", s.Site, state, moment(s.LastSeen))
		}
	}
	return w.Flush()
}

func newSiteRevokeCommand() *cobra.Command {
	var process remote
	var key string
	c := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Refuse the keys of a site for ever",
		Long: `Refuse all keys and join tokens of a site for ever, or one key, and close its connections. The site
can be added again, and then makes another key. What it has sent stays.`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var revoked web.Revocation
			query := url.Values{}
			if key != "" {
				query.Set("key", key)
			}
			if err := process.ask(c.Context(), http.MethodDelete, sitePath(args[0]), query, nil, &revoked); err != nil {
				return err
			}
			for _, k := range revoked.Keys {
				fmt.Fprintf(c.OutOrStdout(), "Revoked key %s of site %s.\n", k, revoked.Site)
			}
			if key == "" {
				fmt.Fprintf(c.OutOrStdout(), "Site %s has no key and no join token any more.\n", revoked.Site)
			}
			return nil
		},
	}
	c.Flags().StringVar(&key, "key", "", "only this key, by its first characters (site list shows them)")
	process.add(c.Flags())
	return c
}

func newSiteSignCommand() *cobra.Command {
	var (
		s               identity.Signature
		keyFile, caFile string
		lasts           string
	)
	s.Client = bus.DefaultConfig()
	c := &cobra.Command{
		Use:   "sign NAME --public-key=U... --account=A... --signing-key-file=FILE --address=URL",
		Short: "Admit a site's key to an external NATS server",
		Long: `Sign a user JWT for a key that "thalweg enrol --new-key" made at a site, with a scoped signing key of the
account of sites, and print the line to run there. Nothing is asked of any process. docs/security.md has the
steps, and the template that the signing key needs.`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if keyFile == "" || s.Public == "" || s.Account == "" || len(s.Client.URLs) == 0 {
				return usage("--public-key, --account, --signing-key-file and --address are needed")
			}
			s.Site = args[0]
			if err := s.Client.Validate(); err != nil {
				return &usageError{err}
			}
			d, err := model.ParseDuration(lasts)
			if err != nil {
				return usage("--expires: %w", err)
			}
			s.Lasts = time.Duration(d)
			if s.SigningSeed, err = os.ReadFile(keyFile); err != nil {
				return fmt.Errorf("read signing key: %w", err)
			}
			if caFile != "" {
				ca, err := os.ReadFile(caFile)
				if err != nil {
					return fmt.Errorf("read CA: %w", err)
				}
				s.CA = string(ca)
			}
			token, err := s.Sign(time.Now())
			if err != nil {
				return fmt.Errorf("sign site %q: %w", s.Site, err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "The key of site %s is admitted. Run there, with the data_dir of its edge:\n\n  %s\n", s.Site, enrolLine(token.String()))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&s.Public, "public-key", "", "the site's public key")
	f.StringVar(&s.Account, "account", "", "public key of the account of sites")
	f.StringVar(&keyFile, "signing-key-file", "", "file with the seed of a scoped signing key of that account")
	f.StringArrayVar(&s.Client.URLs, "address", nil, "address of a NATS server, such as tls://nats.example:4222 (can be repeated)")
	f.StringVar(&caFile, "ca-file", "", "certificate that vouches for the servers, if no public one does")
	f.StringVar(&lasts, "expires", "0s", "how long the site may connect, such as 1y; 0s: until it is revoked")
	f.StringVar(&s.Client.SubjectRoot, "subject-root", s.Client.SubjectRoot, "as nats.subject_root of the hubs")
	f.StringVar(&s.Client.Stream.Name, "stream", s.Client.Stream.Name, "as nats.stream.name of the hubs")
	f.StringVar(&s.Client.Domain, "domain", "", "JetStream domain of the stream")
	return c
}
