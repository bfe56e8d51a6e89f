package natsmon

import "sync"

// history is what has to be remembered from one reading to the next. It is safe for concurrent use.
type history struct {
	mu sync.Mutex
}

func newHistory() *history { return &history{} }
