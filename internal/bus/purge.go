package bus

import (
	"context"
	"fmt"
)

// Purge deletes the messages of a subject in front of a sequence, as only a hub may. It returns how many there were.
func (c *Conn) Purge(ctx context.Context, subject string, before uint64) (deleted uint64, err error) {
	request := struct {
		Filter string `json:"filter"`
		Before uint64 `json:"seq"`
	}{subject, before}
	var answer struct {
		Purged uint64    `json:"purged"`
		Error  *apiError `json:"error"`
	}
	if err := c.api(ctx, "STREAM.PURGE."+c.options.Config.Stream.Name, request, &answer); err != nil {
		return 0, fmt.Errorf("purge %s before %d: %w", subject, before, err)
	}
	if answer.Error != nil {
		return 0, fmt.Errorf("purge %s before %d: %w", subject, before, answer.Error.typed())
	}
	return answer.Purged, nil
}
