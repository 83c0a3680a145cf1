# Every target works from a fresh clone. `make help` lists them.

GO ?= go
export CGO_ENABLED ?= 0

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12

# What uses the lab of namespaces measures time or is long, so it runs after the
# rest; what runs our programs, by themselves.
LAB_PATTERN := /internal/(natlab/(debian|netns)|faketcp|tun)(/|$$)
PROGRAMS_PATTERN := /internal/natlab/programs(/|$$)

# GOARCH is the host's where none is named.
CROSS := darwin/arm64 windows/amd64 freebsd/amd64 linux/arm64

# Paths as in the binaries that we ship: so they are compiled once, for check,
# build, lab and packages.
TRIM := -trimpath

# The race detector would wait a second at each program's end, for races that
# are being reported by then.
RACE := CGO_ENABLED=1 GORACE=atexit_sleep_ms=0

.PHONY: help build demo test unit lab paths check format vet lint generated cross matrix bench micro packages fuzz clean deps

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

build: ## bin/rendezvous and bin/agent
	$(GO) build $(TRIM) -o bin/ ./cmd/...

demo: deps build ## WireGuard through two NATs and a CG-NAT, in two minutes
	scripts/as-root.sh $(GO) run ./internal/natlab/demo -bin bin

test: deps build unit lab ## all tests

unit: ## tests that need no privilege, with the race detector
	$(RACE) $(GO) test -vet=off -race $$($(GO) list ./... | grep -Ev '$(LAB_PATTERN)|$(PROGRAMS_PATTERN)')

lab: ## tests with real programs in network namespaces
	$(RACE) scripts/as-root.sh $(GO) test -vet=off -race -count=1 -p 2 -timeout 12m $$($(GO) list ./... | grep -E '$(LAB_PATTERN)')
	scripts/as-root.sh $(GO) test -vet=off $(TRIM) -count=1 -parallel 6 -timeout 12m $$($(GO) list ./... | grep -E '$(PROGRAMS_PATTERN)')

check: format lint generated cross ## all that looks at the code without running it

format:
	@stale=$$(gofmt -l .); if [ -n "$$stale" ]; then echo "gofmt -w these: $$stale" >&2; exit 1; fi

vet: ## go vet alone: lint has all of it, so tests go without
	$(GO) vet ./...

lint:
	@if grep -rnE '//[[:space:]]*nolint' --include='*.go' .; then echo "lint: mend the code instead" >&2; exit 1; fi
	GOFLAGS=$(TRIM) "$$(scripts/tool.sh $(GOLANGCI))" run ./...

generated:
	PATH="$$(dirname "$$(scripts/tool.sh $(PROTOC_GEN_GO))"):$$PATH" proto/check-generated.sh
	internal/fastpath/check-generated.sh

# list -export compiles everything, and links nothing.
cross:
	@for target in $(CROSS); do \
		echo "build $$target"; \
		export GOOS=$${target%/*} GOARCH=$${target#*/}; \
		$(GO) build $(TRIM) ./cmd/... && $(GO) list $(TRIM) -export ./... >/dev/null || exit 1; \
	done

paths: deps ## the table of docs/PATHS.md, made here
	scripts/as-root.sh $(GO) run ./internal/natlab/paths -o docs/PATHS.md

matrix: deps ## docs/MATRIX.md: every two kinds of NAT; MATRIX=-namespaces=0 without the real programs
	scripts/as-root.sh $(GO) run ./internal/natlab/matrix $(if $(MATRIX),$(MATRIX),-o docs/MATRIX.md)

bench: deps ## the figures of docs/BENCH.md, measured here; ONLY=public,tcp shows some parts
	scripts/as-root.sh $(GO) run ./internal/natlab/bench $(if $(ONLY),-only $(ONLY),-o docs/BENCH.md)

micro: ## benchmarks of the data path alone, in the form that benchstat reads; COUNT=10 repeats them
	$(GO) test -run '^$$' -bench . -count $(or $(COUNT),6) ./internal/seal ./internal/dgram ./internal/session ./internal/relay ./internal/forward

packages: ## Debian packages of both commands in dist/, for GOARCH
	scripts/packages.sh

fuzz: ## each fuzz target for FUZZTIME (10s)
	scripts/fuzz.sh $(FUZZTIME)

deps: ## Debian packages that tests and demo use
	scripts/deps.sh

clean: ## removes what was built
	rm -rf bin dist
