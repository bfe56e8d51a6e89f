package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/thalweg/thalweg/internal/events"
)

func newEventsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "events",
		Short: "Try, watch and load a queue of the event gateway",
		Long:  `Try, watch and load the queue of an event gateway. What events look like is said in docs/events.md.`,
	}, newEventsSendCommand(), newEventsTapCommand(), newEventsBenchCommand())
}

// interruptible returns a context that ends with SIGTERM or SIGINT.
func interruptible(c *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.Context(), syscall.SIGTERM, os.Interrupt)
}

// maxLine bounds a line of standard input.
const maxLine = 16 << 20

func newEventsSendCommand() *cobra.Command {
	var (
		redis redisFlags
		nats  natsFlags
		url   string
	)
	c := &cobra.Command{
		Use:   "send [EVENT...]",
		Short: "Send events, to Redis, by HTTP or to NATS",
		Long: `Send events as they stand on the command line, or one of each line of standard input; each may be a
list. They are looked at first: an event that any gateway would drop is named, and then nothing at all
is sent. By HTTP, the answer says what was taken; by NATS, that it is stored for gateways to take.`,
		Example: `  thalweg events send '{"name":"jobs_total","value":1,"labels":{"job":"backup"}}'
  thalweg events send --url=http://127.0.0.1:9091 < events.ndjson
  thalweg events send --nats.url=nats://127.0.0.1:4222 --site=ams-1 '{"name":"jobs_total","value":1}'`,
		RunE: func(c *cobra.Command, args []string) error {
			if url != "" && nats.url != "" {
				return usage("--url and --nats.url: send to one of them")
			}
			if len(args) == 0 {
				var err error
				if args, err = readEvents(c.InOrStdin()); err != nil {
					return err
				}
			}
			total, err := checkEvents(args)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			if url != "" {
				return postEvents(ctx, c.OutOrStdout(), url, args)
			}
			if nats.url != "" {
				return nats.publish(ctx, c.OutOrStdout(), args, total)
			}
			return pushEvents(ctx, c.OutOrStdout(), redis.RedisConfig, args, total)
		},
	}
	redis.add(c.Flags())
	c.Flags().StringVar(&url, "url", "", "send by HTTP to the gateway with this URL, such as http://127.0.0.1:9797, instead of Redis")
	nats.add(c.Flags())
	return c
}

// readEvents returns the lines that are not empty.
func readEvents(r io.Reader) (payloads []string, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			payloads = append(payloads, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read events from standard input: %w", err)
	}
	return payloads, nil
}

// checkEvents counts events, and names those that cannot be taken.
func checkEvents(payloads []string) (total int, err error) {
	var errs []error
	for i, payload := range payloads {
		for _, reason := range events.Check([]byte(payload)) {
			total++
			if reason != events.Taken {
				errs = append(errs, fmt.Errorf("event %d would be dropped (%s): %.100s", i+1, reason, payload))
			}
		}
	}
	if total == 0 && len(errs) == 0 {
		return 0, errors.New("there are no events to send")
	}
	return total, errors.Join(errs...)
}

// pushedAtOnce bounds the elements of one LPUSH.
const pushedAtOnce = 1000

func pushEvents(ctx context.Context, out io.Writer, c events.RedisConfig, payloads []string, total int) (err error) {
	q, err := events.OpenQueue(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	waiting := 0
	for first := 0; first < len(payloads); first += pushedAtOnce {
		if waiting, err = q.Push(payloads[first:min(first+pushedAtOnce, len(payloads))]...); err != nil {
			return fmt.Errorf("after %d of %d elements: %w", first, len(payloads), err)
		}
	}
	_, err = fmt.Fprintf(out, "sent %s in %s; the list has %d now\n", count(total, "event"), count(len(payloads), "element"), waiting)
	return err
}

// httpTimeout bounds a post of events, whose answer waits for a disk.
const httpTimeout = 30 * time.Second

func postEvents(ctx context.Context, out io.Writer, url string, payloads []string) error {
	url = strings.TrimSuffix(url, "/")
	if !strings.HasSuffix(url, "/api/v1/events") {
		url += "/api/v1/events"
	}
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(strings.Join(payloads, "\n")))
	if err != nil {
		return usage("--url: %v", err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, answer.Status, strings.TrimSpace(string(text)))
	}
	_, err = fmt.Fprintln(out, strings.TrimSpace(string(text)))
	return err
}

func newEventsTapCommand() *cobra.Command {
	var (
		redis redisFlags
		n     int
	)
	c := &cobra.Command{
		Use:   "tap",
		Short: "Show events as they are pushed to Redis, without taking any",
		Long: `Show each element that senders push to the list in Redis, one a line, until Ctrl-C. Nothing is taken
away. An event that would be dropped is shown with the reason on standard error. Redis has to tell of
every command that it executes (MONITOR), which may halve what it does in the meantime.`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			ctx, stop := interruptible(c)
			defer stop()
			q, err := events.OpenQueue(ctx, redis.RedisConfig)
			if err != nil {
				return err
			}
			defer func() { _ = q.Close() }() // by Watch, too
			fmt.Fprintf(c.ErrOrStderr(), "watching %q at %s\n", redis.Key, redis.Servers())
			left := n
			missed, err := q.Watch(ctx, func(payload string) {
				if n > 0 && left == 0 {
					return
				}
				left--
				for _, reason := range events.Check([]byte(payload)) {
					if reason != events.Taken {
						fmt.Fprintf(c.ErrOrStderr(), "the next one would be dropped: %s\n", reason)
						break
					}
				}
				fmt.Fprintln(c.OutOrStdout(), payload)
				if n > 0 && left == 0 {
					stop()
				}
			})
			if missed > 0 {
				fmt.Fprintf(c.ErrOrStderr(), "%s too long to be shown\n", count(missed, "command"))
			}
			return err
		},
	}
	redis.add(c.Flags())
	c.Flags().IntVarP(&n, "number", "n", 0, "end after so many; 0: go on")
	return c
}

// bench is what a queue is loaded with.
type bench struct {
	rate, number, series, batch int
	duration                    time.Duration
	types                       []string
}

func newEventsBenchCommand() *cobra.Command {
	var (
		redis redisFlags
		b     bench
	)
	c := &cobra.Command{
		Use:   "bench",
		Short: "Load a queue with events",
		Long: `Push events to the list in Redis at a steady rate, and say how many were sent. The names of their
metrics begin with thalweg_bench_; the value of each event is 1, so that sums tell how many came.`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := b.check(); err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			q, err := events.OpenQueue(ctx, redis.RedisConfig)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, q.Close()) }()
			return b.run(ctx, c.OutOrStdout(), q)
		},
	}
	f := c.Flags()
	redis.add(f)
	f.IntVar(&b.rate, "rate", 1000, "events a second; 0: as fast as Redis takes them")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long; 0: until --number or Ctrl-C")
	f.IntVar(&b.number, "number", 0, "end after so many events; 0: no bound")
	f.IntVar(&b.series, "series", 100, "series of each type")
	f.IntVar(&b.batch, "batch", 1, "events in one element of the list")
	f.StringSliceVar(&b.types, "types", []string{"counter", "gauge", "histogram"}, "types of events: counter, gauge, histogram, summary")
	return c
}

// benchEvents are events of each type, but for the number of the series.
var benchEvents = map[string]string{
	"counter":   `{"type":"counter","name":"thalweg_bench_total","value":1,"labels":{"series":"%d"}}`,
	"gauge":     `{"type":"gauge","name":"thalweg_bench_level","value":1,"labels":{"series":"%d"}}`,
	"histogram": `{"type":"histogram","name":"thalweg_bench_seconds","value":1,"buckets":[0.1,1,5,10,50],"labels":{"series":"%d"}}`,
	"summary":   `{"type":"summary","name":"thalweg_bench_size","value":1,"quantiles":[0.5,0.9,0.99],"epsilons":[0.05,0.01,0.001],"labels":{"series":"%d"}}`,
}

func (b *bench) check() error {
	if b.rate < 0 || b.number < 0 || b.duration < 0 {
		return usage("--rate, --number and --duration are not negative")
	}
	if b.series < 1 || b.batch < 1 || b.batch > pushedAtOnce {
		return usage("--series is at least 1, and --batch from 1 to %d", pushedAtOnce)
	}
	if len(b.types) == 0 {
		return usage("--types is empty")
	}
	for _, name := range b.types {
		if benchEvents[name] == "" {
			return usage("--types: %q is not counter, gauge, histogram or summary", name)
		}
	}
	return nil
}

// benchTick is how often events are pushed.
const benchTick = 10 * time.Millisecond

// run pushes events until it is over. What is late is made up for, so that the rate holds on average.
func (b *bench) run(ctx context.Context, out io.Writer, q *events.Queue) error {
	begun := time.Now()
	ticks := time.NewTicker(benchTick)
	defer ticks.Stop()
	sent, waiting := 0, 0
	for ctx.Err() == nil && (b.number == 0 || sent < b.number) {
		passed := time.Since(begun)
		if b.duration > 0 && passed >= b.duration {
			break
		}
		atMost := pushedAtOnce * b.batch
		due := atMost
		if b.rate > 0 {
			due = min(due, int(passed.Seconds()*float64(b.rate))-sent)
		}
		if b.number > 0 {
			due = min(due, b.number-sent)
		}
		if due > 0 {
			var err error
			if waiting, err = q.Push(b.payloads(sent, due)...); err != nil {
				return fmt.Errorf("after %d events: %w", sent, err)
			}
			sent += due
		}
		if due == atMost {
			continue // there is more to do
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
		}
	}
	seconds := time.Since(begun).Seconds()
	_, err := fmt.Fprintf(out, "sent %s in %.1f s, %.0f a second; the list has %d elements now\n",
		count(sent, "event"), seconds, float64(sent)/cmp.Or(seconds, 1), waiting)
	return err
}

// payloads makes n events, of which the first has this number, of all types and series in turn.
func (b *bench) payloads(first, n int) (list []string) {
	var batch []string
	for i := first; i < first+n; i++ {
		series := i / len(b.types) % b.series
		batch = append(batch, fmt.Sprintf(benchEvents[b.types[i%len(b.types)]], series))
		if len(batch) == b.batch || i == first+n-1 {
			payload := batch[0]
			if b.batch > 1 {
				payload = "[" + strings.Join(batch, ",") + "]"
			}
			list = append(list, payload)
			batch = batch[:0]
		}
	}
	return list
}
