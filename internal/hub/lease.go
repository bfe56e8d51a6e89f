package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/telemetry"
)

// leaseTimes are how a lease is kept. A holder stops before another hub may begin.
type leaseTimes struct {
	poll    time.Duration // how often who waits looks at the journal
	beat    time.Duration // how often the holder appends something
	bound   time.Duration // how long after its last entry the holder may deliver
	silence time.Duration // after how long without an entry another one takes over
}

func defaultLeaseTimes() leaseTimes {
	return leaseTimes{poll: 500 * time.Millisecond, beat: 2 * time.Second, bound: 6 * time.Second, silence: 8 * time.Second}
}

const (
	// entryBytes bounds an entry, without its first line. Lines may go on in the next one.
	entryBytes = 256 << 10
	// snapshotEvery is after how many entries a journal is written anew, so that it can be read in a moment.
	snapshotEvery = 2000
	// leasePause is how long it is waited after a failure to write or read the journal.
	leasePause = 100 * time.Millisecond
	// readTime is how long reading the journal may take.
	readTime = 30 * time.Second
)

var (
	errLeaseExpired = errors.New("could not tell the other hubs in time that this one delivers")
	errJournalLost  = errors.New("the journal is not the one that was written")
)

// TakenOverError ends an output that another hub delivers now.
type TakenOverError struct{ Hub string }

func (e *TakenOverError) Error() string { return fmt.Sprintf("hub %q delivers it now", e.Hub) }

// lease sees to it that one hub delivers an output, and that the next one knows what was delivered. Both is one thing: a
// journal in a stream, to which the holder appends with compare-and-set the lines that it writes to its cursor. An entry
// renews the lease; an append that is refused because somebody else's entry stands there ends it
// (docs/adr/011-outputs-have-two-feeds-and-one-holder.md).
type lease struct {
	conn     *bus.Conn
	subject  string
	hub      string
	instance string // of this output in this process
	log      *slog.Logger
	repeats  *telemetry.Repeats
	times    leaseTimes
	// report says which hub holds the output, and what keeps this one from holding it or finding that out.
	report func(holder string, trouble error)

	// What is guarded by Output.noting.
	number  uint64 // of the last entry
	last    uint64 // its sequence in the stream
	entries int    // behind the snapshot, and their bytes
	bytes   int
	whole   int // bytes of the snapshot

	mu      sync.Mutex
	renewed time.Time // when the last entry was about to be appended
	expiry  *time.Timer
	ended   error
	flushes map[int]context.CancelCauseFunc
	flush   int
}

// leaseEntry is the first line of an entry.
type leaseEntry struct {
	// Number counts the entries of a journal, over all holders. One that the holder wrote later has a higher number, also
	// if an older copy of the stream was put in its place.
	Number   uint64 `json:"number"`
	Hub      string `json:"hub"`
	Instance string `json:"instance"`
	// Free: the holder has let go.
	Free bool `json:"free,omitempty"`
}

func newLease(conn *bus.Conn, parts Parts, output, hub string, log *slog.Logger) *lease {
	return &lease{
		conn: conn, subject: conn.JournalSubject("output." + token(parts.String()) + "." + token(output)), hub: hub, instance: rand.Text(),
		report: func(string, error) {}, log: log, repeats: telemetry.NewRepeats(log, repeatEvery), times: defaultLeaseTimes(), flushes: map[int]context.CancelCauseFunc{},
	}
}

// token makes a name one token of a subject.
func token(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// acquire returns when this hub holds the output and the cursor says all that the journal did.
func (o *Output) acquire(ctx context.Context) error {
	o.noting.Lock()
	defer o.noting.Unlock()
	l := o.lease
	for {
		last, err := l.await(ctx, o.cursor.instance)
		if err != nil {
			return err
		}
		known, err := l.read(ctx, last)
		if err == nil {
			err = l.take(ctx, last, max(known.number, o.cursor.number))
		}
		if err == nil {
			return o.takeOver(ctx, known)
		}
		if _, faster := errors.AsType[*TakenOverError](err); !faster && ctx.Err() == nil {
			l.repeats.Log(slog.LevelWarn, "acquire", "output cannot be taken over", slog.Any("err", err))
		}
		if err := wait(ctx, l.times.poll); err != nil {
			return err
		}
	}
}

// takeOver makes what the journal says the cursor, unless the cursor goes further: then the stream of journals was lost,
// or an older copy of it restored.
func (o *Output) takeOver(ctx context.Context, known *replay) error {
	switch {
	case known.whole && known.number >= o.cursor.number:
		o.cursor.adopt(known.progress)
	case known.number > 0 && !known.whole:
		o.log.Warn("what hubs share about this output cannot be read; what this one knows holds, and what others delivered behind it comes again",
			"number", known.number, "known", o.cursor.number)
	case known.number > 0:
		o.log.Warn("what hubs share about this output is older than what this one knows, which holds now",
			"number", known.number, "known", o.cursor.number)
	}
	o.cursor.enter(o.lease.number, o.lease.instance)
	if err := o.cursor.compact(); err != nil {
		return err
	}
	o.log.Info("this hub delivers the output")
	return o.tellAll(ctx)
}

// tell appends lines to the journal, which may be none, and writes it anew when it has grown or was lost. The caller holds
// noting. It tries until it is done, ctx ends, or another hub holds the output.
func (o *Output) tell(ctx context.Context, lines []byte) error {
	l := o.lease
	_, err := l.append(ctx, lines, false)
	if errors.Is(err, errJournalLost) {
		o.log.Warn("what hubs share about this output was lost, or an older copy restored; this hub writes it anew")
	} else if err != nil || l.entries < snapshotEvery && l.bytes < max(compactAfter, l.whole) {
		return err
	}
	return o.tellAll(ctx)
}

// tellAll writes the journal anew. The caller holds noting.
func (o *Output) tellAll(ctx context.Context) error {
	l := o.lease
	first, err := uint64(0), errJournalLost
	for errors.Is(err, errJournalLost) {
		first, err = l.write(ctx, o.cursor.snapshot())
	}
	if err != nil {
		return err
	}
	if _, err := l.conn.Purge(ctx, l.subject, first); err != nil { // the next time, then
		l.repeats.Log(slog.LevelWarn, "purge", "journal of the output cannot be made shorter", slog.Any("err", err))
	}
	return nil
}

// keepLease appends something now and then, until ctx ends or another hub holds the output.
func (o *Output) keepLease(ctx context.Context) error {
	l := o.lease
	t := time.NewTicker(l.times.beat / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if l.age() < l.times.beat {
				continue
			}
			if err := o.renew(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (o *Output) renew(ctx context.Context) error {
	o.noting.Lock()
	defer o.noting.Unlock()
	return o.tell(ctx, nil)
}

// mayDeliver returns when this hub may deliver for a while.
func (o *Output) mayDeliver(ctx context.Context) error {
	switch l := o.lease; {
	case l == nil:
		return nil
	case l.end() != nil:
		return l.end()
	case l.age() >= l.times.bound:
		return o.renew(ctx)
	}
	return nil
}

// leave lets go of the output.
func (o *Output) leave() {
	o.noting.Lock()
	defer o.noting.Unlock()
	l := o.lease
	l.stop()
	if l.end() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if _, err := l.append(ctx, nil, true); err != nil {
		o.log.Warn("other hubs could not be told that this one does not deliver the output any more", "err", err)
	}
}

// await returns when nobody holds the output: it was never held, was let go, was held by an instance that is no more, or
// its holder is silent. It returns the last entry; one without a sequence if there is none.
func (l *lease) await(ctx context.Context, gone string) (bus.Message, error) {
	var last bus.Message
	var heard time.Time // zero: not yet
	for {
		m, err := l.conn.Last(ctx, l.subject)
		now := time.Now()
		switch {
		case errors.Is(err, bus.ErrNoMessage) && last.Sequence == 0:
			return last, nil
		case errors.Is(err, bus.ErrNoMessage): // deleted; a holder that lives writes it anew
		case err != nil:
			heard = now // what others say is not heard
			l.report("", err)
		case m.Sequence > last.Sequence || heard.IsZero():
			last, heard = m, now
			e, _, _ := splitEntry(m.Payload)
			if e.Free || gone != "" && e.Instance == gone {
				return last, nil
			}
			l.report(e.Hub, nil)
		}
		if now.Sub(heard) >= l.times.silence {
			return m, nil
		}
		if err := wait(ctx, l.times.poll); err != nil {
			return last, err
		}
	}
}

// splitEntry splits an entry into what its first line says and its bytes.
func splitEntry(payload []byte) (e leaseEntry, lines []byte, err error) {
	head, lines, _ := bytes.Cut(payload, []byte{'\n'})
	if err := json.Unmarshal(head, &e); err != nil {
		return e, nil, fmt.Errorf("parse entry: %w", err)
	}
	return e, lines, nil
}

// read replays the journal up to an entry.
func (l *lease) read(ctx context.Context, last bus.Message) (*replay, error) {
	known := &replay{}
	if last.Sequence == 0 {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	var writer string
	var cut []byte // a line that goes on in the next entry
	reader, err := l.conn.NewReader(bus.ReaderOptions{
		Name: "journal", Subjects: []string{l.subject}, End: last.Sequence,
		Handle: func(m bus.Message) error {
			e, lines, err := splitEntry(m.Payload)
			if err != nil {
				return err
			}
			if e.Instance != writer {
				writer, cut = e.Instance, nil
			}
			cut = known.takeLines(append(cut, lines...))
			known.number, known.instance = e.Number, e.Instance
			return nil
		},
		Reset: func(bus.Reset) { *known, writer, cut = replay{}, "", nil },
	})
	if err == nil {
		err = reader.Run(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return known, nil
}

// take begins to hold the output, behind the last entry there is.
func (l *lease) take(ctx context.Context, last bus.Message, number uint64) error {
	l.last, l.number = last.Sequence, number
	l.mu.Lock()
	l.ended = nil // of an attempt in which another hub was faster
	l.mu.Unlock()
	_, err := l.append(ctx, nil, false)
	if errors.Is(err, errJournalLost) {
		err = errors.New("the journal was lost meanwhile")
	}
	return err
}

// write begins the journal anew behind the last entry. It returns the sequence of the first one that is needed.
func (l *lease) write(ctx context.Context, snapshot []byte) (first uint64, err error) {
	first, err = l.append(ctx, snapshot, false)
	l.entries, l.bytes, l.whole = 0, 0, len(snapshot)
	return first, err
}

// append appends lines, which may be none, in as many entries as it takes, and returns the sequence of the first one.
func (l *lease) append(ctx context.Context, lines []byte, free bool) (first uint64, err error) {
	most := entryBytes
	if n := int(l.conn.MaxPayload()); n > 0 {
		most = min(most, n/2) // the rest is for the first line
	}
	for {
		part := lines[:min(len(lines), most)]
		head, err := json.Marshal(leaseEntry{Number: l.number + 1, Hub: l.hub, Instance: l.instance, Free: free})
		if err != nil {
			panic("BUG: hub: encode entry: " + err.Error())
		}
		if err := l.publish(ctx, append(append(head, '\n'), part...)); err != nil {
			return 0, err
		}
		l.number++
		l.entries++
		l.bytes += len(head) + 1 + len(part)
		if first == 0 {
			first = l.last
		}
		if lines = lines[len(part):]; len(lines) == 0 {
			return first, nil
		}
	}
}

// publish appends an entry. It tries again until that is done, ctx ends, or another entry stands in its place: a
// *TakenOverError if it is of another holder, errJournalLost if the journal ends before what was written to it.
func (l *lease) publish(ctx context.Context, entry []byte) error {
	for {
		if err := l.end(); err != nil {
			return err
		}
		began := time.Now()
		sequence, err := l.conn.Publish(ctx, l.subject, entry, l.last)
		if refused, ok := errors.AsType[*bus.SequenceError](err); ok {
			sequence, err = l.readBack(ctx, refused.Last, entry)
		}
		switch _, taken := errors.AsType[*TakenOverError](err); {
		case err == nil:
			l.last = sequence
			l.renew(began)
			return nil
		case taken:
			l.finish(err)
			return err
		case errors.Is(err, errJournalLost), errors.Is(err, bus.ErrTooLarge):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		l.report(l.hub, err)
		l.repeats.Log(slog.LevelWarn, "append", "other hubs cannot be told what the output has delivered", slog.Any("err", err))
		if err := wait(ctx, leasePause); err != nil {
			return err
		}
	}
}

// readBack looks at the entry in whose place one was refused, which has a sequence, or a higher one. It returns its sequence
// if it is the same, stored by an attempt whose answer was lost.
func (l *lease) readBack(ctx context.Context, last uint64, entry []byte) (uint64, error) {
	if last == 0 {
		l.last = 0
		return 0, errJournalLost
	}
	m, err := l.conn.Last(ctx, l.subject)
	switch {
	case err != nil:
		return 0, err
	case m.Sequence < last:
		return 0, errors.New("the server that answered is behind")
	case bytes.Equal(m.Payload, entry):
		return m.Sequence, nil
	}
	if e, _, err := splitEntry(m.Payload); err != nil || e.Number > l.number {
		return 0, &TakenOverError{Hub: e.Hub}
	}
	l.last = m.Sequence
	return 0, errJournalLost
}

// renew notes that an entry was appended that was about to be at a time.
func (l *lease) renew(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = began
	left := l.times.bound - time.Since(began)
	if l.expiry == nil {
		l.expiry = time.AfterFunc(left, l.expire)
		return
	}
	l.expiry.Reset(left)
}

// expire ends the flushes that are under way: another hub may take over. The output may go on when it has told the others.
func (l *lease) expire() { l.cancel(errLeaseExpired) }

// finish ends the lease for good.
func (l *lease) finish(err error) {
	l.mu.Lock()
	l.ended = err
	l.mu.Unlock()
	l.cancel(err)
}

func (l *lease) cancel(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cancel := range l.flushes {
		cancel(cause)
	}
}

// onEnd has a flush cancelled when this hub must not deliver any more, until the returned function is called.
func (l *lease) onEnd(cancel context.CancelCauseFunc) (forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended != nil:
		cancel(l.ended)
	case l.sinceRenewed() >= l.times.bound: // the timer may have gone off already
		cancel(errLeaseExpired)
	}
	l.flush++
	id := l.flush
	l.flushes[id] = cancel
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.flushes, id)
	}
}

// end is why the lease has ended, nil if it has not.
func (l *lease) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// stop ends the timer.
func (l *lease) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expiry != nil {
		l.expiry.Stop()
	}
}

// age is how long ago the last entry was appended.
func (l *lease) age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sinceRenewed()
}

// sinceRenewed is age for who holds mu. A process that stood still may find out by either clock.
func (l *lease) sinceRenewed() time.Duration {
	now := time.Now()
	return max(now.Sub(l.renewed), now.Round(0).Sub(l.renewed.Round(0)))
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
