package telemeter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/thalweg/thalweg/internal/series"
)

const (
	// storeTimeout bounds how long a client waits for its row to be stored.
	storeTimeout = 30 * time.Second
	// retryAfter is what clients are told where the server has trouble, in seconds. Those of telemeter wait a minute.
	retryAfter = 30
	// maxVerdicts bounds the families that an answer names.
	maxVerdicts = 100
)

// pushError is a refusal of a whole push.
type pushError struct {
	code   int
	result result
	text   string
	wait   int // seconds, for Retry-After; 0 is none
}

func (e *pushError) Error() string { return e.text }

func refuse(code int, result result, format string, args ...any) *pushError {
	return &pushError{code: code, result: result, text: fmt.Sprintf(format, args...)}
}

// report is the answer to a push. Clients of telemeter do not look at it.
type report struct {
	Error    string     `json:"error,omitempty"`
	Accepted int        `json:"accepted"` // series
	Refused  int        `json:"refused"`
	Families []*verdict `json:"families,omitempty"` // those of which something was refused, the first hundred
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	code, answer := http.StatusOK, report{}
	result := resultAccepted
	id, err := s.take(w, r, &answer)
	if err != nil {
		why, ok := errors.AsType[*pushError](err)
		if !ok {
			why = s.unavailable(r, id, err)
		}
		code, result, answer.Error, answer.Accepted = why.code, why.result, why.text, 0
		s.complain(w, r, id, why)
	} else if answer.Accepted == 0 {
		result = resultEmpty
	}
	s.metrics.uploads.WithLabelValues(string(result)).Inc()
	s.metrics.accepted.Add(float64(answer.Accepted))
	writeJSON(w, code, &answer)
}

// take does what an upload asks for. The error is a *pushError or a fault of this side.
func (s *Server) take(w http.ResponseWriter, r *http.Request, answer *report) (id string, err error) {
	use := s.settings.Load()
	id, err = s.identify(r, use)
	if err != nil {
		return id, err
	}
	if !s.begin(id) {
		return id, &pushError{http.StatusTooManyRequests, resultRateLimited, "another push of this client is under way", 1}
	}
	defer s.end(id)
	site, spacing := SiteOf(id), time.Duration(use.config.RateLimit)
	spacing -= spacing / 20 // clients push at just the interval
	if err := s.lanes.Ready(r.Context(), site, spacing); err != nil {
		return id, explain(err)
	}
	body, err := readBody(w, r, int64(use.config.LimitBytes))
	if err != nil {
		return id, err
	}
	row, err := s.read(r, use, id, body, answer)
	if row == nil || err != nil {
		return id, err
	}
	// A client that goes away now learns nothing, but what it pushed is no worse for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), storeTimeout)
	defer cancel()
	if err := s.lanes.Store(ctx, site, spacing, row); err != nil {
		return id, explain(err)
	}
	return id, nil
}

// identify returns the id of the client that has the token of a request.
func (s *Server) identify(r *http.Request, use *settings) (string, error) {
	token, ok := bearer(r)
	if !ok {
		return "", refuse(http.StatusUnauthorized, resultUnauthorized, "the header Authorization has no bearer token")
	}
	key := s.key()
	if key == nil {
		return "", &pushError{http.StatusServiceUnavailable, resultUnavailable, "there is no signing key yet", retryAfter}
	}
	c, err := key.verify(token, s.now())
	if err != nil {
		return "", refuse(http.StatusUnauthorized, resultUnauthorized, "the token is not one of /authorize, or it expired")
	}
	id := c.Telemeter.Labels[use.config.Label]
	if err := checkID(id); err != nil {
		return "", refuse(http.StatusUnauthorized, resultUnauthorized, "the token does not say who its bearer is")
	}
	if !use.authority.holds(id, c.Subject) {
		return id, refuse(http.StatusUnauthorized, resultUnauthorized, "what this token was given for is no longer valid")
	}
	return id, nil
}

// read turns a body into a row, nil if there is nothing to store, and says in answer what became of it.
func (s *Server) read(r *http.Request, use *settings, id string, body []byte, answer *report) (*series.Row, error) {
	select {
	case s.decoding <- struct{}{}:
		defer func() { <-s.decoding }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	families, err := decode(body, r.Header)
	if err != nil {
		return nil, err
	}
	now := s.now()
	j := newJudge(use.config.Label, id, use.hub.SiteLabel, now)
	if families, err = j.families(families); err != nil {
		return nil, err
	}
	row, err := j.toRow(families, s.catalog, use.rules, time.Duration(use.config.TTL), now)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, resultMalformed, "%v", err)
	}
	var defective bool
	answer.Accepted = row.Samples()
	answer.Refused, defective = j.refused()
	answer.Families = j.verdicts[:min(len(j.verdicts), maxVerdicts)]
	for _, v := range j.verdicts {
		for reason, n := range v.Refused {
			s.metrics.refused.WithLabelValues(string(reason)).Add(float64(n))
		}
	}
	switch {
	case answer.Accepted > 0:
		if defective {
			s.repeats.Log(slog.LevelWarn, "defective "+id, "telemeter client pushed series that are not taken", slog.String("id", id),
				slog.Int("refused", answer.Refused), slog.String("family", j.verdicts[0].Family), slog.String("example", j.verdicts[0].Example))
		}
		return row, nil
	case defective:
		return nil, refuse(http.StatusBadRequest, resultInvalid, "nothing of the push can be taken")
	}
	return nil, nil
}

// explain turns an error of Lanes into an answer, if it is about the client.
func explain(err error) error {
	early, isEarly := errors.AsType[*EarlyError](err)
	switch {
	case isEarly:
		return &pushError{http.StatusTooManyRequests, resultRateLimited, "the last push is too recent: " + early.Error(), max(1, int(math.Ceil(early.Wait.Seconds())))}
	case errors.Is(err, ErrTaken):
		return refuse(http.StatusConflict, resultConflict, "an edge writes as this site; one name has one owner")
	case errors.Is(err, ErrNotAdmitted):
		return refuse(http.StatusForbidden, resultForbidden, "this hub takes nothing of this site")
	case errors.Is(err, ErrTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, resultTooLarge, "the push is larger than a message may be")
	}
	return err
}

// unavailable is the answer when this side has trouble.
func (s *Server) unavailable(r *http.Request, id string, err error) *pushError {
	if r.Context().Err() == nil {
		s.repeats.Log(slog.LevelError, "store", "push of a telemeter client cannot be stored", slog.String("id", id), slog.Any("err", err))
	}
	return &pushError{http.StatusServiceUnavailable, resultUnavailable, "the push cannot be stored now", retryAfter}
}

// complain sets the headers of a refusal, and logs what its sender had no right to.
func (s *Server) complain(w http.ResponseWriter, r *http.Request, id string, why *pushError) {
	if why.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(why.wait))
	}
	switch why.result {
	case resultUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
		s.audit("telemeter_token_refused", "push of a telemeter client refused", id, r, why)
	case resultForeign, resultConflict, resultForbidden:
		s.audit("telemeter_push_refused", "push of a telemeter client refused", id, r, why)
	}
}
