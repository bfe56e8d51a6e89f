package push

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

const (
	// learnedFor is how long it is believed which types a gateway has. After a refusal it is asked sooner, but not more
	// often than every learnEvery.
	learnedFor, learnEvery = time.Hour, time.Minute
	// maxTypes bounds the families whose types are remembered.
	maxTypes = 100_000
)

// gatewayTypes are the types of the families that a gateway has: its own, those of other clients, and what was pushed.
// Where two groups disagree on one of them the gateway refuses the second as a whole or, without its consistency check,
// takes it and serves nothing any more. What comes by /federate has no types. So the first type of a name holds for all
// that is pushed.
type gatewayTypes map[string]model.MetricType

// fit returns in which family, of which type, a series has to stand for the gateway to take it, and in which label it
// differs from others of one metric. What it is given is what the source says.
func (t gatewayTypes) fit(name, family string, typ model.MetricType, part string) (string, model.MetricType, string) {
	has, ok := t[name]
	switch {
	case ok && !isComposite(has):
		return name, has, ""
	case isComposite(typ):
		return family, typ, part
	case has == model.MetricTypeSummary:
		return name, has, model.QuantileLabel
	}
	for _, suffix := range partSuffixes {
		stem, ok := strings.CutSuffix(name, suffix)
		switch has := t[stem]; {
		case !ok || !isComposite(has):
		case suffix != "_bucket":
			return stem, has, ""
		case has == model.MetricTypeHistogram:
			return stem, has, model.BucketLabel
		}
	}
	return family, typ, part
}

// plain is the type of a family of single series, about which the source says nothing.
func (t gatewayTypes) plain(name string) model.MetricType {
	if has, ok := t[name]; ok && !isComposite(has) {
		return has
	}
	return model.MetricTypeUnknown
}

// admits reports whether a family can stand beside what the gateway has, and notes it.
func (t gatewayTypes) admits(name string, typ model.MetricType) bool {
	if has, ok := t[name]; ok {
		return has == typ
	}
	if !isComposite(typ) {
		for _, suffix := range partSuffixes {
			stem, ok := strings.CutSuffix(name, suffix)
			if has := t[stem]; ok && isComposite(has) && (suffix != "_bucket" || has == model.MetricTypeHistogram) {
				return false
			}
		}
	}
	if t != nil && len(t) < maxTypes {
		t[name] = typ
	}
	return true
}

// learn asks the gateway for its types, and returns whether there is something new. An error says that it cannot be
// reached. One that is there and does not say what it has is pushed to all the same.
func (c *Client) learn(ctx context.Context) (news bool, err error) {
	c.learned = c.now()
	types, err := c.fetchTypes(ctx)
	switch {
	case errors.Is(err, errNoTypes):
		c.repeats.Log(slog.LevelWarn, "types", "types of what the Push Gateway has are not known", slog.Any("err", err))
		types, err = c.types, nil
	case err != nil:
		c.learned = time.Time{}
		c.metrics.requests.WithLabelValues(string(pushFailed)).Inc()
		return false, err
	}
	before := c.types
	if c.types = types; types == nil {
		c.types = gatewayTypes{}
	}
	return !maps.Equal(before, c.types), nil
}

// errNoTypes says that the gateway answered, but not with its metrics.
var errNoTypes = errors.New("no metrics")

func (c *Client) fetchTypes(ctx context.Context) (gatewayTypes, error) {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.settings.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", textContent)
	response, err := c.settings.http.Do(request)
	switch {
	case err != nil && ctx.Err() == context.DeadlineExceeded: // it may have very much to say
		return nil, fmt.Errorf("%w: %w", errNoTypes, err)
	case err != nil:
		return nil, err
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		return nil, fmt.Errorf("GET %s: %s", request.URL.EscapedPath(), response.Status)
	case code != http.StatusOK: // 500: others have pushed contradictions
		return nil, fmt.Errorf("%w: GET %s: %s", errNoTypes, request.URL.EscapedPath(), response.Status)
	}
	types, err := readTypes(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoTypes, err)
	}
	return types, nil
}

// readTypes reads the TYPE lines of an exposition.
func readTypes(r io.Reader) (gatewayTypes, error) {
	types := gatewayTypes{}
	lines := bufio.NewReader(r)
	for begins := true; ; {
		line, goesOn, err := lines.ReadLine()
		switch {
		case err == io.EOF:
			return types, nil
		case err != nil:
			return nil, fmt.Errorf("read exposition: %w", err)
		}
		if begins && bytes.HasPrefix(line, []byte("# TYPE ")) {
			if f := strings.Fields(string(line)); len(f) == 4 && len(types) < maxTypes {
				types[f[2]] = typeOf(f[3])
			}
		}
		begins = !goesOn
	}
}

// typeOf reads the word that the text format has for a type.
func typeOf(word string) model.MetricType {
	if word == "untyped" {
		return model.MetricTypeUnknown
	}
	return model.MetricType(word)
}
