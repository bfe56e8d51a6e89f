package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rogpeppe/go-internal/testscript"
)

// telemeterRequest is one of a telemeter client: on a connection of its own, and of a body whose length is not known.
func telemeterRequest(address, token string, header http.Header, body io.Reader) (*http.Response, string, error) {
	r, err := http.NewRequest(http.MethodPost, address, body)
	if err != nil {
		return nil, "", err
	}
	if header != nil {
		r.Header = header
	}
	r.Close = true
	r.Header.Set("Authorization", "Bearer "+token)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, string(text), err
}

// cmdAuthorize sets a variable to the token that a client gets for its own.
func cmdAuthorize(ts *testscript.TestScript, neg bool, args []string) {
	want, args := option(args, "code", "200")
	usageOf(ts, !neg && len(args) == 4, "authorize [-code=N] NAME URL ID TOKEN")
	answer, text, err := telemeterRequest(args[1]+"/authorize?"+url.Values{"id": {args[2]}}.Encode(), args[3], nil, nil)
	if err != nil || strconv.Itoa(answer.StatusCode) != want {
		of(ts).fail(ts, "authorize %s: want %s, got %v, %v\n%s", args[2], want, answer, err, text)
	}
	if want != "200" {
		return
	}
	var a struct {
		Version          int
		Token            string
		ExpiresInSeconds int
		Labels           map[string]string
	}
	ts.Check(json.Unmarshal([]byte(text), &a))
	if a.Version != 1 || a.Token == "" || a.ExpiresInSeconds < 60 || a.Labels["_id"] != args[2] {
		ts.Fatalf("authorize %s: %s", args[2], text)
	}
	ts.Setenv(args[0], a.Token)
}

// cmdUpload pushes an exposition as a telemeter client does. Its output is Retry-After, if there is one, and the answer.
func cmdUpload(ts *testscript.TestScript, neg bool, args []string) {
	want, args := option(args, "code", "200")
	usageOf(ts, !neg && len(args) == 3, "upload [-code=N] URL TOKEN FILE")
	body, err := telemeterBody(ts.ReadFile(args[2]))
	ts.Check(err)
	header := http.Header{
		"Content-Type":     {"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"},
		"Content-Encoding": {"snappy"},
	}
	answer, text, err := telemeterRequest(args[0]+"/upload", args[1], header, io.MultiReader(bytes.NewReader(body)))
	if err != nil || strconv.Itoa(answer.StatusCode) != want {
		of(ts).fail(ts, "upload %s: want %s, got %v, %v\n%s", args[2], want, answer, err, text)
	}
	fmt.Fprintf(ts.Stdout(), "Retry-After: %s\n%s", answer.Header.Get("Retry-After"), text)
}

// telemeterBody is what a client makes of what it federated: every sample has a time.
func telemeterBody(exposition string) ([]byte, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(exposition))
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	compressed := snappy.NewBufferedWriter(&body)
	encoder := expfmt.NewEncoder(compressed, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, f := range families {
		for _, m := range f.Metric {
			if m.TimestampMs == nil {
				m.TimestampMs = new(time.Now().UnixMilli())
			}
		}
		if err := encoder.Encode(f); err != nil {
			return nil, err
		}
	}
	err = compressed.Close()
	return body.Bytes(), err
}
