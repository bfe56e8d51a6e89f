package push

import (
	"bufio"
	"bytes"
	"context"
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
	// learnEvery bounds how often the gateway is asked for its types, and learnedFor is how long the answer is believed.
	learnEvery, learnedFor = time.Minute, time.Hour
	// maxTypes bounds the families whose types are remembered.
	maxTypes = 100_000
)

// gatewayTypes are the types of the families that a gateway has, its own included. It refuses a group as a whole in
// which one of them has another type, and what comes by /federate has none: then it is pushed under the type that the
// gateway has. Nothing has to be known as long as nothing is refused.
type gatewayTypes map[string]model.MetricType

// fit returns in which family, of which type, a series has to stand for the gateway to take it, and in which label it
// differs from others of one metric. What it is given is what the source says.
func (t gatewayTypes) fit(name, family string, typ model.MetricType, part string) (string, model.MetricType, string) {
	if len(t) == 0 {
		return family, typ, part
	}
	has, ok := t[name]
	switch {
	case ok && !isComposite(has):
		return name, has, ""
	case isComposite(typ):
		return family, typ, part
	case has == model.MetricTypeSummary:
		return name, has, model.QuantileLabel
	}
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
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
	if has := t[name]; !isComposite(has) {
		return has
	}
	return model.MetricTypeUnknown
}

// learn asks the gateway for its types. It is false if there is nothing new, or no answer.
func (c *Client) learn(ctx context.Context) bool {
	now := c.now()
	if now.Sub(c.learned) < learnEvery {
		return false
	}
	c.learned = now
	types, err := c.fetchTypes(ctx)
	if err != nil {
		c.repeats.Log(slog.LevelWarn, "types", "types of the Push Gateway are not known", slog.Any("err", err))
		return false
	}
	before := c.types
	c.types = types
	return !maps.Equal(before, types)
}

// forgetTypes forgets what was learned long ago: sources may say something else by now.
func (c *Client) forgetTypes(now time.Time) {
	if now.Sub(c.learned) > learnedFor {
		c.types = nil
	}
}

func (c *Client) fetchTypes(ctx context.Context) (gatewayTypes, error) {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.settings.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", textContent)
	response, err := c.settings.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", request.URL.EscapedPath(), response.Status)
	}
	return readTypes(response.Body)
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
