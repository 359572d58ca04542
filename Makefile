# What people run: build, test, lint, bench, demo, clean. Everything that is
# made goes to build/.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# The race detector needs a C compiler.
RACE    := $(if $(shell command -v $${CC:-cc} 2>/dev/null),-race)
BACKEND ?= host-gw
HOSTS   ?= 3
OUT     ?= build/flanneld

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build flanneld tools test lint bench demo clean

build: flanneld

# The daemon: static, for the platform that GOOS and GOARCH name.
flanneld:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(OUT) ./cmd/flanneld

# etcd for the lab and for the tests of the stores, from its Go module. 3.5 is the
# last one with the v2 API.
ETCD := build/etcd build/etcd-3.6 build/etcd-3.7

build/etcd: ETCD_MODULE := etcd
build/etcd-3.6: ETCD_MODULE := etcd36
build/etcd-3.7: ETCD_MODULE := etcd37
build/etcd: pkg/lab/etcd/go.mod pkg/lab/etcd/go.sum
build/etcd-3.6: pkg/lab/etcd36/go.mod pkg/lab/etcd36/go.sum
build/etcd-3.7: pkg/lab/etcd37/go.mod pkg/lab/etcd37/go.sum
$(ETCD):
	@echo 'building $(@F) for the lab: about a minute, once'
	cd pkg/lab/$(ETCD_MODULE) && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CURDIR)/$@ go.etcd.io/etcd/server/v3

# What the tests compare with and use as an operator would.
tools:
	@for tool in ip bridge ethtool aws; do \
		command -v $$tool >/dev/null || missing=yes; \
	done; \
	if [ -n "$$missing" ]; then \
		apt-get update -q && apt-get install -q -y --no-install-recommends iproute2 ethtool awscli; \
	fi

# The packages one after the other: some of their tests measure how soon the
# daemon acts, and others keep all processors busy.
test: $(ETCD) tools
	for arch in amd64 386 arm64; do GOARCH=$$arch CGO_ENABLED=0 $(GO) vet ./... || exit 1; done
	$(GO) test -p 1 $(RACE) -timeout 30m ./...

bench: $(ETCD) tools
	$(GO) test -p 1 -run '^$$' -bench . -benchmem -timeout 30m ./...

build/golangci-lint: Makefile
	GOBIN=$(CURDIR)/build $(GO) install $(GOLANGCI_LINT)
	@touch $@

lint: build/golangci-lint
	build/golangci-lint run ./...

demo: flanneld build/etcd
	@$(GO) build -trimpath -o build/flannel-demo ./cmd/flannel-demo
	@exec build/flannel-demo -backend $(BACKEND) -hosts $(HOSTS) $(if $(ONCE),-once)

clean:
	rm -rf build
