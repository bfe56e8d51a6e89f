// Package chaos has no code of its own: its test runs edges, a server or a cluster of three, and hubs as processes, does
// to them and to what is between them whatever a bad week does, and holds the result against the promise of delivery.
// Every row that an edge accepted is in what the output of every hub recorded, with its exact value, or stands in a gap
// of a named cause that the hub reports; nothing is recorded twice but what was in flight when the hub was killed.
//
// What goes wrong follows from the seed, which is printed: processes are killed, ended and stopped; connections are cut,
// refused, stalled, forgotten and slowed down; answers are lost after what they answer was done; disks fill up; clocks
// are wrong and are set; files of an outbox and of a server are damaged and lost; the stream is deleted and an older
// copy of it restored. A full disk is a small file system where mounting one is allowed, else a limit of the process.
//
//	go test ./internal/chaos                                                   # a minute
//	go test ./internal/chaos -v -chaos.servers=3 -chaos.seed=7 -chaos.keep     # one schedule again, with all logs
//	go test ./internal/chaos -timeout=1h -chaos.duration=30m
package chaos
