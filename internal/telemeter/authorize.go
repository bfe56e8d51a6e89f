package telemeter

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"
)

// maxForm bounds the body of a request to authorize, in bytes.
const maxForm = 4 << 10

// authorization is the answer to a client that may push.
type authorization struct {
	Version   int               `json:"version"`
	Token     string            `json:"token"`
	ExpiresIn int64             `json:"expiresInSeconds"`
	Labels    map[string]string `json:"labels"`
}

// bearer returns the token of a request.
func bearer(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		s.refuseAuthorization(w, r, resultMalformed, "", &refusal{code: http.StatusBadRequest, text: "parse the form: " + err.Error()})
		return
	}
	id := r.Form.Get("id")
	if err := checkID(id); err != nil {
		s.refuseAuthorization(w, r, resultMalformed, id, &refusal{code: http.StatusBadRequest, text: err.Error()})
		return
	}
	token, ok := bearer(r)
	if !ok {
		s.refuseAuthorization(w, r, resultUnauthorized, id, &refusal{code: http.StatusUnauthorized, text: "the header Authorization has no bearer token"})
		return
	}
	key, use := s.key(), s.settings.Load()
	if key == nil {
		s.refuseAuthorization(w, r, resultUnavailable, id, &refusal{code: http.StatusServiceUnavailable, text: "there is no signing key yet", retryAfter: "10"})
		return
	}
	account, err := use.authority.authorize(r.Context(), id, token)
	if err != nil {
		s.explainRefusal(w, r, id, err)
		return
	}
	labels := map[string]string{}
	maps.Copy(labels, use.hub.RequiredLabels)
	labels[use.config.Label] = id
	lasts := time.Duration(use.config.TokenTTL)
	answer := authorization{Version: 1, ExpiresIn: int64(lasts.Seconds()), Labels: labels}
	if answer.Token, err = key.sign(account, labels, s.now(), lasts); err != nil {
		s.explainRefusal(w, r, id, err)
		return
	}
	s.metrics.authorizations.WithLabelValues(string(resultAccepted)).Inc()
	s.log.Info("telemeter client authorised", "audit", "telemeter_authorised", "id", id, "site", SiteOf(id), "remote", r.RemoteAddr, "lasts", lasts)
	writeJSON(w, http.StatusOK, answer)
}

// explainRefusal answers who may not push, or who cannot know it now.
func (s *Server) explainRefusal(w http.ResponseWriter, r *http.Request, id string, err error) {
	if why, ok := errors.AsType[*refusal](err); ok {
		result := resultUnauthorized
		if why.code >= 500 || why.code == http.StatusTooManyRequests {
			result = resultUnavailable
		}
		s.refuseAuthorization(w, r, result, id, why)
		return
	}
	if r.Context().Err() != nil {
		return // the client is gone, and that is why there is an error
	}
	request := rand.Text() // finds the log line
	s.repeats.Log(slog.LevelError, "authorize", "telemeter client cannot be authorised", slog.String("id", shortened(id)),
		slog.String("request", request), slog.Any("err", err))
	s.metrics.authorizations.WithLabelValues(string(resultUnavailable)).Inc()
	http.Error(w, "the authorisation server could not be asked; request "+request, http.StatusInternalServerError)
}

func (s *Server) refuseAuthorization(w http.ResponseWriter, r *http.Request, result result, id string, why *refusal) {
	s.metrics.authorizations.WithLabelValues(string(result)).Inc()
	if result == resultUnauthorized {
		s.audit("telemeter_refused", "telemeter client refused", id, r, why)
	}
	if why.code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if why.retryAfter != "" {
		w.Header().Set("Retry-After", why.retryAfter)
	}
	http.Error(w, why.text, why.code)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
