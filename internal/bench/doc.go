// Package bench measures what DESIGN promises, under stable names, with the product's default settings.
//
//	make bench          # all that runs inside of one process
//	make bench-process  # the real program between real targets and a real server
//	make bench-peers    # other agents on the same targets
//
// docs/performance.md says what the figures mean.
//
// The workload is real: twenty consecutive scrapes of a node_exporter and of a Prometheus server (package frame,
// testdata/corpus), replayed by twenty targets. Target i begins with scrape i, its values are scaled by a factor of its
// own, and large deltas are jittered by 20 % from a fixed seed: without that every frame would hold the same twenty
// delta rows, which flatters any codec with memory. What a series only has multiples of (decimals, pages, sectors) it has
// multiples of in the replay. Beyond the twentieth scrape the first follows, raised so that
// counters never fall. Comparisons (remote write 1.0 and 2.0, textparse) run in the same benchmark on the same rows.
package bench
