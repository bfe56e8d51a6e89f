package chaos

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

var (
	seedFlag     = flag.Uint64("chaos.seed", 0, "seed of the schedule; 0: a new one")
	durationFlag = flag.Duration("chaos.duration", 20*time.Second, "how long things go wrong")
	keepFlag     = flag.Bool("chaos.keep", false, "keep the directory")
)

// process is one of the processes under test.
type process struct {
	t       *testing.T
	task    task
	log     *os.File
	command *exec.Cmd
	pipe    *os.File // the process ends when this is closed
}

func newProcess(t *testing.T, k task) *process {
	t.Helper()
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(k.Dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, task: k, log: log}
	p.start()
	t.Cleanup(func() {
		p.kill()
		log.Close()
	})
	return p
}

func (p *process) start() {
	text, err := json.Marshal(p.task)
	if err != nil {
		p.t.Error(err)
		return
	}
	in, out, err := os.Pipe()
	if err != nil {
		p.t.Error(err)
		return
	}
	defer in.Close()
	p.pipe = out
	p.command = exec.Command(os.Args[0])
	p.command.Env = append(os.Environ(), roleVariable+"="+string(text))
	p.command.Stdin, p.command.Stdout, p.command.Stderr = in, p.log, p.log
	if err := p.command.Start(); err != nil {
		p.t.Error(err)
	}
}

func (p *process) signal(s syscall.Signal) { _ = p.command.Process.Signal(s) }

func (p *process) kill() {
	if p.command == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	p.wait()
}

// wait waits for the end. A process that ended with an error of its own is a failure.
func (p *process) wait() {
	err := p.command.Wait()
	p.pipe.Close()
	p.command = nil
	if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() > 0 {
		p.t.Errorf("%s ended with code %d, see %s", p.task.Role, exit.ExitCode(), p.log.Name())
	}
}

// terminate asks for an orderly end.
func (p *process) terminate() {
	p.signal(syscall.SIGTERM)
	p.wait()
}

// storm is one run.
type storm struct {
	t                 *testing.T
	dir               string
	edge, hub, server *process
	edgeLink, hubLink *bustest.Proxy
	control           *bus.Conn
	end               time.Time
	copy              string // of the stream directory; "" before the first
}

func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1_000_000) + 1
	}
	t.Logf("-chaos.seed=%d -chaos.duration=%s", seed, *durationFlag)
	dir := t.TempDir()
	if *keepFlag {
		var err error
		if dir, err = os.MkdirTemp("", "chaos"); err != nil {
			t.Fatal(err)
		}
		t.Logf("directory %s", dir)
	}
	s := &storm{t: t, dir: dir}
	port := freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s.server = newProcess(t, task{Role: "server", Dir: filepath.Join(dir, "server"), Port: port})
	s.edgeLink, s.hubLink = bustest.NewProxy(t, address), bustest.NewProxy(t, address)
	s.control = bustest.Connect(t, bus.Options{Config: busConfig("nats://" + address)})
	start := time.Now()
	s.hub = newProcess(t, task{Role: "hub", Dir: filepath.Join(dir, "hub"), URL: s.hubLink.URL(), Start: start})
	s.edge = newProcess(t, task{Role: "edge", Dir: filepath.Join(dir, "edge"), URL: s.edgeLink.URL(), Start: start})
	s.end = time.Now().Add(*durationFlag)

	var parts sync.WaitGroup
	for i, act := range []func(*rand.Rand){s.harmEdge, s.harmHub, s.harmServer, s.harmEdgeLink, s.harmHubLink} {
		parts.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for s.pass(r, 4*time.Second) {
				act(r)
			}
		})
	}
	parts.Wait()
	t.Logf("the storm is over")
	s.settle()
	s.judge()
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// pass lets time pass, which is what happens between two faults, and reports whether the storm goes on.
func (s *storm) pass(r *rand.Rand, most time.Duration) bool {
	time.Sleep(time.Duration(r.Int64N(int64(most))))
	return time.Now().Before(s.end)
}

func (s *storm) say(format string, args ...any) {
	s.t.Logf("%s "+format, append([]any{time.Now().Format("05.000")}, args...)...)
}

// harm kills, ends or stops a process for a while.
func (s *storm) harm(r *rand.Rand, p *process, most time.Duration) {
	switch r.IntN(4) {
	case 0, 1:
		s.say("kill %s", p.task.Role)
		p.kill()
		s.pass(r, most)
		p.start()
	case 2:
		s.say("terminate %s", p.task.Role)
		p.terminate()
		s.pass(r, most)
		p.start()
	case 3:
		s.say("stop %s", p.task.Role)
		p.signal(syscall.SIGSTOP)
		s.pass(r, most)
		p.signal(syscall.SIGCONT)
	}
}

func (s *storm) harmEdge(r *rand.Rand) { s.harm(r, s.edge, time.Second) }
func (s *storm) harmHub(r *rand.Rand)  { s.harm(r, s.hub, 3*time.Second) }

func (s *storm) harmServer(r *rand.Rand) {
	switch r.IntN(5) {
	case 0:
		s.say("copy the stream")
		s.server.terminate()
		s.copy = filepath.Join(s.dir, "copy-"+strconv.Itoa(r.Int()))
		s.copyDir(s.copy, s.server.task.Dir)
		s.server.start()
	case 1:
		if s.copy == "" {
			return
		}
		s.say("restore the copy of the stream")
		s.unread(r)
		s.server.kill()
		if err := os.RemoveAll(s.server.task.Dir); err != nil {
			s.t.Error(err)
		}
		s.copyDir(s.server.task.Dir, s.copy)
		s.server.start()
		s.hubLink.Refuse(false)
	case 2:
		s.say("delete the stream")
		s.unread(r)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = s.control.Request(ctx, "$JS.API.STREAM.DELETE."+streamConfig().Name, nil) // no harm if the server is away
		s.pass(r, time.Second)
		s.ensureStream()
		s.hubLink.Refuse(false)
	default:
		s.harm(r, s.server, 2*time.Second)
	}
}

// unread keeps the hub from reading for a while what the server is about to lose.
func (s *storm) unread(r *rand.Rand) {
	s.hubLink.Refuse(true)
	s.hubLink.Cut()
	s.pass(r, 2*time.Second)
}

func (s *storm) copyDir(to, from string) {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		s.t.Error(err)
	}
}

// ensureStream is what a hub does half a minute later.
func (s *storm) ensureStream() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = s.control.EnsureStream(ctx)
}

func (s *storm) harmEdgeLink(r *rand.Rand) { s.harmLink(r, "edge", s.edgeLink, 7*time.Second) }
func (s *storm) harmHubLink(r *rand.Rand)  { s.harmLink(r, "hub", s.hubLink, 3*time.Second) }

func (s *storm) harmLink(r *rand.Rand, name string, p *bustest.Proxy, most time.Duration) {
	switch r.IntN(3) {
	case 0:
		s.say("cut the link of the %s", name)
		p.Cut()
	case 1:
		s.say("lose answers to the %s", name)
		p.LoseAnswers(true)
		s.pass(r, most)
		p.LoseAnswers(false)
	case 2:
		s.say("refuse the %s", name)
		p.Refuse(true)
		p.Cut()
		s.pass(r, most)
		p.Refuse(false)
	}
}

// ledger is what the files of edge and hub say.
type ledger struct {
	accepted []acceptedRow
	recorded map[string]int // how often
	repeated []string       // rows recorded again although the hub did not die after them
}

type acceptedRow struct {
	key, epoch  string
	t           int64
	first, last uint64 // the frame is between these
}

func (s *storm) read() *ledger {
	l := &ledger{recorded: map[string]int{}}
	err := readLines(filepath.Join(s.edge.task.Dir, acceptedFile), func(f []string) {
		if len(f) != 6 {
			return // cut short by a kill
		}
		row := acceptedRow{key: f[0] + " " + f[1] + " " + f[2], epoch: f[3]}
		var errs [3]error
		row.t, errs[0] = strconv.ParseInt(f[1], 10, 64)
		row.first, errs[1] = strconv.ParseUint(f[4], 10, 64)
		row.last, errs[2] = strconv.ParseUint(f[5], 10, 64)
		if errs != [3]error{} {
			s.t.Errorf("accepted row %q: %v", f, errs)
		}
		l.accepted = append(l.accepted, row)
	})
	if err != nil {
		s.t.Error(err)
	}
	life, batch := 0, ""
	var order []string // batches, with their lives
	where := map[string]string{}
	var again [][2]string // rows and the batch of their earlier record
	lastOf := map[int]string{}
	err = readLines(filepath.Join(s.hub.task.Dir, recordedFile), func(f []string) {
		switch {
		case len(f) == 1 && f[0] == "start":
			life++
		case len(f) == 4:
			batch = fmt.Sprintf("%d/%s", life, f[0])
			if lastOf[life] != batch {
				lastOf[life] = batch
				order = append(order, batch)
			}
			key := f[1] + " " + f[2] + " " + f[3]
			if l.recorded[key]++; l.recorded[key] > 1 {
				again = append(again, [2]string{key, where[key]})
			}
			where[key] = batch
		}
	})
	if err != nil {
		s.t.Error(err)
	}
	inFlight := map[string]bool{}
	for n := 1; n < life; n++ {
		inFlight[lastOf[n]] = true
	}
	for _, x := range again {
		if !inFlight[x[1]] {
			l.repeated = append(l.repeated, x[0]+" of batch "+x[1])
		}
	}
	return l
}

// missing returns the accepted rows that are not recorded, of those made before a time.
func (l *ledger) missing(before time.Time) (rows []acceptedRow) {
	for _, row := range l.accepted {
		if l.recorded[row.key] == 0 && row.t < before.UnixMilli() {
			rows = append(rows, row)
		}
	}
	return rows
}

// Waiting for the end.
const (
	patience = 90 * time.Second // for all rows
	stagnant = 25 * time.Second // without any progress, what is missing will not come
)

// settle waits until nothing more comes, and ends edge and hub.
func (s *storm) settle() {
	s.edgeLink.LoseAnswers(false)
	s.hubLink.LoseAnswers(false)
	if err := os.WriteFile(filepath.Join(s.edge.task.Dir, calmFile), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.await(func() time.Time { return time.Now().Add(-3 * time.Second) })
	s.edge.terminate()
	end := time.Now().Add(time.Hour)
	s.await(func() time.Time { return end })
	s.hub.terminate()
}

// await polls until all rows made before a time are recorded, or no more come.
func (s *storm) await(before func() time.Time) {
	start, progress, least := time.Now(), time.Now(), -1
	for time.Since(start) < patience && time.Since(progress) < stagnant {
		s.ensureStream()
		n := len(s.read().missing(before()))
		if n == 0 {
			return
		}
		if n != least {
			least, progress = n, time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.say("%d rows are still missing", least)
}

// judge holds the result against the promise.
func (s *storm) judge() {
	l := s.read()
	type gap struct {
		epoch    string
		from, to uint64
	}
	var gaps []gap
	rows := 0
	err := readLines(filepath.Join(s.hub.task.Dir, gapsFile), func(f []string) {
		var g gap
		var n int
		if _, err := fmt.Sscan(f[1]+" "+f[2]+" "+f[3]+" "+f[4], &g.epoch, &g.from, &g.to, &n); err != nil {
			s.t.Error(err)
		}
		gaps, rows = append(gaps, g), rows+n
	})
	if err != nil {
		s.t.Fatal(err)
	}
	lost, explained := 0, 0
	for _, row := range l.missing(time.Now().Add(time.Hour)) {
		inGap := false
		for _, g := range gaps {
			inGap = inGap || g.epoch == row.epoch && g.from <= row.last && row.first <= g.to
		}
		if inGap {
			explained++
			continue
		}
		if lost++; lost < 10 {
			s.t.Errorf("row %q of epoch %s, frames %d to %d, was accepted, not recorded, and stands in no gap", row.key, row.epoch, row.first, row.last)
		}
	}
	for i, text := range l.repeated {
		if i == 10 {
			break
		}
		s.t.Errorf("row was recorded again: %s", text)
	}
	s.t.Logf("%d rows accepted, %d recorded, %d missing in %d gaps of %d rows, %d lost, %d repeated", len(l.accepted), len(l.recorded),
		explained, len(gaps), rows, lost, len(l.repeated))
	if len(l.accepted) < 100 {
		s.t.Errorf("only %d rows were accepted", len(l.accepted))
	}
}
