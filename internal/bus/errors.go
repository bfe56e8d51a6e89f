package bus

import (
	"errors"
	"fmt"
)

// What a publish may end with besides success. Exactly one of ErrDoubtful, ErrNotStored, *SequenceError and *APIError
// is in the chain of every error of Publish.
var (
	// ErrDoubtful means that the message may be stored, now or in a moment, or may not: no answer in time, connection
	// lost, or an answer that decides nothing.
	ErrDoubtful = errors.New("outcome unknown")
	// ErrNotStored means that the message did not reach a stream.
	ErrNotStored = errors.New("not stored")
)

// Reasons, found in the chain beside the above or alone.
var (
	// ErrNotConnected means that there is no connection at this moment; State says why.
	ErrNotConnected = errors.New("not connected")
	// ErrNoListener means that nobody listens on the subject: no stream, no hub, no edge.
	ErrNoListener = errors.New("nobody listens on this subject")
	// ErrTooLarge means that the payload exceeds what the server takes, see MaxPayload, or the stream.
	ErrTooLarge = errors.New("larger than the server allows")
	// ErrDenied means that the server refuses this subject to this client.
	ErrDenied = errors.New("permission denied by the server")
	// ErrNoMessage means that a subject has no message in the stream.
	ErrNoMessage = errors.New("no message")
	// ErrNoStream means that the stream does not exist.
	ErrNoStream = errors.New("stream does not exist")
)

// Error codes of the JetStream API that this package decides on.
const (
	codeStreamNotFound       = 10059
	codeMessageNotFound      = 10037
	codeMessageTooLarge      = 10054 // for the stream's max_msg_size
	codeWrongSequence        = 10071 // names the actual one
	codeWrongSequenceUnnamed = 10164 // another message of the subject is in flight inside the server
)

// SequenceError is the refusal of a publish whose expectation is wrong: the message is not stored by this publish, and
// Last is the sequence of the last message on the subject, 0 for none. It may be this very message, stored by an
// earlier attempt whose answer was lost.
type SequenceError struct {
	Subject string
	Last    uint64
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("subject %q: last sequence is %d", e.Subject, e.Last)
}

// APIError is any other refusal by JetStream. The message is not stored.
type APIError struct {
	Code        int // the JetStream error code, five digits; the HTTP-like status if there is none
	Description string
}

func (e *APIError) Error() string {
	return fmt.Sprintf("JetStream error %d: %s", e.Code, e.Description)
}
