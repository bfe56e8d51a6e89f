package natsmon

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// question to a server. ask returns what is to be done with the answer.
type question struct {
	endpoint Endpoint
	ask      func(context.Context) (func(*Server), error)
}

// askAll puts the questions, so many at a time, and fills s with the answers; those that have not come when ctx ends are
// errors, and what still comes of them is dropped. A panic on the way is an error too: answers are not ours.
func askAll(ctx context.Context, s *Server, parallel int, questions []question) {
	type result struct {
		endpoint Endpoint
		fill     func(*Server)
		err      error
	}
	results := make(chan result, len(questions))
	room := make(chan struct{}, parallel)
	for _, q := range questions {
		go func() {
			r := result{endpoint: q.endpoint}
			defer func() {
				if p := recover(); p != nil {
					r.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
				results <- r
			}()
			select {
			case room <- struct{}{}:
				defer func() { <-room }()
				r.fill, r.err = q.ask(ctx)
			case <-ctx.Done():
				r.err = ctx.Err()
			}
		}()
	}
	waiting := map[Endpoint]bool{}
	for _, q := range questions {
		waiting[q.endpoint] = true
	}
	for len(waiting) > 0 {
		select {
		case r := <-results:
			delete(waiting, r.endpoint)
			if r.err != nil {
				s.fail(r.endpoint, r.err)
				continue
			}
			r.fill(s)
		case <-ctx.Done():
			for endpoint := range waiting {
				s.fail(endpoint, ctx.Err())
			}
			return
		}
	}
}

// fail notes why an endpoint did not answer.
func (s *Server) fail(endpoint Endpoint, err error) {
	if s.Errors == nil {
		s.Errors = map[Endpoint]error{}
	}
	s.Errors[endpoint] = err
}

// identify fills in what Varz says of who this is.
func (s *Server) identify(v *server.Varz) {
	s.Varz = v
	s.ID, s.Name, s.Cluster = v.ID, v.Name, v.Cluster.Name
	if c := v.JetStream.Config; c != nil {
		s.Domain = c.Domain
	}
}

// endpoints that are read.
func endpoints(compat bool) []Endpoint {
	all := []Endpoint{Varz, Healthz, Connz, Routez, Gatewayz, Leafz, Subsz, Accstatz, Jsz}
	if compat {
		all = append(all, Accountz)
	}
	return all
}

// readAccountLimits asks for each account that there is, at most limit of them. An account that went away meanwhile is left
// out.
func readAccountLimits(limit int, ask func(account string) (*server.Accountz, error)) (map[string]*server.AccountInfo, error) {
	list, err := ask("")
	if err != nil {
		return nil, err
	}
	slices.Sort(list.Accounts)
	all := make(map[string]*server.AccountInfo, len(list.Accounts))
	for _, name := range list.Accounts[:min(len(list.Accounts), limit)] {
		one, err := ask(name)
		if err != nil {
			return nil, fmt.Errorf("account %q: %w", name, err)
		}
		if one.Account != nil {
			all[name] = one.Account
		}
	}
	return all, nil
}
