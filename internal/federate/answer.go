package federate

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	// firstBytes are sent at once, so that the reader sees an answer begin; later ones in larger pieces.
	firstBytes = 4 << 10
	pieceBytes = 64 << 10
	// writeTimeout is how long a reader may take for one piece.
	writeTimeout = time.Minute
)

// answer is the body of one response on its way out. It is used again for other requests.
type answer struct {
	buf    []byte // not sent yet
	labels []labels.Label

	writer     http.ResponseWriter
	controller *http.ResponseController
	gzip       *gzip.Writer
	compress   bool
	begun      bool
	written    int64 // bytes that the response has taken
}

func newAnswer() *answer {
	z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic("federate: BUG: " + err.Error()) // the level is a constant
	}
	return &answer{gzip: z}
}

func (a *answer) reset(w http.ResponseWriter, compress bool) {
	a.writer, a.controller = w, http.NewResponseController(w)
	a.buf, a.compress, a.begun, a.written = a.buf[:0], compress, false, 0
	a.gzip.Reset(responseWriter{a})
}

// release lets go of the request, and of a buffer that one series has made too large to keep.
func (a *answer) release() {
	a.writer, a.controller = nil, nil
	clear(a.labels[:cap(a.labels)])
	if cap(a.buf) > 4*pieceBytes {
		a.buf = nil
	}
}

// flush sends what has accumulated if it is worth it.
func (a *answer) flush() error {
	if len(a.buf) < firstBytes || a.begun && len(a.buf) < pieceBytes {
		return nil
	}
	if err := a.send(); err != nil {
		return err
	}
	if a.begun {
		return nil
	}
	a.begun = true
	if a.compress {
		if err := a.gzip.Flush(); err != nil {
			return fmt.Errorf("compress answer: %w", err)
		}
	}
	if err := a.controller.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("flush answer: %w", err)
	}
	return nil
}

// close sends the rest.
func (a *answer) close() error {
	if err := a.send(); err != nil {
		return err
	}
	if a.compress {
		if err := a.gzip.Close(); err != nil {
			return fmt.Errorf("compress answer: %w", err)
		}
	}
	return nil
}

func (a *answer) send() error {
	var err error
	if a.compress {
		_, err = a.gzip.Write(a.buf)
	} else {
		_, err = responseWriter{a}.Write(a.buf)
	}
	a.buf = a.buf[:0]
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// responseWriter writes to the response of an answer, each time with a deadline of its own.
type responseWriter struct{ *answer }

func (w responseWriter) Write(p []byte) (int, error) {
	err := w.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, fmt.Errorf("set write deadline: %w", err)
	}
	n, err := w.writer.Write(p)
	w.written += int64(n)
	return n, err
}
