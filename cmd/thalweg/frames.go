package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/frame"
	"github.com/thalweg/thalweg/internal/series"
)

// whereFrames is what dump and verify say about their arguments.
const whereFrames = `PATH is a file of frames, the directory of an outbox (its files *.frames in the order of their
names), or the lanes of a site in a stream, as nats://HOST:PORT#SITE or nats://HOST:PORT#SITE/live
or .../backfill. What else is needed to connect is taken from section nats of --config.file.`

// placedFrame is a frame, or bytes that are none, and where it stands.
type placedFrame struct {
	place    string // FILE:OFFSET or SUBJECT#SEQUENCE:OFFSET
	lane     string // frames of one lane belong together, and come in its order
	site     string // of which lanes of one site are; the directory of files
	backfill bool
	header   frame.Header // as far as it could be read
	bytes    []byte
	err      error // the bytes are not a frame; nothing behind them is looked at
	torn     bool  // err means only that the file written last ends within a frame
}

// frameSource finds frames.
type frameSource struct {
	configFile string
}

func (s *frameSource) add(f *pflag.FlagSet) {
	f.StringVar(&s.configFile, "config.file", "", "configuration file whose nats section says how to reach a stream")
}

// each hands over all frames in the order in which they were written. They are valid until handle returns.
func (s *frameSource) each(ctx context.Context, paths []string, handle func(*placedFrame) error) error {
	for _, path := range paths {
		if strings.Contains(path, "://") {
			if err := s.stream(ctx, path, handle); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		files := []string{path}
		if info.IsDir() {
			if files, err = frameFiles(path); err != nil {
				return err
			}
			if len(files) == 0 {
				return fmt.Errorf("read outbox %q: it has no files *.frames", path)
			}
		}
		for _, file := range files {
			if err := eachInFile(file, handle); err != nil {
				return err
			}
		}
	}
	return nil
}

// frameFiles lists the files of an outbox in the order of writing.
func frameFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.frames"))
	slices.Sort(files)
	return files, err
}

// newest reports whether nothing was written behind a file, so that it may end within a frame.
func newest(file string) (bool, error) {
	files, err := frameFiles(filepath.Dir(file))
	return len(files) == 0 || files[len(files)-1] <= file, err
}

func eachInFile(file string, handle func(*placedFrame) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	dir := filepath.Dir(file)
	for offset := 0; ; {
		p := placedFrame{place: fmt.Sprintf("%s:%d", file, offset), lane: dir, site: dir}
		p.bytes, p.header, p.err = readFrame(in)
		switch {
		case p.err == io.EOF:
			return nil
		case errors.Is(p.err, frame.ErrShort):
			if p.torn, err = newest(file); err != nil {
				return err
			}
		case p.err != nil && frame.ErrorKind(p.err) == "":
			return fmt.Errorf("read %s: %w", p.place, p.err)
		}
		if err := handle(&p); err != nil || p.err != nil {
			return err
		}
		offset += len(p.bytes)
	}
}

// readFrame reads one frame. The error is io.EOF if there is none; bytes that are no frame are errors of package frame.
func readFrame(in *bufio.Reader) ([]byte, frame.Header, error) {
	head, err := in.Peek(frame.HeaderSize)
	if len(head) == 0 {
		return nil, frame.Header{}, err
	}
	h, err := frame.ParseHeader(head)
	if h.Size == 0 || err != nil && !errors.Is(err, frame.ErrShort) {
		return nil, h, err
	}
	b := make([]byte, h.Size) // at most frame.MaxSize
	n, err := io.ReadFull(in, b)
	if err != nil && err != io.ErrUnexpectedEOF {
		return nil, h, err
	}
	h, err = frame.ParseHeader(b[:n])
	return b[:n], h, err
}

// stream hands over what a stream holds of a site when it begins.
func (s *frameSource) stream(ctx context.Context, address string, handle func(*placedFrame) error) error {
	server, name, _ := strings.Cut(address, "#")
	site, lane, one := strings.Cut(name, "/")
	lanes := bus.Lanes()
	if one {
		lanes = []bus.Lane{bus.Lane(lane)}
		if !slices.Contains(bus.Lanes(), bus.Lane(lane)) {
			return usage("%s: lane %q is neither live nor backfill", address, lane)
		}
	}
	if err := bus.ValidSite(site); err != nil {
		return usage("%s: %w", address, err)
	}
	cfg := bus.DefaultConfig()
	if s.configFile != "" {
		var err error
		if cfg, err = config.LoadClient(s.configFile); err != nil {
			return fmt.Errorf("%s is not valid:\n%w", s.configFile, err)
		}
	}
	cfg.URLs = []string{server}
	cfg.Stream.Manage = false // looking changes nothing
	conn, err := bus.Connect(bus.Options{Config: cfg, Name: "thalweg dump", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", server, err)
	}
	defer conn.Close()
	if err := awaitConnection(ctx, conn); err != nil {
		return fmt.Errorf("connect to %s: %w", server, err)
	}
	// A reader tries for ever. What is wrong from the beginning, such as no stream or the credential of a site, is said.
	if _, err := conn.EnsureStream(ctx); err != nil {
		return fmt.Errorf("look at %s: %w", server, err)
	}
	var subjects []string
	for _, l := range lanes {
		subjects = append(subjects, conn.Root().Lane(site, l))
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	caughtUp := false
	reader, err := conn.NewReader(bus.ReaderOptions{
		Name:     "dump",
		Subjects: subjects,
		Handle:   func(m bus.Message) error { return eachInMessage(conn.Root(), &m, handle) },
		CaughtUp: func() {
			caughtUp = true
			done()
		},
	})
	if err != nil {
		return err
	}
	if err := reader.Run(ctx); err != nil && !caughtUp {
		return err
	}
	return nil
}

// awaitConnection gives a server as long to answer as somebody at a terminal will wait.
func awaitConnection(ctx context.Context, conn *bus.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		state, changed := conn.Watch()
		if state.Connected {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New(state.Reason)
		}
	}
}

func eachInMessage(root bus.Root, m *bus.Message, handle func(*placedFrame) error) error {
	site, lane, err := root.ParseLane(m.Subject)
	if err != nil {
		return err
	}
	for rest := m.Payload; len(rest) > 0; {
		p := placedFrame{
			place: fmt.Sprintf("%s#%d:%d", m.Subject, m.Sequence, len(m.Payload)-len(rest)),
			lane:  m.Subject, site: site, backfill: lane == bus.Backfill,
		}
		p.header, p.bytes, rest, p.err = frame.Split(rest)
		if err := handle(&p); err != nil || p.err != nil {
			return err
		}
	}
	return nil
}

// newFrameDecoder takes everything that the format allows, for those who look at files are not attacked by them.
func newFrameDecoder(catalog *series.Catalog) *frame.Decoder {
	return frame.NewDecoder(frame.DecoderConfig{Catalog: catalog, MaxBody: frame.MaxSize})
}
