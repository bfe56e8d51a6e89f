//go:build linux

package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const (
	// roleVariable makes the test binary one of the processes, namespaceVariable the tests in a mount namespace.
	roleVariable      = "THALWEG_CHAOS_ROLE"
	namespaceVariable = "THALWEG_CHAOS_NAMESPACE"
)

// task is what a process is told at its start.
type task struct {
	Role string
	Site string // of an edge
	Dir  string // for what must survive; on a small disk if the process is to meet a full one
	URLs []string
	// Listen is the address of a server, and Config of its part in a cluster; Replicas of the stream.
	Listen   string
	Config   string
	Replicas int
	// Start of the whole and Skew are an edge's clock.
	Start time.Time
	Skew  time.Duration
	// Calm edges make few rows.
	Calm bool
	// FileLimit is how large files may grow; 0: no limit.
	FileLimit uint64
}

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		os.Exit(playRole(text))
	}
	os.Exit(inNamespace(m.Run))
}

// inNamespace runs f in a mount namespace of its own, where small disks can be mounted, if the system allows it.
func inNamespace(f func() int) int {
	self, err := os.Executable()
	if err != nil || os.Getenv(namespaceVariable) != "" {
		return f()
	}
	runtime.LockOSThread() // the child dies with the thread that made it
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), namespaceVariable+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	root := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UidMappings: root(os.Getuid()), GidMappings: root(os.Getgid()),
	}
	if err := c.Start(); err != nil {
		return f()
	}
	err = c.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func playRole(text string) int {
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGXFSZ)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	logger.Info("process begins", "pid", os.Getpid())
	limitFiles(t.FileLimit, logger)
	commands := make(chan command)
	go func() {
		s := bufio.NewScanner(os.Stdin)
		for s.Scan() {
			var c command
			if err := json.Unmarshal(s.Bytes(), &c); err != nil {
				panic(err)
			}
			if c.Do == limitCommand {
				limitFiles(uint64(c.Value), logger)
				continue
			}
			commands <- c
		}
		os.Exit(3) // the test is gone when its end of the pipe is
	}()
	roles := map[string]func(context.Context, task, <-chan command, *slog.Logger) error{
		"server": runServer, "edge": runEdge, "hub": runHub,
	}
	if err := roles[t.Role](ctx, t, commands, logger); err != nil {
		logger.Error("process ends", "err", err)
		return 1
	}
	return 0
}

// command is what the test tells a process while it runs.
type command struct {
	Do    string
	Value int64
}

const (
	limitCommand = "limit" // to all: FileLimit
	calmCommand  = "calm"  // to an edge
	skewCommand  = "skew"  // to an edge: Skew
	gapsCommand  = "gaps"  // to a hub: say what is missing
)

// limitFiles sets how large files may grow.
func limitFiles(bytes uint64, logger *slog.Logger) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit)
	if err == nil {
		if limit.Cur = limit.Max; bytes > 0 {
			limit.Cur = bytes
		}
		err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}
	if err != nil {
		logger.Error("limit files", "err", err)
	}
}

// say tells the test something: one line.
func say(format string, args ...any) error {
	_, err := fmt.Fprintf(os.Stdout, format+"\n", args...)
	return err
}
