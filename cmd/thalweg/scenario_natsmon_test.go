package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
)

// natsClients are connections to one server.
type natsClients []*nats.Conn

func (c *natsClients) close(n int) {
	for _, nc := range (*c)[:n] {
		nc.Close()
	}
	*c = (*c)[n:]
}

// cmdClients connects clients, or closes the oldest of them, until there are N.
func cmdClients(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 3, "clients NAME ADDRESS N")
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	s := of(ts)
	clients := s.natsClients[args[0]]
	if clients == nil {
		clients = new(natsClients)
		s.natsClients[args[0]] = clients
	}
	clients.close(max(0, len(*clients)-want))
	for len(*clients) < want {
		eventually(ts, func() error { // the server may be starting
			nc, err := dial(args[1], args[0], "-", func(error) {})
			if err == nil {
				*clients = append(*clients, nc)
			}
			return err
		})
	}
}

// cmdStream makes a stream that has nothing to do with frames, or deletes it.
func cmdStream(ts *testscript.TestScript, neg bool, args []string) {
	replicas, args := option(args, "replicas", "1")
	usageOf(ts, len(args) == 2, "[!] stream [-replicas=N] ADDRESS NAME")
	copies, err := strconv.Atoi(replicas)
	ts.Check(err)
	withJetStream(ts, args[0], func(ctx context.Context, js jetstream.JetStream) error {
		if neg {
			err := js.DeleteStream(ctx, args[1])
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = nil // an earlier try had no answer
			}
			return err
		}
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: args[1], Subjects: []string{args[1] + ".>"}, Replicas: copies})
		return err
	})
}
