package natsmon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// crowded is a server with five of everything, in no order.
func crowded(order *rand.Rand) *Server {
	s := &Server{
		Accounts: &server.AccountStatz{}, Leafs: &server.Leafz{}, Routes: &server.Routez{},
		Gateways: &server.Gatewayz{
			OutboundGateways: map[string]*server.RemoteGatewayz{}, InboundGateways: map[string][]*server.RemoteGatewayz{},
		},
		JetStream: &server.JSInfo{Total: 5},
	}
	for _, i := range order.Perm(5) {
		name := fmt.Sprintf("n%d", i)
		s.Accounts.Accounts = append(s.Accounts.Accounts, &server.AccountStat{Account: name})
		s.Leafs.Leafs = append(s.Leafs.Leafs, &server.LeafInfo{Name: name})
		s.Routes.Routes = append(s.Routes.Routes, &server.RouteInfo{RemoteName: name})
		s.Gateways.OutboundGateways[name] = &server.RemoteGatewayz{}
		s.Gateways.InboundGateways[name] = []*server.RemoteGatewayz{{}, {}}
		account := &server.AccountDetail{Id: name}
		for _, j := range order.Perm(2) {
			stream := server.StreamDetail{Name: fmt.Sprintf("%ss%d", name, j), Sources: []*server.StreamSourceInfo{{}}}
			for _, k := range order.Perm(4) {
				c := &server.ConsumerInfo{Name: fmt.Sprintf("c%d", k), Config: &server.ConsumerConfig{}}
				if k%2 == 0 {
					c.Config.Durable = c.Name
				}
				stream.Consumer = append(stream.Consumer, c)
			}
			account.Streams = append(account.Streams, stream)
		}
		s.JetStream.AccountDetails = append(s.JetStream.AccountDetails, account)
	}
	return s
}

// TestLimitsLeaveOutTheSame whatever the order in which the server has them.
func TestLimitsLeaveOutTheSame(t *testing.T) {
	l := limits{accounts: 4, streams: 7, consumers: 9, sources: 5, leafs: 3, routes: 2, gateways: 7}
	want := map[bool]map[object]int{
		false: {
			objectAccount: 1, objectStream: 1, objectConsumer: 14 - 9, objectSource: 2, objectLeaf: 2, objectRoute: 3,
			objectGateway: 8,
		},
		true: {
			objectAccount: 1, objectStream: 1, objectConsumer: 28 - 9, objectSource: 2, objectLeaf: 2, objectRoute: 3,
			objectGateway: 8,
		},
	}
	for compat, want := range want {
		var first string
		for seed := range uint64(20) {
			s := crowded(rand.New(rand.NewPCG(seed, 0)))
			omitted := map[object]int{}
			l.bound(s, compat, omitted)
			if !maps.Equal(omitted, want) {
				t.Fatalf("compat %v: omitted %v, want %v", compat, omitted, want)
			}
			text, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = string(text)
			}
			if string(text) != first {
				t.Fatalf("seed %d leaves others:\n%s\n%s", seed, text, first)
			}
			durable, ephemeral := 0, 0
			for _, a := range s.JetStream.AccountDetails {
				for _, stream := range a.Streams {
					for _, c := range stream.Consumer {
						if c.Config.Durable != "" {
							durable++
						} else {
							ephemeral++
						}
					}
				}
			}
			// Ephemeral consumers are aggregated: all have to be there.
			if compat && durable+ephemeral != 9 || !compat && (durable != 9 || ephemeral != 14) {
				t.Fatalf("compat %v: %d durable and %d ephemeral consumers are left", compat, durable, ephemeral)
			}
		}
	}
}

// TestLimitsOfNothing leave a server alone that has less.
func TestLimitsOfNothing(t *testing.T) {
	s := crowded(rand.New(rand.NewPCG(1, 1)))
	omitted := map[object]int{}
	defaultLimits().bound(s, false, omitted)
	defaultLimits().bound(&Server{}, true, omitted)
	for what, n := range omitted {
		if n != 0 {
			t.Errorf("%d of %s", n, what)
		}
	}
	if n := len(s.JetStream.AccountDetails); n != 5 {
		t.Errorf("%d accounts", n)
	}
	for what := range omitted {
		if !slices.Contains(objects(), what) {
			t.Errorf("%s is not among the kinds", what)
		}
	}
}

// TestManySmallObjects are refused although their JSON is short.
func TestManySmallObjects(t *testing.T) {
	answer := `{"account_details": [{"stream_detail": [{}` + strings.Repeat(",{}", 10_000) + `]}]}`
	c := answering(t, Jsz, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
	l := defaultLimits()
	l.responseBytes = 1 << 20
	r, err := newHTTPReader(c, false, l, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.client.CloseIdleConnections)
	servers, err := r.Read(t.Context())
	if err != nil || !errors.Is(servers[0].Errors[Jsz], errTooLong) {
		t.Errorf("%v, %v", err, servers[0].Errors)
	}
}
