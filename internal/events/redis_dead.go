package events

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
)

// deadLetters are kept in the list; deadAtOnce are pushed at a time.
const (
	deadLetters = 1000
	deadAtOnce  = deadLetters / 2
)

// keepDead keeps an element that could not be taken until the next bury. It is called with mu.
func (s *redisSource) keepDead(payload []byte) {
	switch {
	case s.config.DeadLetterKey == "":
	case len(s.dead) < deadAtOnce:
		s.dead = append(s.dead, string(payload))
	default:
		s.metrics.unburied.Inc()
	}
}

// bury pushes what could not be taken to the list of dead letters. A list that the server refuses to change is no reason to
// take no events. What a crash leaves out is not there.
func (s *redisSource) bury(c *redisConn) error {
	if len(s.dead) == 0 {
		return nil
	}
	key, dead := s.config.DeadLetterKey, s.dead
	s.dead = nil
	_, err := c.do("LTRIM", key, "0", strconv.Itoa(deadLetters-len(dead)-1)) // first, so that the list has a limit whatever comes
	if err == nil {
		_, err = c.do(append([]string{"LPUSH", key}, dead...)...)
	}
	if err == nil {
		return nil
	}
	s.metrics.unburied.Add(float64(len(dead)))
	if isRedisError(err) {
		s.repeats.Log(slog.LevelWarn, "bury", "elements that could not be taken are not in the list of dead letters", slog.String("key", key), slog.Any("err", err))
		return nil
	}
	return fmt.Errorf("push to %q: %w", key, err)
}

// buryLast is bury behind the last session.
func (s *redisSource) buryLast(ctx context.Context) {
	if len(s.dead) == 0 {
		return
	}
	_, err := s.lease.do(context.WithoutCancel(ctx), func(c *redisConn) (answer, error) { return answer{}, s.bury(c) }) // which has timeouts
	if err != nil {
		s.options.Logger.Warn("elements that could not be taken are not in the list of dead letters", "err", err)
	}
}
