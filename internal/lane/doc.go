// Package lane holds the state machines of delivery: what an edge sends, and what a hub knows.
//
//   - Sender turns rows into frames and decides when a frame closes and when it is a keyframe.
//   - Publisher brings messages onto one subject by compare-and-set and decides what is stored after a doubtful answer,
//     and who owns the lane (one machine for each lane of a site).
//   - PlanStart decides, when a link returns, where the live lane goes on and what the backfill lane has to fill.
//   - Pace sizes messages, so that none holds up a link for long.
//   - VersionChoice decides which version of frames is written.
//   - Receiver turns the messages of all sites into rows, each row once, and keeps a Ledger for every site: which rows
//     exist and which came, from frame headers alone.
//   - Ends tells from these rows which series ended, and when.
//
// All of them are pure: messages and times go in, decisions come out. None does I/O, reads a clock, or starts a
// goroutine; none is safe for concurrent use. Package edge drives all but the last two, which package hub drives.
//
//	frames, err := sender.Append(nil, row, now)
//	frames = sender.Flush(frames, now)
//
//	receiver.Step(lane.Message{Site: "ams-1", Sequence: 17, Payload: payload}, handler)
package lane
