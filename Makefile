# make test is everything, and installs what it needs into .cache/tools. make check is what to run before a commit.

GO      ?= go
TOOLS   := $(CURDIR)/.cache/tools/bin
VERSION ?=
# TAGS=kubernetes adds kubernetes_sd_configs, and 28 MB to the program.
TAGS    ?=

# Packages of one goroutine: the race detector would only make them slow.
SINGLE  := ./internal/frame/... ./internal/lane/... ./internal/pipeline/... ./internal/expo/...
ALL      = $(shell $(GO) list ./...)
RACE     = $(filter-out $(shell $(GO) list $(SINGLE)),$(ALL))

# Tests that run other programs look for them here first.
export PATH := $(TOOLS):$(PATH)

.PHONY: build check lint vuln test test-integration bench bench-process bench-peers pgo tools clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '-s -w -X main.version=$(VERSION)' -o bin/thalweg ./cmd/thalweg

# Fast: no race detector, short tests. TestImportDirection and its like are in the package at the root.
check: lint
	$(GO) test -short ./...

lint:
	scripts/tools.sh --check
	$(GO) build ./...
	$(GO) vet ./...
	@unformatted=$$(gofmt -l *.go cmd internal) && test -z "$$unformatted" || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(TOOLS)/staticcheck ./...

# Known vulnerabilities in what the program calls. Fetches the Go project's database.
vuln:
	scripts/tools.sh --vuln
	$(TOOLS)/govulncheck ./...

test: tools lint
	$(GO) test -count=1 -timeout=15m $(SINGLE)
	$(GO) test -count=1 -timeout=15m -race $(RACE)

# The scenarios: the real binary, a real Prometheus, a real node_exporter.
test-integration: tools
	$(GO) test -count=1 -timeout=15m -v ./cmd/...

# All promises that hold inside of one process, in less than ten minutes. docs/performance.md says what they mean.
bench: tools
	$(GO) test -run='^$$' -bench=. -skip='^Benchmark(Process|Peers)$$' -timeout=30m ./internal/bench
	$(GO) test -run='^$$' -bench='^BenchmarkNATSMetrics$$' ./internal/natsmon

# The real program between real targets and a real server, in about eleven minutes.
bench-process: build
	$(GO) test -run='^$$' -bench='^BenchmarkProcess$$' -benchtime=1x -timeout=30m ./internal/bench

# Other agents on the same targets: those of prometheus and vmagent that are on PATH.
bench-peers: tools
	$(GO) test -run='^$$' -bench='^BenchmarkPeers$$' -benchtime=1x -timeout=30m ./internal/bench

# A profile for the compiler, which uses it because of its name. It is not committed: docs/performance.md says why.
pgo:
	@mkdir -p .cache
	$(GO) test -run='^$$' -bench='^Benchmark(Edge|Hub|Backfill|Federate)$$' -benchtime=5s -o .cache/bench.test -cpuprofile=cmd/thalweg/default.pgo ./internal/bench

tools:
	scripts/tools.sh

clean:
	rm -rf bin .cache
