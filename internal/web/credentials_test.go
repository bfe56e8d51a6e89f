package web

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestLocal(t *testing.T) {
	f := func(peer, host, header, want string) {
		t.Helper()
		r := httptest.NewRequest("POST", "http://x/", nil)
		r.RemoteAddr, r.Host = peer, host
		if header != "" {
			r.Header.Set(header, "x")
		}
		err := Local(r)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s, host %s, header %s: %v, want %q", peer, host, header, err, want)
		}
	}
	f("127.0.0.1:5", "127.0.0.1:9797", "", "")
	f("127.0.0.1:5", "localhost:9797", "", "")
	f("127.0.0.1:5", "localhost", "", "")
	f("[::1]:5", "[::1]:9797", "", "")
	f("[::1]:5", "[::1]", "", "")
	f("192.0.2.1:5", "127.0.0.1:9797", "", "from the machine itself")
	f("127.0.0.1:5", "evil.example:9797", "", `under the name "evil.example:9797"`)
	f("127.0.0.1:5", "localhost.evil.example", "", "under the name")
	f("127.0.0.1:5", "", "", "under the name")
	for _, header := range []string{"Origin", "Forwarded", "X-Forwarded-For", "x-real-ip", "Via"} {
		f("127.0.0.1:5", "127.0.0.1:9797", header, "proxy")
	}
}

// TestCredentials: what is asked for arrives, what goes wrong has a code, and nobody else gets through.
func TestCredentials(t *testing.T) {
	gone, refused := errors.New("gone"), 0
	var asked string
	mux := http.NewServeMux()
	credentialRoutes(&Credentials{
		Administrator: func(r *http.Request) (string, error) {
			if r.Header.Get("X-Stranger") != "" {
				return "", errors.New("nobody")
			}
			return "alice", nil
		},
		Refused: func(*http.Request, error) { refused++ },
		Invite: func(_ context.Context, site string, addresses []string, lasts time.Duration, by string) (Invitation, error) {
			asked = strings.Join([]string{"invite", site, strings.Join(addresses, "+"), lasts.String(), by}, " ")
			return Invitation{Site: site, Token: "secret"}, nil
		},
		Revoke: func(_ context.Context, site, key, by string) (Revocation, error) {
			asked = strings.Join([]string{"revoke", site, key, by}, " ")
			if key == "bad" {
				return Revocation{}, errors.New("no such key")
			}
			return Revocation{Site: site, Keys: []string{"K"}}, nil
		},
		List:        func(context.Context) ([]Identity, error) { return nil, gone },
		Unavailable: func(err error) bool { return errors.Is(err, gone) },
	}, func(pattern, _ string, h http.Handler) { mux.Handle(pattern, h) })
	f := func(method, path, form, header, want string, code int, body string) {
		t.Helper()
		asked = ""
		r := httptest.NewRequest(method, path, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if header != "" {
			r.Header.Set(header, "cross-site")
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != code || asked != want || !strings.Contains(w.Body.String(), body) {
			t.Errorf("%s %s: code %d, asked %q, answer %s", method, path, w.Code, asked, w.Body)
		}
		if header == "" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: answer is no JSON: %s", method, path, w.Body)
		}
	}
	const sites, list = "/api/v1/thalweg/sites/", "/api/v1/thalweg/credentials"
	two := url.Values{"address": {"a:1", "b:2"}, "expires": {"5m"}}.Encode()
	f("POST", sites+"ams-1", "", "", "invite ams-1  1h0m0s alice", 200, `"token":"secret"`)
	f("POST", sites+"ams-1", two, "", "invite ams-1 a:1+b:2 5m0s alice", 200, `"status":"success"`)
	f("POST", sites+"ams-1", "expires=soon", "", "", 400, `expires: \"soon\"`)
	f("POST", sites+"ams-1", "expires=1000h", "", "", 400, "not between")
	f("DELETE", sites+"ams-1?key=K", "", "", "revoke ams-1 K alice", 200, `"keys":["K"]`)
	f("DELETE", sites+"ams-1?key=bad", "", "", "revoke ams-1 bad alice", 400, `"error":"no such key"`)
	f("GET", list, "", "", "", 503, `"error":"gone"`)
	f("POST", sites+"ams-1", "", "Sec-Fetch-Site", "", 403, "cross-origin")
	if refused != 0 {
		t.Errorf("%d refused", refused)
	}
	for _, method := range []string{"POST", "DELETE"} {
		f(method, sites+"ams-1", "", "X-Stranger", "", 403, `"error":"nobody"`)
	}
	f("GET", list, "", "X-Stranger", "", 403, `"error":"nobody"`)
	if refused != 3 {
		t.Errorf("%d refused, want 3", refused)
	}
}
