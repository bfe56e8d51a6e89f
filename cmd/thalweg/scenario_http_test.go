package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/rogpeppe/go-internal/testscript"
)

// request makes one request on a connection of its own, so that a server that was started anew is a new server.
func request(method, url string) (code int, body string, err error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(b), err
}

func cmdGet(ts *testscript.TestScript, neg bool, args []string)  { cmdRequest(ts, neg, "GET", args) }
func cmdPost(ts *testscript.TestScript, neg bool, args []string) { cmdRequest(ts, neg, "POST", args) }

func cmdRequest(ts *testscript.TestScript, neg bool, method string, args []string) {
	want, args := option(args, "code", "200")
	usageOf(ts, !neg && len(args) == 1, "get|post [-code=N] URL")
	code, body, err := request(method, args[0])
	if err != nil || strconv.Itoa(code) != want {
		of(ts).fail(ts, "%s %s: code %d, want %s, %v\n%s", method, args[0], code, want, err, body)
	}
	fmt.Fprint(ts.Stdout(), body)
}

func cmdWaitHTTP(ts *testscript.TestScript, neg bool, args []string) {
	code, args := option(args, "code", "200")
	usageOf(ts, len(args) > 1, "[!] wait-http [-code=N] URL REGEXP...")
	waitHTTP(ts, neg, code, args[0], compileAll(ts, args[1:])...)
}

func waitHTTP(ts *testscript.TestScript, neg bool, code, url string, patterns ...*regexp.Regexp) {
	eventually(ts, func() error {
		got, body, err := request("GET", url)
		if err != nil {
			return err
		}
		if strconv.Itoa(got) != code {
			return fmt.Errorf("GET %s: code %d, want %s\n%.2000s", url, got, code, body)
		}
		for _, re := range patterns {
			if re.MatchString(body) == neg {
				return fmt.Errorf("GET %s: %q matches: %t\n%.2000s", url, re, !neg, body)
			}
		}
		return nil
	})
}

func federateURL(address, selector string) string {
	return "http://" + address + "/federate?" + url.Values{"match[]": {selector}}.Encode()
}

func cmdShows(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, len(args) > 2, "[!] shows ADDRESS SELECTOR REGEXP...")
	waitHTTP(ts, neg, "200", federateURL(args[0], args[1]), compileAll(ts, args[2:])...)
}

// cmdSameValues compares what /federate says, without the labels that the way has added, with what a target says.
func cmdSameValues(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 3, "same-values ADDRESS SELECTOR FILE")
	want, err := exposition(ts.ReadFile(args[2]))
	ts.Check(err)
	if len(want) == 0 {
		ts.Fatalf("there is no series in %s", args[2])
	}
	eventually(ts, func() error {
		code, body, err := request("GET", federateURL(args[0], args[1]))
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("code %d, %w", code, err)
		}
		got, err := exposition(body)
		if err != nil {
			return fmt.Errorf("parse what /federate says: %w\n%s", err, body)
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("/federate has\n%v\nwant\n%v", got, want)
		}
		return nil
	})
}

// exposition returns the values of the series in the text format, without site, job and instance.
func exposition(text string) (map[string]string, error) {
	values := map[string]string{}
	p := textparse.NewPromParser([]byte(text), labels.NewSymbolTable(), false)
	for {
		switch entry, err := p.Next(); {
		case err == io.EOF:
			return values, nil
		case err != nil:
			return nil, err
		case entry != textparse.EntrySeries:
			continue
		}
		var series labels.Labels
		p.Labels(&series)
		_, _, value := p.Series()
		key := labels.NewBuilder(series).Del("site", "job", "instance").Labels().String()
		if _, twice := values[key]; twice {
			return nil, fmt.Errorf("%s is there twice", key)
		}
		values[key] = strconv.FormatFloat(value, 'g', -1, 64)
	}
}

// answer is that of a query of Prometheus.
type answer struct {
	Status, Error string
	Data          struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
			Values [][2]any
		}
	}
}

func query(address, expr string) (answer, error) {
	_, body, err := request("GET", "http://"+address+"/api/v1/query?"+url.Values{"query": {expr}}.Encode())
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		return answer{}, fmt.Errorf("query %q: %w\n%s", expr, err, body)
	}
	if a.Status != "success" {
		return answer{}, fmt.Errorf("query %q: %s", expr, a.Error)
	}
	return a, nil
}

func cmdPromQuery(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, len(args) == 3, "[!] promquery ADDRESS EXPR REGEXP")
	re := compile(ts, args[2])
	eventually(ts, func() error {
		a, err := query(args[0], args[1])
		if err != nil {
			return err
		}
		var lines []string
		for _, r := range a.Data.Result {
			lines = append(lines, fmt.Sprintf("%s %v", labels.FromMap(r.Metric), r.Value[1]))
		}
		slices.Sort(lines)
		if text := strings.Join(lines, "\n"); re.MatchString(text) == neg {
			return fmt.Errorf("query %q: %q matches: %t\n%s", args[1], re, !neg, text)
		}
		return nil
	})
}

// cmdSameSamples compares raw samples, by series without the label site, time and value.
func cmdSameSamples(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 5, "same-samples N ADDRESS EXPR ADDRESS EXPR")
	atLeast, err := strconv.Atoi(args[0])
	ts.Check(err)
	eventually(ts, func() error {
		some, err := samples(args[1], args[2])
		if err != nil {
			return err
		}
		all, err := samples(args[3], args[4])
		if err != nil {
			return err
		}
		for sample := range some {
			if !all[sample] {
				return fmt.Errorf("%s has %s, %s has not", args[1], sample, args[3])
			}
		}
		if len(some) < atLeast {
			return fmt.Errorf("%s has %d samples of %s", args[1], len(some), args[2])
		}
		return nil
	})
}

func samples(address, expr string) (map[string]bool, error) {
	a, err := query(address, expr)
	set := map[string]bool{}
	for _, r := range a.Data.Result {
		delete(r.Metric, "site")
		for _, v := range r.Values {
			set[fmt.Sprintf("%s %v at %.3f", labels.FromMap(r.Metric), v[1], v[0])] = true
		}
	}
	return set, err
}

// cmdComplete waits until a hub knows sites and misses nothing of them.
func cmdComplete(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "complete ADDRESS")
	eventually(ts, func() error {
		var sites struct {
			Data []struct {
				Name        string
				MissingRows uint64
				LastRow     time.Time
			}
		}
		_, body, err := request("GET", "http://"+args[0]+"/api/v1/thalweg/sites")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &sites); err != nil {
			return err
		}
		_, gaps, err := request("GET", "http://"+args[0]+"/api/v1/thalweg/gaps")
		if err != nil {
			return err
		}
		if len(sites.Data) == 0 {
			return fmt.Errorf("the hub knows no site")
		}
		for _, s := range sites.Data {
			if s.MissingRows > 0 || s.LastRow.IsZero() {
				return fmt.Errorf("site %s: %d rows missing, last row at %s; gaps: %s", s.Name, s.MissingRows, s.LastRow, gaps)
			}
		}
		if !strings.Contains(gaps, `"data":[]`) {
			return fmt.Errorf("gaps: %s", gaps)
		}
		return nil
	})
}
