//go:build linux

package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// fault is what can go wrong.
type fault string

// Faults of processes.
const (
	kill         fault = "kill"           // and start again
	terminate    fault = "terminate"      // and start again
	stop         fault = "stop"           // SIGSTOP, SIGCONT
	fullDisk     fault = "fill the disk"  // and make room again
	fullRestart  fault = "fill and kill"  // the process starts on a full disk
	setClock     fault = "set the clock"  // of an edge, by Amount seconds, and never back
	damage       fault = "damage a file"  // of an edge's outbox, while it is killed
	copyStream   fault = "copy"           // the directories of the servers, while they are down
	restoreCopy  fault = "restore"        // the last copy
	deleteStream fault = "delete"         // the stream
	loseServer   fault = "lose the files" // of one server of a cluster, while it is killed
)

// Faults of links.
const (
	cut         fault = "cut"          // all connections, once
	loseAnswers fault = "lose answers" // what a client sends arrives
	refuse      fault = "refuse"       // no connections
	stall       fault = "stall"        // nothing passes, nobody is told
	forget      fault = "forget"       // the connections there are
	slow        fault = "slow"         // little passes, late, with losses
)

// step is one fault.
type step struct {
	At     time.Duration // since the beginning
	Actor  string
	Fault  fault
	For    time.Duration // how long it lasts
	Amount int64         // what else the fault needs to know
}

func (s step) String() string {
	return fmt.Sprintf("%s: %s for %s (%d)", s.Actor, s.Fault, s.For.Round(time.Millisecond), s.Amount)
}

// actor is what suffers faults, one at a time.
type actor struct {
	name   string
	faults []chance
}

// chance is how likely a fault is among those of its actor, and how long it lasts at most.
type chance struct {
	fault  fault
	weight int
	most   time.Duration
}

// quiet is the most time between two faults of an actor.
const quiet = 4 * time.Second

func edgeActor(name string) actor {
	return actor{name, []chance{
		{kill, 4, time.Second}, {terminate, 2, time.Second}, {stop, 2, 2 * time.Second}, {setClock, 2, 0},
		{fullDisk, 1, 3 * time.Second}, {fullRestart, 1, 3 * time.Second}, {damage, 1, time.Second},
	}}
}

func hubActor(name string) actor {
	return actor{name, []chance{{kill, 4, 3 * time.Second}, {terminate, 2, 3 * time.Second}, {stop, 2, 3 * time.Second}}}
}

func linkActor(name string, most time.Duration) actor {
	return actor{name, []chance{
		{cut, 2, 0}, {loseAnswers, 3, most}, {refuse, 2, most}, {stall, 1, most}, {forget, 1, 0}, {slow, 1, most},
	}}
}

func serverActor(servers int) actor {
	faults := []chance{
		{kill, 4, 2 * time.Second}, {terminate, 2, 2 * time.Second}, {stop, 2, 2 * time.Second}, {fullDisk, 1, 3 * time.Second},
		{fullRestart, 1, 2 * time.Second}, {copyStream, 2, 0}, {restoreCopy, 2, 2 * time.Second}, {deleteStream, 2, 2 * time.Second},
	}
	if servers > 1 {
		faults = append(faults, chance{loseServer, 2, 2 * time.Second})
	}
	return actor{"servers", faults}
}

// plan is the schedule of a seed. A longer one begins as a shorter one does.
func plan(seed uint64, duration time.Duration, actors []actor) (steps []step) {
	for i, a := range actors {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		sum := 0
		for _, c := range a.faults {
			sum += c.weight
		}
		for at := time.Duration(0); ; {
			at += time.Duration(r.Int64N(int64(quiet)))
			n := r.IntN(sum)
			k := 0
			for n >= a.faults[k].weight {
				n -= a.faults[k].weight
				k++
			}
			c := a.faults[k]
			s := step{At: at, Actor: a.name, Fault: c.fault, Amount: r.Int64N(1 << 40)}
			if c.most > 0 {
				s.For = time.Duration(r.Int64N(int64(c.most)))
			}
			if at >= duration {
				break
			}
			steps = append(steps, s)
			at += s.For
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.At, b.At) })
	return steps
}
