package federate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	// firstBytes are sent at once, so that the reader sees an answer begin; later ones in larger pieces.
	firstBytes = 4 << 10
	pieceBytes = 64 << 10
	// writeTimeout is how long a reader may take for one piece.
	writeTimeout = time.Minute
	// zstdWindow is how far back zstd looks, which bounds its memory here and at the reader.
	zstdWindow = 512 << 10
)

// answer is the body of one response on its way out. It is used again for other requests.
type answer struct {
	buf    []byte         // not sent yet
	labels []labels.Label // of the current series
	points points         // of the current chunk
	lines  *lines
	series int // written

	writer     http.ResponseWriter
	controller *http.ResponseController
	coder      coder // nil: the body is sent as it is
	begun      bool
	written    int64 // bytes that the response has taken

	coders map[string]coder // by content coding, made when first asked for
}

// coder is a content coding.
type coder interface {
	io.Writer
	Flush() error
	Close() error
	Reset(io.Writer)
}

func newAnswer() *answer {
	return &answer{coders: map[string]coder{}, points: points{byKey: map[string]int{}}, lines: newLines()}
}

func (a *answer) reset(w http.ResponseWriter, coding string) {
	a.writer, a.controller = w, http.NewResponseController(w)
	a.buf, a.series, a.begun, a.written = a.buf[:0], 0, false, 0
	if a.coder = nil; coding == codingIdentity {
		return
	}
	if a.coders[coding] == nil {
		a.coders[coding] = newCoder(coding)
	}
	a.coder = a.coders[coding]
	a.coder.Reset(responseWriter{a})
}

// newCoder returns the fastest of a coding: metrics are so alike that others gain little.
func newCoder(coding string) coder {
	var c coder
	var err error
	if coding == codingZstd {
		c, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	} else {
		c, err = gzip.NewWriterLevel(nil, gzip.BestSpeed)
	}
	if err != nil {
		panic("federate: BUG: " + err.Error()) // the options are constant
	}
	return c
}

// release lets go of the request, and of a buffer that one series has made too large to keep.
func (a *answer) release() {
	a.writer, a.controller, a.coder = nil, nil, nil
	a.points.release()
	a.lines.release()
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
	if a.coder != nil {
		if err := a.coder.Flush(); err != nil {
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
	if a.coder != nil {
		if err := a.coder.Close(); err != nil {
			return fmt.Errorf("compress answer: %w", err)
		}
	}
	return nil
}

func (a *answer) send() error {
	var err error
	if a.coder != nil {
		_, err = a.coder.Write(a.buf)
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
