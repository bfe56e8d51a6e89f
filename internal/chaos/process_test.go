//go:build linux

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// process is one of the processes under test, over all its lives.
type process struct {
	t    *testing.T
	name string
	log  *os.File
	said *journal

	mu      sync.Mutex
	task    task
	command *exec.Cmd
	stdin   io.WriteCloser // the process ends when this is closed
}

// newProcess starts a process. Each line that it says goes to take, split into fields, with the number of its life.
func newProcess(t *testing.T, name string, k task, take func(life int, fields []string)) *process {
	t.Helper()
	for _, dir := range []string{k.Dir, k.storeDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.OpenFile(k.Dir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, task: k, log: log, said: &journal{take: take}}
	p.start()
	t.Cleanup(func() {
		p.kill()
		log.Close()
	})
	return p
}

// start begins another life. There must be none.
func (p *process) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := json.Marshal(p.task)
	if err != nil {
		p.t.Error(err)
		return
	}
	p.said.begin()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleVariable+"="+string(text))
	c.Stdout, c.Stderr = p.said, p.log
	if p.stdin, err = c.StdinPipe(); err == nil {
		err = c.Start()
	}
	if err != nil {
		p.t.Errorf("start %s: %v", p.name, err)
		return
	}
	p.command = c
}

func (p *process) signal(s syscall.Signal) {
	if p.command != nil {
		_ = p.command.Process.Signal(s)
	}
}

func (p *process) kill()      { p.end(syscall.SIGKILL) }
func (p *process) terminate() { p.end(syscall.SIGTERM) }

// end waits for the end. A process that ended with an error of its own is a failure.
func (p *process) end(s syscall.Signal) {
	if p.command == nil {
		return
	}
	p.signal(s)
	err := p.command.Wait()
	p.mu.Lock()
	p.stdin.Close()
	p.command = nil
	p.mu.Unlock()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		p.t.Errorf("%s ended with code %d, see %s", p.name, exit.ExitCode(), p.log.Name())
	}
}

// tell changes what the process is told, now and at its next start.
func (p *process) tell(change func(*task), c command) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if change != nil {
		change(&p.task)
	}
	if p.command == nil {
		return
	}
	line, err := json.Marshal(c)
	if err != nil {
		p.t.Error(err)
		return
	}
	_, _ = p.stdin.Write(append(line, '\n')) // it may just have died
}

// limitFiles limits how large its files may grow; 0: no limit.
func (p *process) limitFiles(bytes uint64) {
	p.tell(func(t *task) { t.FileLimit = bytes }, command{limitCommand, int64(bytes)})
}

// journal takes what a process says, line by line. The last line of a life may be cut short: it does not count.
type journal struct {
	take func(life int, fields []string)
	life int
	rest []byte
}

func (j *journal) begin() { j.life, j.rest = j.life+1, nil }

// Write implements io.Writer. It is called by one goroutine in each life.
func (j *journal) Write(b []byte) (int, error) {
	j.rest = append(j.rest, b...)
	for {
		line, rest, ok := bytes.Cut(j.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		j.take(j.life, strings.Fields(string(line)))
		j.rest = rest
	}
}
