package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/thalweg/thalweg/internal/config"
)

func TestGCPercent(t *testing.T) {
	const elsewhere = "nats: {urls: ['nats://127.0.0.1:4222']}\n"
	for name, c := range map[string]struct {
		config      string
		environment string
		percent     int
		ok          bool
	}{
		"edge alone":                   {config: elsewhere + "edge: {}", percent: edgePercent, ok: true},
		"the environment says it":      {config: elsewhere + "edge: {}", environment: "100"},
		"the environment says off":     {config: elsewhere + "edge: {}", environment: "off"},
		"hub alone":                    {config: elsewhere + "hub: {}"},
		"edge and hub":                 {config: elsewhere + "edge: {}\nhub: {}"},
		"edge with an embedded server": {config: "nats: {embedded: {}}\nedge: {}"},
		"edge whose server is implied": {config: "edge: {}"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "thalweg.yml")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(file, dir)
			if err != nil {
				t.Fatal(err)
			}
			if percent, ok := gcPercent(cfg, c.environment); percent != c.percent || ok != c.ok {
				t.Errorf("%d, %v, want %d, %v", percent, ok, c.percent, c.ok)
			}
		})
	}
}

func TestCgroupMemory(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		bytes int64
		file  string
	}{
		"no cgroups": {},
		"version 2": {
			files: map[string]string{
				"proc/self/cgroup": "0::/system.slice/thalweg.service\n",
				"sys/fs/cgroup/system.slice/thalweg.service/memory.max": "67108864\n",
				"sys/fs/cgroup/system.slice/memory.max":                 "max\n",
			},
			bytes: 64 << 20,
			file:  "/sys/fs/cgroup/system.slice/thalweg.service/memory.max",
		},
		"the parent allows less": {
			files: map[string]string{
				"proc/self/cgroup":                       "0::/pod/container\n",
				"sys/fs/cgroup/pod/container/memory.max": "67108864\n",
				"sys/fs/cgroup/pod/memory.max":           "33554432\n",
			},
			bytes: 32 << 20,
			file:  "/sys/fs/cgroup/pod/memory.max",
		},
		"no limit in version 2": {
			files: map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
		},
		"version 1 in a container that sees the path of the host": {
			files: map[string]string{
				"proc/self/cgroup":                           "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
			},
			bytes: 128 << 20,
			file:  "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		},
		"no limit in version 1": {
			files: map[string]string{
				"proc/self/cgroup":                           "4:memory:/\n",
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			},
		},
		"nonsense": {
			files: map[string]string{"proc/self/cgroup": "memory\n\n0::/a\n", "sys/fs/cgroup/a/memory.max": "lots\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for file, content := range c.files {
				root[file] = &fstest.MapFile{Data: []byte(content)}
			}
			if bytes, file := cgroupMemory(root); bytes != c.bytes || file != c.file {
				t.Errorf("%d bytes by %q, want %d by %q", bytes, file, c.bytes, c.file)
			}
		})
	}
}
