package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/thalweg/thalweg/internal/bus/bustest"
)

// patience is how long anything is waited for. Nothing is expected to take that long; the machine may be busy.
const patience = time.Minute

// TestMain makes this test binary do as the programs that scripts start, besides prometheus and node_exporter.
func TestMain(m *testing.M) {
	// Scenarios mostly wait, so there may be more of them at a time than processors. A -parallel in the command line
	// has the last word.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){
		"thalweg":       main,
		"nats-plain":    natsPlain,
		"tsdb-receiver": tsdbReceiver,
		"event-sender":  eventSender,
	})
}

// TestScenarios runs the scripts of testdata/script, which are stories of the real program with real peers.
//
// Processes: their output is NAME.out (standard output) and NAME.log (standard error)
//
//	start NAME PROGRAM ARGUMENTS...   start a program: thalweg, nats-plain, tsdb-receiver, prometheus or node_exporter
//	terminate NAME                    SIGTERM; it must exit with 0
//	signal NAME TERM|INT|HUP|STOP|CONT   send a signal
//	exits NAME CODE                   wait until it has exited, with this code
//	kill9 NAME                        SIGKILL, and wait
//	wait-log NAME REGEXP              wait until a line of NAME.log matches
//
// Addresses and files
//
//	address NAME...                   set variables to free loopback addresses, HOST:PORT
//	expand FILE...                    replace variables in files
//	find NAME REGEXP FILE             set a variable to what the group matches
//	empty DIRECTORY                   check that nothing is in it
//	copy-dir FROM TO                  copy a directory
//	damage PATTERN                    change a byte in the middle of the largest file that matches
//	wait-file FILE REGEXP             wait until a line of a file matches
//	certificate NAME HOST             make NAME.pem, which vouches for itself, and NAME.key
//
// Over HTTP: ADDRESS is HOST:PORT; regular expressions have (?m); with ! until it is no longer so
//
//	get|post [-code=N] URL            one request, whose answer is standard output
//	wait-http [-code=N] URL REGEXP... until the answer has this code and all match
//	shows ADDRESS SELECTOR REGEXP...  until all match what /federate says
//	same-values ADDRESS SELECTOR FILE until /federate has exactly the series and values of an exposition
//	promquery ADDRESS EXPR REGEXP     until an instant query's answer, lines "LABELS VALUE", matches
//	same-samples N ADDRESS EXPR ADDRESS EXPR   until the first Prometheus has N samples, all of which the second has
//	complete ADDRESS                  until a hub misses no rows of any site
//
// Targets: what an edge scrapes, under the control of the script
//
//	target NAME MODE [FILE]           serve FILE, counter, noise, garbage, endless, trickle or refuse; sets $NAME
//	scraped NAME N                    wait for N more requests
//	newest ADDRESS SITE NAME          until /federate has what a counter served last, or later
//	every-scrape [-holes=N] [-token=TOKEN] NAME NATS SITE
//	                                  until the stream has, once, every value that a counter has served, but for N
//
// Telemeter clients: URL is where both endpoints stand
//
//	authorize [-code=N] NAME URL ID TOKEN  set $NAME to the token that a client gets for its own
//	upload [-code=N] URL TOKEN FILE   push an exposition; standard output is Retry-After and the answer
//
// Remote write: PATH is that of a receiver at the recorder
//
//	recorder NAME                     begin a receiver that takes everything and keeps it; sets $NAME
//	every-write [-repeats] NAME PATH TARGET   until it has, once, every value that a counter has served
//	write [-code=N] [-token=TOKEN] URL SERIES VALUE   send a sample of now; standard output is the answer
//	same-writes [-starts] N NAME PATH ADDRESS   until a Prometheus has just its samples, N at least, markers, histograms and starts included
//
// Senders of remote write
//
//	write [-code=N] [-token=TOKEN] URL SERIES VALUE   send a sample of now; standard output is the answer
//
// Clients of a Pushgateway
//
//	group [-code=N] [-ttl=DURATION] [-token=TOKEN] METHOD URL [FILE]   one request; standard output is the answer
//	pushers NAME ADDRESS N            N clients push, each a number that grows, to a group of its own, whoever answers
//	pushed NAME N                     until each of them has had N answers more
//	push-no-more NAME                 end them
//	every-push NAME URL               check that it has of each client what was answered, or something later
//
// Events
//
//	redis ADDRESS ANSWER COMMAND ARGUMENTS...   until the answer of Redis to a command is this, of the protocol
//	total N SERIES URL...             until the values of a series on all pages come to N; they must not come to more
//	publish ADDRESS SUBJECT PAYLOAD   publish to NATS as the site that the subject is of, and wait for the answer
//
// NATS
//
//	delete-stream ADDRESS [NAME]      as somebody with the rights of a hub
//	create-stream ADDRESS SUBJECT     likewise
//	clients NAME ADDRESS N            connect clients, or close some, until there are N
//	stream [-replicas=N] ADDRESS NAME create a stream for other things than frames; with ! delete it
//	copy-stream ADDRESS FILE          create a stream as a file says that "nats stream add --config" would take
//	link NAME ADDRESS|cut|mend        set $NAME to an address that leads to ADDRESS, except while it is cut
//	send-frame ADDRESS SITE TOKEN|- KIND   publish as a site: garbage, truncated, future, lying, bomb or wrong-part
func TestScenarios(t *testing.T) {
	free := newPorts()
	dir, files := "testdata/script", []string(nil)
	if testing.Short() { // what takes a few seconds and needs no other programs
		dir, files = "", []string{dir + "/edge_alone.txtar", dir + "/bad_frames.txtar", dir + "/flags.txtar"}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		Files:               files,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			s := &scenario{
				t: env.T().(testing.TB), ports: free,
				processes: map[string]*process{}, targets: map[string]*scrapeTarget{}, links: map[string]*bustest.Proxy{},
				recorders: map[string]*recorder{}, pushers: map[string]*pushers{},
				natsClients: map[string]*natsClients{},
			}
			env.Values[scenarioKey{}] = s
			env.Defer(s.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"start": cmdStart, "terminate": cmdTerminate, "signal": cmdSignal, "exits": cmdExits, "kill9": cmdKill9, "wait-log": cmdWaitLog,
			"wait-file": cmdWaitFile, "copy-dir": cmdCopyDir, "damage": cmdDamage, "newest": cmdNewest,
			"address": cmdAddress, "expand": cmdExpand, "empty": cmdEmpty, "find": cmdFind,
			"certificate": cmdCertificate,
			"get":         cmdGet, "post": cmdPost, "wait-http": cmdWaitHTTP, "shows": cmdShows, "same-values": cmdSameValues,
			"promquery": cmdPromQuery, "same-samples": cmdSameSamples, "complete": cmdComplete,
			"target": cmdTarget, "scraped": cmdScraped, "every-scrape": cmdEveryScrape,
			"authorize": cmdAuthorize, "upload": cmdUpload, "write": cmdWrite,
			"group": cmdGroup, "pushers": cmdPushers, "pushed": cmdPushed, "push-no-more": cmdPushNoMore, "every-push": cmdEveryPush,
			"recorder": cmdRecorder, "every-write": cmdEveryWrite, "same-writes": cmdSameWrites,
			"redis": cmdRedis, "total": cmdTotal, "publish": cmdPublish,
			"delete-stream": cmdDeleteStream, "create-stream": cmdCreateStream, "send-frame": cmdSendFrame,
			"clients": cmdClients, "stream": cmdStream,
			"copy-stream": cmdCopyStream, "link": cmdLink,
		},
	})
}

// scenario is what one running script has beside the interpreter.
type scenario struct {
	t           testing.TB
	ports       *ports // shared by all scripts
	processes   map[string]*process
	targets     map[string]*scrapeTarget
	links       map[string]*bustest.Proxy
	recorders   map[string]*recorder
	pushers     map[string]*pushers
	natsClients map[string]*natsClients
}

type scenarioKey struct{}

func of(ts *testscript.TestScript) *scenario { return ts.Value(scenarioKey{}).(*scenario) }

func (s *scenario) close() {
	for _, p := range s.processes {
		p.kill()
	}
	for _, t := range s.targets {
		t.refuse()
	}
	for _, p := range s.pushers {
		p.end()
	}
	for _, c := range s.natsClients {
		c.close(len(*c))
	}
}

// eventually tries until f has nothing to complain of, or patience ends.
func eventually(ts *testscript.TestScript, f func() error) {
	for end := time.Now().Add(patience); ; {
		start := time.Now()
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			of(ts).fail(ts, "waited for %s: %v", patience, err)
		}
		// What is waited for needs the processor too.
		time.Sleep(max(50*time.Millisecond, 2*time.Since(start)))
	}
}

// fail ends a script, with the end of every log for who has to find out why.
func (s *scenario) fail(ts *testscript.TestScript, format string, args ...any) {
	const lines = 40
	for name, p := range s.processes {
		log, err := os.ReadFile(p.log)
		if err != nil {
			ts.Logf("%s: %v", name, err)
			continue
		}
		all := strings.Split(strings.TrimSpace(string(log)), "\n")
		ts.Logf("[end of %s.log]\n%s", name, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	ts.Fatalf(format, args...)
}

// usageOf fails unless there are the arguments of a command, which not every one may be negated.
func usageOf(ts *testscript.TestScript, ok bool, usage string) {
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

func compile(ts *testscript.TestScript, pattern string) *regexp.Regexp {
	re, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	return re
}

func compileAll(ts *testscript.TestScript, patterns []string) []*regexp.Regexp {
	var all []*regexp.Regexp
	for _, p := range patterns {
		all = append(all, compile(ts, p))
	}
	return all
}

var variable = regexp.MustCompile(`\$(\w+|\{\w+\})`)

// cmdExpand replaces $NAME and ${NAME} in files, where there is such a variable. $JS, of NATS, stays.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	usageOf(ts, !neg && len(args) > 0, "expand FILE...")
	for _, name := range args {
		text := variable.ReplaceAllStringFunc(ts.ReadFile(name), func(v string) string {
			return cmp.Or(ts.Getenv(strings.Trim(v, "${}")), v)
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// tool returns the path of a program, this one or a peer that scripts/tools.sh has put into place.
func tool(ts *testscript.TestScript, name string) string {
	switch name {
	case "prometheus", "node_exporter", "prometheus-pushgateway", "redis-server":
		path := filepath.Join("..", "..", ".cache", "tools", "bin", name)
		path, err := filepath.Abs(path)
		ts.Check(err)
		if _, err := os.Stat(path); err != nil {
			ts.Fatalf("%v\nThe scenarios need a real %s: run scripts/tools.sh", err, name)
		}
		return path
	}
	return name
}

// option takes a leading -NAME=VALUE off the arguments.
func option(args []string, name, otherwise string) (value string, rest []string) {
	if len(args) > 0 {
		if v, ok := strings.CutPrefix(args[0], fmt.Sprintf("-%s=", name)); ok {
			return v, args[1:]
		}
	}
	return otherwise, args
}
