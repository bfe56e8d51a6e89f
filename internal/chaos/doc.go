// Package chaos has no code of its own: its test runs an edge, a server and a hub as processes, does to them and to
// what is between them whatever a bad week does, and holds the result against the promise of delivery. Every row that
// the edge accepted is in what the hub's output recorded, with its exact value, or stands in a gap that the hub reports;
// nothing is recorded twice but what was in flight when the hub was killed.
//
//	go test ./internal/chaos                                        # half a minute, a new seed each time
//	go test ./internal/chaos -chaos.seed=7 -chaos.duration=10m -v
package chaos
