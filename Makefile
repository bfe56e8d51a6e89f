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

.PHONY: build check lint test test-integration bench tools clean

build:
	$(GO) build -trimpath -tags '$(TAGS)' -ldflags '-s -w -X main.version=$(VERSION)' -o bin/thalweg ./cmd/thalweg

# Fast: no race detector, short tests. TestImportDirection and its like are in the package at the root.
check: lint
	$(GO) test -short ./...

lint:
	scripts/tools.sh --check
	$(GO) build ./...
	$(GO) vet ./...
	@unformatted=$$(gofmt -l *.go cmd internal) && test -z "$$unformatted" || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(TOOLS)/staticcheck ./...

test: tools lint
	$(GO) test -count=1 -timeout=15m $(SINGLE)
	$(GO) test -count=1 -timeout=15m -race $(RACE)

# The scenarios: the real binary, a real Prometheus, a real node_exporter.
test-integration: tools
	$(GO) test -count=1 -timeout=15m -v ./cmd/...

bench:
	$(GO) test -run='^$$' -bench=. -benchmem ./internal/...

tools:
	scripts/tools.sh

clean:
	rm -rf bin .cache
