package natsmon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// subjectServers is what all servers answer.
	subjectServers = "$SYS.REQ.SERVER.PING.VARZ"
	// subjectAccounts is what all servers, too, answer of their accounts: there is no subject for those of one server.
	subjectAccounts = "$SYS.REQ.ACCOUNT.PING.STATZ"
	// askTimeout is how long a server may take to answer. One that took longer is not asked again by the same reading.
	askTimeout = 4 * time.Second
	// answerBlock is the greatest block of compression that a server makes.
	answerBlock = 64 << 10
)

// errSilent is why there is no answer of a server that did not answer before.
var errSilent = errors.New("server does not answer")

// systemServer is a server that has answered at all: it can be asked for more.
type systemServer struct {
	nc     *nats.Conn
	info   server.ServerInfo
	hello  *nats.Msg // what it answered when all were asked: its Varz
	limit  int64     // of the length of an answer
	silent atomic.Bool
}

func (s *systemServer) name() serverName { return serverName{s.info.Cluster, s.info.Name} }

// ask asks a server for an endpoint. Options are those of package server for it, or nil.
func ask[T any](ctx context.Context, from *systemServer, endpoint Endpoint, options any) (*T, error) {
	answer := new(T)
	return answer, from.ask(ctx, endpoint, options, answer)
}

// ask asks this server alone. The answer is decoded into answer, a pointer.
func (s *systemServer) ask(ctx context.Context, endpoint Endpoint, options, answer any) error {
	if s.silent.Load() {
		return errSilent
	}
	m, err := s.request(endpoint, options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
			s.silent.Store(true)
		}
		return err
	}
	from, err := decodeAnswer(reply, s.limit, answer)
	if err == nil && from.ID != s.info.ID {
		err = fmt.Errorf("another server of the name %q answers", s.info.Name)
	}
	return err
}

func (s *systemServer) request(endpoint Endpoint, options any) (*nats.Msg, error) {
	m := nats.NewMsg("$SYS.REQ.SERVER." + s.info.ID + "." + strings.ToUpper(string(endpoint)))
	acceptCompressed(m)
	if endpoint == Accstatz {
		m.Subject = subjectAccounts
		options = server.AccountStatzEventOptions{
			AccountStatzOptions: server.AccountStatzOptions{IncludeUnused: true}, // else one without connections is silent
			EventFilterOptions: server.EventFilterOptions{
				Name: s.info.Name, Cluster: s.info.Cluster, Host: s.info.Host, ExactMatch: true,
			},
		}
	}
	if options == nil {
		return m, nil
	}
	var err error
	if m.Data, err = json.Marshal(options); err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	return m, nil
}

// health asks for all checks.
func (s *systemServer) health(ctx context.Context) (map[string]*server.HealthStatus, error) {
	all := make(map[string]*server.HealthStatus, len(HealthChecks))
	for name, options := range HealthChecks {
		h, err := ask[server.HealthStatus](ctx, s, Healthz, options)
		if err != nil {
			return nil, err
		}
		all[name] = h
	}
	return all, nil
}

func acceptCompressed(m *nats.Msg) { m.Header.Set("Accept-Encoding", "snappy") }

// decodeAnswer decodes what a server answers into data, a pointer or nil, and tells which server it was. An answer that is
// longer than limit bytes is an error.
func decodeAnswer(m *nats.Msg, limit int64, data any) (server.ServerInfo, error) {
	var body io.Reader = bytes.NewReader(m.Data)
	switch encoding := m.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "snappy":
		body = s2.NewReader(body, s2.ReaderAllocBlock(answerBlock))
	default:
		return server.ServerInfo{}, fmt.Errorf("answer is encoded as %q", encoding)
	}
	if data == nil {
		data = &struct{}{} // takes nothing in
	}
	answer := struct {
		Server server.ServerInfo `json:"server"`
		Data   any               `json:"data"`
		Error  *server.ApiError  `json:"error"`
	}{Data: data}
	if err := json.NewDecoder(&bounded{body, limit}).Decode(&answer); err != nil {
		return answer.Server, fmt.Errorf("decode answer: %w", err)
	}
	if e := answer.Error; e != nil {
		return answer.Server, fmt.Errorf("server answers %d: %s", e.Code, e.Description)
	}
	return answer.Server, nil
}
