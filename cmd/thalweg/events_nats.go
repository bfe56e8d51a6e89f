package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
)

// natsFlags say where in NATS events are published, and who does so.
type natsFlags struct {
	url, subject, site           string
	tokenFile, caFile, credsFile string
}

func (n *natsFlags) add(f *pflag.FlagSet) {
	f.StringVar(&n.url, "nats.url", "", "publish to NATS at this URL, such as nats://127.0.0.1:4222, instead of Redis")
	f.StringVar(&n.site, "site", config.DefaultConfig().Site, "site whose events they are, for --nats.url; default: the host name up to its first dot")
	f.StringVar(&n.subject, "subject", "", "subject there; default: thalweg.v1.events.SITE")
	f.StringVar(&n.tokenFile, "nats.token-file", "", "file with a token of the site")
	f.StringVar(&n.credsFile, "nats.credentials-file", "", "file with a user JWT and its seed (.creds)")
	f.StringVar(&n.caFile, "nats.ca-file", "", "certificate that vouches for tls://")
}

// publishTime is for how long a message is published again that may be stored and may be not: the server knows its id for longer.
const publishTime = time.Minute

// publish stores one message for each payload.
func (n *natsFlags) publish(ctx context.Context, out io.Writer, payloads []string, total int) error {
	if err := bus.ValidSite(n.site); err != nil {
		return usage("--site: %v", err)
	}
	c := bus.DefaultConfig()
	c.URLs, c.TokenFile, c.CredentialsFile, c.TLSConfig.CAFile = []string{n.url}, n.tokenFile, n.credsFile, n.caFile
	if err := c.Validate(); err != nil {
		return usage("--nats.url: %v", err)
	}
	conn, err := bus.Connect(bus.Options{Config: c, Site: n.site, Name: "thalweg events send", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := awaitConnection(ctx, conn); err != nil {
		return fmt.Errorf("connect to %s: %w", n.url, err)
	}
	subject, id := cmp.Or(n.subject, conn.Root().Events(n.site)), rand.Text()
	for i, payload := range payloads {
		if err := appendEvent(ctx, conn, subject, payload, id+"."+strconv.Itoa(i)); err != nil {
			return fmt.Errorf("after %d of %d messages: %w", i, len(payloads), err)
		}
	}
	_, err = fmt.Fprintf(out, "sent %s in %s to %s\n", count(total, "event"), count(len(payloads), "message"), subject)
	return err
}

func appendEvent(ctx context.Context, conn *bus.Conn, subject, payload, id string) error {
	ctx, stop := context.WithTimeout(ctx, publishTime)
	defer stop()
	for {
		_, err := conn.Append(ctx, subject, []byte(payload), id)
		if !errors.Is(err, bus.ErrDoubtful) || ctx.Err() != nil {
			return err
		}
	}
}
