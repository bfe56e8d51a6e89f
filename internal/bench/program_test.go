package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for another process.
const patience = 2 * time.Minute

// program is another process, watched through /proc. What the load generator in this process spends does not count.
type program struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when its standard error has ended

	mu  sync.Mutex
	log bytes.Buffer // standard error
}

// launch starts a program that stop ends, at the latest after the benchmark.
func launch(b *testing.B, name string, args ...string) *program {
	b.Helper()
	p := &program{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Dir = b.TempDir()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		b.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.log, lines.Text())
			p.mu.Unlock()
		}
	}()
	b.Cleanup(func() { p.stop(b) })
	return p
}

// stop asks the program to end and waits until it has.
func (p *program) stop(b *testing.B) {
	if p.cmd.ProcessState != nil {
		return // it was stopped before
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	<-p.done
	if err := p.cmd.Wait(); err != nil {
		b.Errorf("%s: %v; its log:\n%s", p.cmd.Path, err, p.said())
	}
}

func (p *program) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// logged waits for a line of the log and returns what the expression's group matched.
func (p *program) logged(b *testing.B, expression string) string {
	b.Helper()
	re := regexp.MustCompile(expression)
	var found string
	p.await(b, "log line "+expression, func() bool {
		m := re.FindStringSubmatch(p.said())
		if m != nil {
			found = m[1]
		}
		return m != nil
	})
	return found
}

// await waits for a condition that the program has to bring about.
func (p *program) await(b *testing.B, what string, reached func() bool) {
	b.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(time.Millisecond) {
		select {
		case <-p.done:
			b.Fatalf("%s: %s ended; its log:\n%s", what, p.cmd.Path, p.said())
		default:
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s: not within %s; log of %s:\n%s", what, patience, p.cmd.Path, p.said())
		}
	}
}

// cpu is the time that all threads have spent on processors, in user and in kernel mode.
func (p *program) cpu(b *testing.B) time.Duration {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		b.Fatalf("CPU time of %s: no /proc/PID/task/*/schedstat", p.cmd.Path)
	}
	var total time.Duration
	for _, thread := range threads {
		content, err := os.ReadFile(thread)
		if err != nil {
			b.Fatal(err)
		}
		first, _, _ := strings.Cut(string(content), " ")
		spent, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			b.Fatalf("%s: %v", thread, err)
		}
		total += time.Duration(spent)
	}
	return total
}

// memory is what a process occupies, in bytes.
type memory struct {
	resident float64 // RSS, what is mapped of the program's file included
	own      float64 // RSS without the pages that are only a copy of a file
	peak     float64 // the highest RSS so far
}

func (p *program) memory(b *testing.B) memory {
	b.Helper()
	file := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
	content, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	field := func(name string) float64 {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(content)
		if m == nil {
			b.Fatalf("%s: no %s", file, name)
		}
		kilobytes, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			b.Fatalf("%s: %v", file, err)
		}
		return kilobytes * 1024
	}
	return memory{field("VmRSS"), field("RssAnon"), field("VmHWM")}
}

// get returns the status and the body of an answer; 0 if there was none.
func get(url string) (int, string) {
	response, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}
