package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/config"
	"github.com/thalweg/thalweg/internal/hub"
	"github.com/thalweg/thalweg/internal/remotewrite"
	"github.com/thalweg/thalweg/internal/telemetry"
)

const (
	// journalsStream is appended to the name of the stream: where hubs tell each other what outputs delivered.
	journalsStream = "_JOURNALS"
	// An output that ended begins again after a pause, which doubles until it has run for longer than the longest.
	firstOutputPause, longestOutputPause = 500 * time.Millisecond, 30 * time.Second
)

// outputs runs those that the configuration of a hub names.
type outputs struct {
	node    *Node
	hub     *hub.Hub
	log     *telemetry.Log
	metrics *remotewrite.SendMetrics
	changed chan struct{} // tells run of another wanted
	// condition is that of all outputs; nil as long as there was none.
	condition *telemetry.Condition

	mu     sync.Mutex
	wanted map[string]destination // by name
	fresh  map[string]destination // that were prepared; guarded by Node.reloading
	shared *bus.Conn              // nil as long as there is no output
}

// newOutputs prepares the outputs of a configuration. They begin with run.
func (n *Node) newOutputs(h *hub.Hub, c *config.Config) (*outputs, error) {
	o := &outputs{node: n, hub: h, log: n.log, metrics: remotewrite.NewSendMetrics(), changed: make(chan struct{}, 1), wanted: map[string]destination{}}
	n.metrics.MustRegister(o.metrics.Metrics()...)
	use, err := o.prepare(c)
	if err != nil {
		return nil, err
	}
	use()
	return o, nil
}

// prepare reads what a changed configuration needs, and returns what puts it in force: outputs begin, end, or go on with
// other settings.
func (o *outputs) prepare(c *config.Config) (use func(), err error) {
	kept, fresh := map[string]destination{}, map[string]destination{}
	defer func() {
		if err != nil {
			for _, d := range fresh {
				d.close()
			}
		}
	}()
	for name, create := range o.destinations(c) {
		var d destination
		if d = o.destination(name); d != nil {
			kept[name] = d
			err = d.check(c)
		} else if d, err = create(); err == nil {
			fresh[name] = d
		}
		if err != nil {
			return nil, err
		}
	}
	if len(fresh) > 0 {
		if err = o.share(c); err != nil {
			return nil, err
		}
	}
	o.fresh = fresh
	return func() {
		o.fresh = nil
		for name, d := range kept {
			if err := d.apply(c); err != nil { // although check found nothing
				o.log.Error("settings of an output are not changed", "output", name, "err", err)
			}
		}
		maps.Copy(fresh, kept)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.wanted = fresh
		select {
		case o.changed <- struct{}{}:
		default: // run has been told already
		}
	}, nil
}

// abandon closes what was prepared and not put in force.
func (o *outputs) abandon() {
	for _, d := range o.fresh {
		d.close()
	}
	o.fresh = nil
}

// share connects to the journals that hubs share, once there is an output.
func (o *outputs) share(c *config.Config) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shared != nil {
		return nil
	}
	client := c.HubClient()
	client.Stream.Manage = true // whoever made the stream of frames
	conn, err := o.node.dial(bus.Options{Config: client, Name: "outputs", Journals: client.Stream.Name + journalsStream})
	o.shared = conn
	return err
}

func (o *outputs) destination(name string) destination {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wanted[name]
}

// runningOutput is an output that was begun.
type runningOutput struct {
	destination destination
	stop        context.CancelFunc
	done        chan struct{} // closed when it has ended for good
}

// run begins and ends outputs until ctx ends.
func (o *outputs) run(ctx context.Context) error {
	running := map[string]*runningOutput{}
	var keeper sync.WaitGroup
	defer keeper.Wait()
	kept := false
	for ctx.Err() == nil {
		o.mu.Lock()
		wanted := maps.Clone(o.wanted)
		shared := o.shared
		o.mu.Unlock()
		if shared != nil && !kept {
			kept = true
			keeper.Go(func() { shared.KeepStream(ctx, func(string) {}) })
		}
		o.end(running, func(name string, r *runningOutput) bool { return wanted[name] != r.destination })
		for name, d := range wanted {
			if running[name] == nil {
				running[name] = o.begin(ctx, name, d)
			}
		}
		select {
		case <-o.changed:
		case <-ctx.Done():
		}
	}
	o.end(running, func(string, *runningOutput) bool { return true })
	return nil
}

// end ends some of the outputs and waits for them.
func (o *outputs) end(running map[string]*runningOutput, which func(string, *runningOutput) bool) {
	var ending []string
	for name, r := range running {
		if which(name, r) {
			r.stop()
			ending = append(ending, name)
		}
	}
	for _, name := range ending {
		r := running[name]
		<-r.done
		r.destination.close()
		o.hub.ForgetOutput(name)
		delete(running, name)
	}
}

func (o *outputs) begin(ctx context.Context, name string, d destination) *runningOutput {
	ctx, stop := context.WithCancel(ctx)
	r := &runningOutput{destination: d, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		o.keep(ctx, name, d)
	}()
	return r
}

// keep runs an output, again and again, until ctx ends.
func (o *outputs) keep(ctx context.Context, name string, d destination) {
	for pause := firstOutputPause; ; {
		begun := time.Now()
		err := o.once(ctx, name, d)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > longestOutputPause {
			pause = firstOutputPause
		}
		log := o.log.With("output", name)
		if _, ok := errors.AsType[*hub.TakenOverError](err); ok {
			log.Info("another hub delivers this output now", "err", err)
		} else {
			log.Error("output ended; it begins again where it was", slog.Duration("pause", pause), slog.Any("err", err))
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, longestOutputPause)
	}
}

// once runs an output until it ends.
func (o *outputs) once(ctx context.Context, name string, d destination) error {
	o.mu.Lock()
	options := hub.OutputOptions{Name: name, Dir: filepath.Join(o.node.options.Config.DataDir, "outputs"), Hub: o.hub, Shared: o.shared}
	o.mu.Unlock()
	if err := d.open(&options); err != nil {
		return err
	}
	out, err := hub.NewOutput(options)
	if err != nil {
		return err
	}
	return errors.Join(out.Run(ctx), out.Close())
}

// setCondition names the outputs that have a problem. A hub does its work without them, and what they lack waits in the
// stream. It is for one goroutine.
func (o *outputs) setCondition() {
	o.mu.Lock()
	wanted := len(o.wanted) > 0
	o.mu.Unlock()
	if o.condition == nil && wanted {
		o.condition = o.node.health.Condition("outputs")
	}
	if o.condition == nil {
		return
	}
	if amiss := o.amiss(); amiss != "" {
		o.condition.Degraded(amiss)
	} else {
		o.condition.Ready()
	}
}

// amiss says of the outputs with a problem which it is, in a phrase for people; "" if there is none.
func (o *outputs) amiss() string {
	var list []string
	for _, st := range o.hub.Outputs() {
		if problem := o.problem(&st); problem != "" {
			list = append(list, st.Name+": "+strings.Join(strings.Fields(problem), " "))
		}
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// problem says what is wrong with an output at the moment.
func (o *outputs) problem(st *hub.OutputStatus) string {
	if !st.Running {
		return st.LastError
	}
	if d := o.destination(st.Name); d != nil && st.Holder {
		if problem := d.status().problem; problem != "" {
			return problem
		}
	}
	if st.Live.Problem != "" {
		return st.Live.Problem
	}
	return st.Backfill.Problem
}
