package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/thalweg/thalweg/internal/config"
)

// edgePercent is how much the heap of a process that is an edge alone may grow between two collections, in percent of what
// lives. An edge keeps much for each series and makes little garbage: a small heap costs it next to nothing.
const edgePercent = 50

// tuneMemory sets how much memory the Go runtime takes, where the environment does not say it.
func tuneMemory(c *config.Config, log *slog.Logger) {
	limitMemory(log)
	if percent, ok := gcPercent(c, os.Getenv("GOGC")); ok {
		debug.SetGCPercent(percent)
		log.Info("garbage collector tuned for an edge", "gogc", percent)
	}
}

// gcPercent returns how much the heap may grow, false if it is to stay as the runtime has it. A hub and a server make
// garbage with every query and message.
func gcPercent(c *config.Config, environment string) (percent int, ok bool) {
	if environment != "" || c.Edge == nil || c.Hub != nil || c.Embedded() != nil {
		return 0, false
	}
	return edgePercent, true
}

// limitMemory makes the garbage collector work harder before the kernel kills the process for its memory: the heap may
// have 90 % of what the cgroup allows. GOMEMLIMIT in the environment has the last word.
func limitMemory(log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	allowed, file := cgroupMemory(os.DirFS("/"))
	if allowed == 0 {
		return
	}
	limit := allowed / 10 * 9
	debug.SetMemoryLimit(limit)
	log.Info("memory limit set", "limit_bytes", limit, "cgroup_bytes", allowed, "file", file)
}

// cgroupMemory returns the bytes of memory that the cgroups of this process allow, and the file that says so; 0 where
// none does. A cgroup has no more than the ones above it. In a container the path may be one of the host, and only the
// root is there: it is the container's own then.
func cgroupMemory(root fs.FS) (allowed int64, file string) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, ""
	}
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		mount, name := "", ""
		switch {
		case controllers == "":
			mount, name = "sys/fs/cgroup", "memory.max"
		case controllers == "memory":
			mount, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for at := path.Join("/", group); ; at = path.Dir(at) {
			f := path.Join(mount, at, name)
			// Version 1 writes nearly 2^63 where version 2 writes "max".
			if n := readInteger(root, f); n > 0 && n < 1<<62 && (allowed == 0 || n < allowed) {
				allowed, file = n, "/"+f
			}
			if at == "/" {
				break
			}
		}
	}
	return allowed, file
}

// readInteger returns the number that a file consists of, 0 if it does not or is not there.
func readInteger(root fs.FS, file string) int64 {
	content, err := fs.ReadFile(root, file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
