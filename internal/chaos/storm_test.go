//go:build linux

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/thalweg/thalweg/internal/bus"
	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// storm is one run: edges, servers and hubs, what is between them, and what becomes of the rows.
type storm struct {
	t        *testing.T
	dir      string
	start    time.Time // of all clocks
	begun    time.Time // when things began to go wrong
	duration time.Duration
	replicas int
	steps    []step

	servers, hubs []*process
	edges         []*process
	disks         map[*process]*disk
	links         map[string]*cable
	control       *bus.Conn // straight to the servers
	copy          string    // of the servers' directories; "" before the first

	made    map[string]*made // by site
	records []*record        // of the hubs
}

// cable is the link of a client: a proxy before each server. Several faults can refuse connections at a time.
type cable struct {
	proxies []*bustest.Proxy
	mu      sync.Mutex
	refused int
}

func (c *cable) each(f func(*bustest.Proxy)) {
	for _, p := range c.proxies {
		f(p)
	}
}

func (c *cable) refuse(by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused += by
	c.each(func(p *bustest.Proxy) { p.Refuse(c.refused > 0) })
}

func (c *cable) urls() (urls []string) {
	c.each(func(p *bustest.Proxy) { urls = append(urls, p.URL()) })
	return urls
}

// sites, and how wrong their clocks are at the start: right, twenty minutes slow, and not set at all.
var sites = []struct {
	name string
	skew func(start time.Time) time.Duration
}{
	{"ams-1", func(time.Time) time.Duration { return 0 }},
	{"fra-2", func(time.Time) time.Duration { return -20 * time.Minute }},
	{"lon-3", func(start time.Time) time.Duration { return time.Unix(3600, 0).Sub(start) }},
}

const hubs = 2

// newStorm starts everything and plans what happens.
func newStorm(t *testing.T, servers int, seed uint64, duration time.Duration) *storm {
	t.Helper()
	s := &storm{
		t: t, dir: directory(t), start: time.Now(), duration: duration, replicas: servers,
		disks: map[*process]*disk{}, links: map[string]*cable{}, made: map[string]*made{},
	}
	addresses := s.startServers(servers)
	var urls []string
	for _, a := range addresses {
		urls = append(urls, "nats://"+a)
	}
	s.control = bustest.Connect(t, bus.Options{Config: busConfig(urls, servers)})
	actors := []actor{serverActor(servers)}
	for i := range hubs {
		name := fmt.Sprintf("hub-%d", i+1)
		k := task{Role: "hub", Dir: filepath.Join(s.dir, name), URLs: s.connect(name, addresses), Replicas: servers}
		r := newRecord()
		s.records = append(s.records, r)
		s.hubs = append(s.hubs, newProcess(t, name, k, r.take))
		actors = append(actors, hubActor(name), linkActor(linkOf(name), 3*time.Second))
	}
	for _, site := range sites {
		k := task{
			Role: "edge", Site: site.name, Dir: filepath.Join(s.dir, site.name), URLs: s.connect(site.name, addresses), Replicas: servers,
			Start: s.start, Skew: site.skew(s.start),
		}
		d := newDisk(t, k.Dir, diskSize(duration))
		m := &made{site: site.name}
		s.made[site.name] = m
		p := newProcess(t, site.name, k, m.take)
		s.edges = append(s.edges, p)
		s.disks[p] = d
		actors = append(actors, edgeActor(site.name), linkActor(linkOf(site.name), 7*time.Second))
	}
	s.steps = slices.DeleteFunc(plan(seed, duration, actors), func(x step) bool {
		return slices.Contains(strings.Split(*withoutFlag, ","), string(x.Fault))
	})
	return s
}

func directory(t *testing.T) string {
	if !*keepFlag {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("directory %s", dir)
	return dir
}

// diskSize is enough for a run if nothing fills the disk.
func diskSize(duration time.Duration) int64 {
	return 48<<20 + int64(duration.Minutes()*float64(16<<20))
}

func linkOf(name string) string { return "link of " + name }

// connect makes the link of a client.
func (s *storm) connect(name string, addresses []string) []string {
	c := &cable{}
	for _, a := range addresses {
		c.proxies = append(c.proxies, bustest.NewProxy(s.t, a))
	}
	s.links[linkOf(name)] = c
	return c.urls()
}

// startServers starts one server, or several that form a cluster, and returns their addresses.
func (s *storm) startServers(n int) []string {
	all := freeAddresses(s.t, 2*n)
	addresses, cluster := all[:n], all[n:]
	for i := range n {
		name := fmt.Sprintf("server-%d", i+1)
		k := task{Role: "server", Dir: filepath.Join(s.dir, name), Listen: addresses[i], Replicas: n}
		if n > 1 {
			k.Config = filepath.Join(s.dir, name+".conf")
			text := fmt.Sprintf("server_name: %s\ncluster {name: chaos, listen: %q, routes: [nats://%s]}\n", name, cluster[i], strings.Join(cluster, ", nats://"))
			if err := os.WriteFile(k.Config, []byte(text), 0o600); err != nil {
				s.t.Fatal(err)
			}
		}
		d := newDisk(s.t, k.Dir, diskSize(s.duration))
		p := newProcess(s.t, name, k, func(int, []string) {})
		s.servers = append(s.servers, p)
		s.disks[p] = d
	}
	return addresses
}

// freeAddresses finds some that servers must know of each other before they run. They are of a loopback address that
// nothing else uses: nobody takes them while a server is down.
func freeAddresses(t *testing.T, n int) (addresses []string) {
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	for range n {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}

// rage lets everything happen that is planned, each actor's in order. It begins when every hub knows every site: what was
// gone before a hub ever heard of a site is no gap for it.
func (s *storm) rage() {
	for i, r := range s.records {
		for _, site := range sites {
			bustest.WaitFor(s.t, "rows of "+site.name+" at "+s.hubs[i].name, func() bool { return r.knows(site.name) })
		}
	}
	s.begun = time.Now()
	byActor := map[string][]step{}
	for _, x := range s.steps {
		byActor[x.Actor] = append(byActor[x.Actor], x)
	}
	var actors sync.WaitGroup
	for _, steps := range byActor {
		actors.Go(func() {
			for _, x := range steps {
				time.Sleep(time.Until(s.begun.Add(x.At))) // what happens, not a wait for something
				s.say("%s", x)
				s.do(x)
			}
		})
	}
	actors.Wait()
	s.say("the storm is over")
}

func (s *storm) say(format string, args ...any) {
	s.t.Logf("%6.3f "+format, append([]any{time.Since(s.begun).Seconds()}, args...)...)
}

func (s *storm) do(x step) {
	switch {
	case x.Actor == "servers":
		s.harmServers(x)
	case strings.HasPrefix(x.Actor, "link"):
		harmLink(x, s.links[x.Actor])
	default:
		all := slices.Concat(s.edges, s.hubs)
		s.harmProcess(x, all[slices.IndexFunc(all, func(p *process) bool { return p.name == x.Actor })])
	}
}

func harmLink(x step, c *cable) {
	switch x.Fault {
	case cut:
		c.each((*bustest.Proxy).Cut)
	case forget:
		c.each((*bustest.Proxy).Forget)
	case loseAnswers:
		c.each(func(p *bustest.Proxy) { p.LoseAnswers(true) })
		time.Sleep(x.For)
		c.each(func(p *bustest.Proxy) { p.LoseAnswers(false) })
	case refuse:
		c.refuse(1)
		c.each((*bustest.Proxy).Cut)
		time.Sleep(x.For)
		c.refuse(-1)
	case stall:
		c.each(func(p *bustest.Proxy) { p.Stall(true) })
		time.Sleep(x.For)
		c.each(func(p *bustest.Proxy) { p.Stall(false) })
	case slow:
		c.each(func(p *bustest.Proxy) {
			p.SetRate(32 << 10)
			p.SetLatency(600 * time.Millisecond)
			p.SetLoss(0.05)
		})
		time.Sleep(x.For)
		c.each(func(p *bustest.Proxy) {
			p.SetRate(0)
			p.SetLatency(0)
			p.SetLoss(0)
		})
	}
}

// harmProcess does to one process, or to several at a time, what can happen to any.
func (s *storm) harmProcess(x step, ps ...*process) {
	each := func(f func(*process)) {
		for _, p := range ps {
			f(p)
		}
	}
	switch x.Fault {
	case kill:
		each((*process).kill)
		time.Sleep(x.For)
		each((*process).start)
	case terminate:
		each((*process).terminate)
		time.Sleep(x.For)
		each((*process).start)
	case stop:
		each(func(p *process) { p.signal(syscall.SIGSTOP) })
		time.Sleep(x.For)
		each(func(p *process) { p.signal(syscall.SIGCONT) })
	case fullDisk, fullRestart:
		each(func(p *process) { s.disks[p].fill(p) })
		time.Sleep(x.For / 2)
		if x.Fault == fullRestart {
			each((*process).kill)
			each((*process).start)
		}
		time.Sleep(x.For / 2)
		each(func(p *process) { s.disks[p].free(p) })
	case setClock:
		by := time.Duration(x.Amount%(2*clockMost)-clockMost) * time.Second
		each(func(p *process) {
			skew := p.task.Skew + by
			p.tell(func(k *task) { k.Skew = skew }, command{skewCommand, int64(skew)})
		})
	case damage:
		each((*process).kill)
		each(func(p *process) { s.damageOutbox(p, x.Amount) })
		time.Sleep(x.For)
		each((*process).start)
	}
}

// clockMost is how many seconds a clock is set at most.
const clockMost = 6 * 3600

// damageOutbox changes a byte in one of the files that an edge does not write to any more.
func (s *storm) damageOutbox(p *process, amount int64) {
	files, err := filepath.Glob(filepath.Join(p.task.storeDir(), "*.frames"))
	if err != nil || len(files) < 2 {
		return
	}
	slices.Sort(files)
	file := files[amount%int64(len(files)-1)]
	data, err := os.ReadFile(file)
	if err == nil {
		at := amount % int64(len(data))
		data[at] ^= 1
		s.say("%s: byte %d of %s is another one", p.name, at, filepath.Base(file))
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (s *storm) harmServers(x step) {
	if x.Fault == restoreCopy && s.copy == "" {
		x.Fault = copyStream
	}
	switch x.Fault {
	case copyStream:
		for _, p := range s.servers {
			p.terminate()
		}
		s.copy = filepath.Join(s.dir, fmt.Sprintf("copy-%d", x.At))
		for _, p := range s.servers {
			s.copyDir(filepath.Join(s.copy, p.name), p.task.storeDir())
			p.start()
		}
	case restoreCopy:
		s.unread(x.For, func() {
			for _, p := range s.servers {
				p.kill()
			}
			for _, p := range s.servers {
				empty(s.t, p.task.storeDir())
				s.copyDir(p.task.storeDir(), filepath.Join(s.copy, p.name))
				p.start()
			}
		})
	case deleteStream:
		s.unread(x.For, func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			_, _ = s.control.Request(ctx, "$JS.API.STREAM.DELETE."+streamConfig(1).Name, nil) // no harm if the server is away
		})
		s.ensureStream()
	case loseServer:
		p := s.servers[x.Amount%int64(len(s.servers))]
		p.kill()
		empty(s.t, p.task.storeDir())
		time.Sleep(x.For)
		p.start()
	default:
		s.harmProcess(x, s.chosen(x.Amount)...)
	}
}

// chosen is some of the servers, at least one.
func (s *storm) chosen(amount int64) (ps []*process) {
	mask := amount%(1<<len(s.servers)-1) + 1
	for i, p := range s.servers {
		if mask&(1<<i) != 0 {
			ps = append(ps, p)
		}
	}
	return ps
}

// unread keeps the hubs from reading for a while what the servers are about to lose.
func (s *storm) unread(d time.Duration, lose func()) {
	for _, p := range s.hubs {
		c := s.links[linkOf(p.name)]
		c.refuse(1)
		c.each((*bustest.Proxy).Cut)
		defer c.refuse(-1)
	}
	time.Sleep(d)
	lose()
}

func (s *storm) copyDir(to, from string) {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		s.t.Error(err)
	}
}

// ensureStream is what a hub does half a minute later.
func (s *storm) ensureStream() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = s.control.EnsureStream(ctx)
}
