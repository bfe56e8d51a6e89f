package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// process is a program that a script has started.
type process struct {
	cmd  *exec.Cmd
	log  string        // file of its standard error
	done chan struct{} // closed when it has exited
	err  error         // of Wait, once done is closed
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have exited already
	<-p.done
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) > 1, "start NAME PROGRAM ARGUMENTS...")
	name, s := args[0], of(ts)
	if p := s.processes[name]; p != nil && p.running() {
		ts.Fatalf("%s is still running", name)
	}
	p := &process{cmd: exec.Command(tool(ts, args[1]), args[2:]...), log: ts.MkAbs(name + ".log"), done: make(chan struct{})}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), "TMPDIR="+ts.Getenv("TMPDIR"))
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(p.log)
	ts.Check(err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, log
	ts.Check(p.cmd.Start())
	s.processes[name] = p
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
}

func processOf(ts *testscript.TestScript, name string) *process {
	p := of(ts).processes[name]
	if p == nil {
		ts.Fatalf("no process %s was started", name)
	}
	return p
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "signal NAME TERM|INT|HUP|STOP|CONT")
	sig, ok := map[string]os.Signal{
		"TERM": syscall.SIGTERM, "INT": os.Interrupt, "HUP": syscall.SIGHUP, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
	}[args[1]]
	usageOf(ts, ok, "signal NAME TERM|INT|HUP|STOP|CONT")
	ts.Check(processOf(ts, args[0]).cmd.Process.Signal(sig))
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "exits NAME CODE")
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	awaitExit(ts, args[0], want)
}

func awaitExit(ts *testscript.TestScript, name string, want int) {
	p := processOf(ts, name)
	eventually(ts, func() error {
		if p.running() {
			return fmt.Errorf("%s is still running", name)
		}
		return nil
	})
	if code := p.cmd.ProcessState.ExitCode(); code != want {
		of(ts).fail(ts, "%s exited with %d (%v), want %d", name, code, p.err, want)
	}
}

func cmdTerminate(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "terminate NAME")
	ts.Check(processOf(ts, args[0]).cmd.Process.Signal(syscall.SIGTERM))
	awaitExit(ts, args[0], 0)
}

func cmdKill9(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "kill9 NAME")
	p := processOf(ts, args[0])
	if !p.running() {
		of(ts).fail(ts, "%s has exited before: %v", args[0], p.err)
	}
	p.kill()
}

func cmdWaitLog(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "wait-log NAME REGEXP")
	waitFile(ts, processOf(ts, args[0]).log, args[1])
}

func cmdWaitFile(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "wait-file FILE REGEXP")
	waitFile(ts, ts.MkAbs(args[0]), args[1])
}

func waitFile(ts *testscript.TestScript, name, pattern string) {
	re := compile(ts, pattern)
	eventually(ts, func() error {
		content, err := os.ReadFile(name)
		if err == nil && !re.Match(content) {
			err = fmt.Errorf("%s does not match %q", name, re)
		}
		return err
	})
}

// ports gives out ports that nobody listens on. They lie below those that the system takes for outgoing connections, so
// that a server that is started later, or again, still finds its port free.
type ports struct {
	mu   sync.Mutex
	next int
}

// newPorts begins anywhere, as other tests may be running that do the same.
func newPorts() *ports { return &ports{next: 20000 + rand.N(11000)} }

// listen takes the next free port.
func (p *ports) listen() (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l net.Listener
	var err error
	for range 1000 {
		p.next++
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.next)); err == nil {
			break
		}
	}
	return l, err
}

func cmdAddress(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) > 0, "address NAME...")
	for _, name := range args {
		l, err := of(ts).ports.listen()
		ts.Check(err)
		ts.Setenv(name, l.Addr().String())
		ts.Check(l.Close())
	}
}

// cmdEmpty checks that there is nothing in a directory.
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "empty DIRECTORY")
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, e := range entries {
		ts.Fatalf("%s is left behind in %s", e.Name(), args[0])
	}
}

// cmdFind sets a variable to what the first group of a regular expression matches in a file.
func cmdFind(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 3, "find NAME REGEXP FILE")
	found := compile(ts, args[1]).FindStringSubmatch(ts.ReadFile(args[2]))
	if len(found) != 2 {
		ts.Fatalf("%q and one group are not in %s", args[1], args[2])
	}
	ts.Setenv(args[0], found[1])
}

func cmdCopyDir(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 2, "copy-dir FROM TO")
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
}

// cmdDamage flips a byte in the middle of the largest file that matches.
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) == 1, "damage PATTERN")
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	var name string
	var content []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		if len(b) > len(content) {
			name, content = f, b
		}
	}
	if len(content) == 0 {
		ts.Fatalf("nothing is in %s", args[0])
	}
	content[len(content)/2] ^= 0xff
	ts.Check(os.WriteFile(name, content, 0o600))
}
