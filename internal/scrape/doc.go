// Package scrape makes rows from the targets of Prometheus' scrape_configs.
//
//	m, err := scrape.New(scrape.Options{Site: "ams-1", Catalog: catalog, Sink: sink, Logger: logger}, config.Jobs)
//	go m.Run(ctx)
//	err = m.ApplyConfig(ctx, reloaded.Jobs)
//	for _, t := range m.Targets() { ... }
//
// Discovery (file, http, dns) is Prometheus' own, and runs from the first job on that needs it; the rules that make targets of what it finds, and series of
// what targets expose, are Prometheus' rules. Each target has a loop of its own: fetch, parse, one whole row.
//
// It promises: one row for each scrape, good or bad, with up and its companions in it; a failed scrape is a row in
// which all other series have ended; a target that is gone ends by a row with End, at the time of its first missed
// scrape, unless it comes back before the one after; nothing ends because the process stops. A reload that leaves a
// target as it was costs it nothing. A target that misbehaves harms only itself.
//
// Where Prometheus asks every target for gzip, we ask for no compression at loopback, link-local and private addresses,
// and elsewhere for zstd or gzip: to undo gzip takes ten times as long as to parse the body. enable_compression: false
// means what it means there, and the target label __scrape_encoding__ (set by relabelling; identity, gzip or zstd) has
// the last word.
//
// Series go on and end as under Prometheus' own manager, which the tests hold against ours, with these differences. When
// a target goes, all its series end, also those of a job that goes as a whole and those with timestamps of their own,
// which Prometheus leaves to the lookback. When a body fails in the middle, what stood before the error ends too. A
// changed list of targets does not make the job's other targets start anew.
//
// A scrape over plain HTTP is two wake-ups of one thread: when it is due and when the answer is there. On Linux each
// target has a timer of the kernel for the first, a file descriptor beside that of its connection, and system calls on
// sockets pass the scheduler by: docs/performance.md has what that is worth.
//
// It leaves out the parsing (package expo) and what happens to rows (the sink). It does not import prometheus/scrape:
// that package writes through an Appender, sample by sample with all labels, and weighs 6 MB; what we need of it are
// some sixty lines of rules in target.go and mapper.go.
package scrape
