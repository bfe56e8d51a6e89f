package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamResult says what EnsureStream found and did.
type StreamResult struct {
	Created bool
	Updated bool
	// Differences from the configuration, as found, one line each: what the stream has, what was wanted.
	Differences []string
}

// EnsureStream sees to it that the stream of the configuration exists. It is created if absent and manage is set, and
// one that differs is brought into line; without manage it must exist, capture all lanes and allow direct gets, and
// other differences are only reported. It tries once: callers repeat it after errors and after reconnects.
func (c *Conn) EnsureStream(ctx context.Context) (StreamResult, error) {
	result, err := c.ensureStream(ctx)
	if err != nil {
		return result, fmt.Errorf("ensure stream %q: %w", c.options.Config.Stream.Name, err)
	}
	return result, nil
}

func (c *Conn) ensureStream(ctx context.Context) (StreamResult, error) {
	cfg := &c.options.Config.Stream
	want := c.wantedStream()
	info, err := c.streamInfo(ctx)
	if errors.Is(err, ErrNoStream) && cfg.Manage {
		if err = c.putStream(ctx, "CREATE", &want); err == nil {
			return StreamResult{Created: true}, nil
		}
		if failure := (*APIError)(nil); errors.As(err, &failure) {
			// Another hub may have been faster. Of the refusals that this leads to, the one for want of space is met
			// first, as the other's stream has reserved its own already.
			if found, lookErr := c.streamInfo(ctx); lookErr == nil {
				info, err = found, nil
			}
		}
	}
	if err != nil {
		return StreamResult{}, err
	}
	have := info.Config
	if !cfg.Manage && isCopy(&have) {
		// The original captures the lanes, and answers the direct gets of sites.
		have.Subjects, have.AllowDirect = want.Subjects, true
	}
	result := StreamResult{Differences: differences(&have, &want)}
	captures := capturesAll(have.Subjects, want.Subjects[0])
	switch {
	case len(result.Differences) == 0:
		return result, nil
	case !cfg.Manage && !captures:
		return result, fmt.Errorf("it captures %s, but not %s; it is not managed here (manage: false)",
			strings.Join(have.Subjects, ", "), want.Subjects[0])
	case !cfg.Manage && !have.AllowDirect:
		return result, errors.New("it has allow_direct off, which sites need; it is not managed here (manage: false)")
	case !cfg.Manage:
		return result, nil
	}
	if !captures {
		have.Subjects = append(have.Subjects, want.Subjects...)
	}
	have.Storage, have.Retention, have.Discard = want.Storage, want.Retention, want.Discard
	have.MaxAge, have.MaxBytes, have.Replicas, have.AllowDirect = want.MaxAge, want.MaxBytes, want.Replicas, true
	if err := c.putStream(ctx, "UPDATE", &have); err != nil {
		return result, fmt.Errorf("bring it into line (%s): %w", strings.Join(result.Differences, "; "), err)
	}
	result.Updated = true
	return result, nil
}

func (c *Conn) wantedStream() jetstream.StreamConfig {
	cfg := &c.options.Config.Stream
	if c.options.Bucket != "" {
		return c.wantedBucket()
	}
	if c.options.Journals != "" {
		return c.wantedJournals()
	}
	if c.options.Events != "" {
		return c.wantedEvents()
	}
	return jetstream.StreamConfig{
		Name:        cfg.Name,
		Description: "Thalweg frames",
		Subjects:    []string{c.root.AllLanes()},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      time.Duration(cfg.MaxAge),
		MaxBytes:    int64(cfg.MaxBytes),
		Replicas:    cfg.Replicas,
		AllowDirect: true,
	}
}

func differences(have, want *jetstream.StreamConfig) []string {
	var d []string
	differ := func(key string, have, want any) {
		if have != want {
			d = append(d, fmt.Sprintf("%s is %v, want %v", key, have, want))
		}
	}
	if !capturesAll(have.Subjects, want.Subjects[0]) {
		differ("subjects", strings.Join(have.Subjects, ", "), want.Subjects[0])
	}
	differ("storage", have.Storage, want.Storage)
	differ("retention", have.Retention, want.Retention)
	differ("discard", have.Discard, want.Discard)
	differ("max_age", have.MaxAge, want.MaxAge)
	differ("max_bytes", have.MaxBytes, want.MaxBytes)
	differ("replicas", have.Replicas, want.Replicas)
	differ("allow_direct", have.AllowDirect, want.AllowDirect)
	return d
}

// isCopy reports whether the server fills the stream from others.
func isCopy(c *jetstream.StreamConfig) bool { return c.Mirror != nil || len(c.Sources) > 0 }

// capturesAll reports whether one of the subjects covers everything that wanted, which ends in a wildcard, does.
func capturesAll(subjects []string, wanted string) bool {
	return slices.ContainsFunc(subjects, func(s string) bool {
		have, want := strings.Split(s, "."), strings.Split(wanted, ".")
		for i, t := range have {
			switch {
			case t == ">":
				return true
			case i >= len(want) || want[i] == ">":
				return false
			case t != "*" && t != want[i]:
				return false
			}
		}
		return len(have) == len(want)
	})
}

// putStream creates or updates.
func (c *Conn) putStream(ctx context.Context, verb string, config *jetstream.StreamConfig) error {
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := c.api(ctx, "STREAM."+verb+"."+config.Name, config, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error.typed()
	}
	return nil
}

// streamInfo asks the stream's leader.
func (c *Conn) streamInfo(ctx context.Context) (*jetstream.StreamInfo, error) {
	var answer struct {
		jetstream.StreamInfo
		Error *apiError `json:"error"`
	}
	if err := c.api(ctx, "STREAM.INFO."+c.options.Config.Stream.Name, nil, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, answer.Error.typed()
	}
	return &answer.StreamInfo, nil
}

// storedMessage reads a message back from the stream's leader: the one with the sequence or, if a subject is given,
// the first of that subject, which may have wildcards, from the sequence on. It returns ErrNoMessage if there is none.
func (c *Conn) storedMessage(ctx context.Context, sequence uint64, subject string) (Message, error) {
	request := struct {
		Sequence uint64 `json:"seq"`
		Next     string `json:"next_by_subj,omitempty"`
	}{sequence, subject}
	var answer struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
		Error *apiError `json:"error"`
	}
	if err := c.api(ctx, "STREAM.MSG.GET."+c.options.Config.Stream.Name, request, &answer); err != nil {
		return Message{}, err
	}
	if answer.Error != nil {
		return Message{}, answer.Error.typed()
	}
	m := answer.Message
	return Message{Subject: m.Subject, Sequence: m.Sequence, Payload: m.Data, Time: m.Time}, nil
}

// api makes a request of the JetStream API. The answer has a field error, which the caller looks at.
func (c *Conn) api(ctx context.Context, method string, request, answer any) error {
	var data []byte
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			return fmt.Errorf("encode %s: %w", method, err)
		}
	}
	m, err := c.roundTrip(ctx, apiTimeout, &nats.Msg{Subject: apiPrefix(c.options.Config.Domain) + method, Data: data})
	c.countUnanswered(err)
	if err != nil {
		return fmt.Errorf("JetStream API: %w", err)
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fmt.Errorf("parse answer to %s: %w", method, err)
	}
	return nil
}
