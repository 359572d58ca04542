# What people run: build, test, lint, bench, demo, release, clean. Everything that is
# made goes to build/.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# The race detector needs a C compiler.
RACE    := $(if $(shell command -v $${CC:-cc} 2>/dev/null),-race)
BACKEND ?= host-gw
HOSTS   ?= 3
STORE   ?= etcd
OUT     ?= build/flanneld
# Of a release: where to, what for, and the time of all files in it.
RELEASE ?= build/release
ARCHES  ?= amd64 arm64 arm ppc64le s390x riscv64 386
PLAIN_GO := GOFLAGS=-buildvcs=false GOEXPERIMENT= GO386=sse2 GOAMD64=v1 GOARM=7 GOARM64=v8.0 GOPPC64=power8 GORISCV64=rva20u64
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build flanneld release manifest tools test lint bench demo clean

build: flanneld

# The daemon: static, for the platform that GOOS and GOARCH name.
flanneld:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -tags grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)' -o $(OUT) ./cmd/flanneld

# Archives, packages, lists of contents and checksums. The same commit gives the same
# bytes, with the same Go. The kind of processor is the oldest that Go knows, and not what
# someone has set for himself.
release:
	rm -rf $(RELEASE) $(RELEASE)-binaries
	mkdir -p $(RELEASE)
	for arch in $(ARCHES); do \
		$(PLAIN_GO) GOOS=linux GOARCH=$$arch $(MAKE) --no-print-directory flanneld OUT=$(RELEASE)-binaries/$$arch/flanneld || exit 1; \
	done
	$(PLAIN_GO) $(GO) run -C dist/release . -version $(VERSION) -epoch $(SOURCE_DATE_EPOCH) -root $(CURDIR) -out $(abspath $(RELEASE)) $(foreach arch,$(ARCHES),$(abspath $(RELEASE))-binaries/$(arch)/flanneld)

# What kubectl takes, made of the Helm chart.
manifest:
	cd dist/kubernetes && $(GO) run -C render . -chart ../chart -values manifest.yaml >flanneld.yaml.new && mv flanneld.yaml.new flanneld.yaml

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

# Kubernetes' API and what gives Nodes their subnets, for the lab, from its Go module. What
# they say of themselves is set when they are linked.
KUBE         := build/kube-apiserver build/kube-controller-manager
KUBE_VERSION := k8s.io/component-base/version

$(KUBE): pkg/lab/kube/go.mod pkg/lab/kube/go.sum
	@echo 'building $(@F) for the lab: several minutes, once'
	cd pkg/lab/kube && CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w \
		-X $(KUBE_VERSION).gitMajor=1 -X $(KUBE_VERSION).gitMinor=34 \
		-X $(KUBE_VERSION).gitVersion=$$($(GO) list -m -f '{{.Version}}' k8s.io/kubernetes)" \
		-o $(CURDIR)/$@ k8s.io/kubernetes/cmd/$(@F)
# They have most packages in common, which are to be compiled once.
build/kube-controller-manager: | build/kube-apiserver

# The client of it, where this machine has none.
KUBECTL := $(if $(shell command -v kubectl 2>/dev/null),,build/kubectl)

build/kubectl: pkg/lab/kubectl/go.mod pkg/lab/kubectl/go.sum
	cd pkg/lab/kubectl && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CURDIR)/$@ k8s.io/kubernetes/cmd/kubectl

# What a container runtime runs: the CNI plugins, and cnitool in the runtime's place.
CNI := build/cni/cnitool build/cni/flannel

build/cni/flannel: pkg/lab/cni/go.mod pkg/lab/cni/go.sum
build/cni/cnitool: pkg/lab/cnitool/go.mod pkg/lab/cnitool/go.sum
$(CNI):
	cd $(<D) && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CURDIR)/$(@D)/ tool
	@touch $@

# cloud-init, to try the cloud-config with. It is not installed, only what it needs is:
# else it would set up this machine when that is started again.
CLOUD_INIT_NEEDS := configobj jinja2 jsonpatch jsonschema netifaces oauthlib requests serial yaml

build/cloud-init:
	apt-get update -q && apt-get install -q -y --no-install-recommends $(CLOUD_INIT_NEEDS:%=python3-%)
	rm -rf $@.new && mkdir -p $@.new
	cd $@.new && apt-get -q -o APT::Sandbox::User=root download cloud-init && dpkg -x cloud-init_*.deb .
	mv $@.new $@

# firewalld, as its package delivers it. It is not installed, only what it needs is: else it
# would close this machine.
FIREWALLD_NEEDS := dbus ipset gir1.2-glib-2.0 python3-dbus python3-firewall python3-gi python3-nftables

build/firewalld:
	apt-get update -q && apt-get install -q -y --no-install-recommends $(FIREWALLD_NEEDS)
	rm -rf $@.new && mkdir -p $@.new
	cd $@.new && apt-get -q -o APT::Sandbox::User=root download firewalld && dpkg -x firewalld_*.deb .
	mv $@.new $@

# Prometheus' promtool, to try the alerts with.
build/promtool:
	apt-get update -q
	rm -rf $@.new && mkdir -p $@.new
	cd $@.new && apt-get -q -o APT::Sandbox::User=root download prometheus && dpkg -x prometheus_*.deb .
	mv $@.new/usr/bin/promtool $@ && rm -rf $@.new && touch $@

# What the tests compare with and use as an operator would: programs, and the
# packages that have them.
TOOLS    := ip bridge ethtool nft iptables-nft iptables-legacy dockerd docker busybox systemd-nspawn systemd-analyze nsenter shellcheck bash dash etcdctl rpm ruby aws
PACKAGES := iproute2 ethtool nftables iptables docker.io busybox-static systemd systemd-container util-linux shellcheck bash dash etcd-client rpm ruby awscli

TOOLS    += curl openssl pgrep ufw nmcli udevadm ping tcpdump chromium
PACKAGES += curl openssl procps ufw network-manager udev iputils-ping tcpdump chromium fonts-dejavu-core

# NetworkManager is masked where it is installed for the tests: it would manage this machine.
tools:
	@for tool in $(TOOLS); do \
		command -v $$tool >/dev/null || missing="$$missing $$tool"; \
	done; \
	case "$$missing" in *nmcli*) mkdir -p /etc/systemd/system && ln -sf /dev/null /etc/systemd/system/NetworkManager.service ;; esac; \
	if [ -n "$$missing" ]; then \
		echo "installing what is missing:$$missing"; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $(PACKAGES); \
	fi
	@[ "$$(cat $(INOTIFY))" -ge $(INSTANCES) ] || echo $(INSTANCES) 2>/dev/null >$(INOTIFY) || true

# A test has a hundred daemons on this machine, beside systemds: each watches files.
INOTIFY   := /proc/sys/fs/inotify/max_user_instances
INSTANCES := 1024

# What the tests need. One at a time uses apt-get.
NEEDED := $(KUBE) $(KUBECTL) $(ETCD) $(CNI) tools build/cloud-init build/firewalld build/promtool
build/cloud-init: | tools
build/firewalld: | build/cloud-init
build/promtool: | build/firewalld

# Modules of their own, as they are made of many packages that the daemon does not need.
MODULES := dist/release dist/kubernetes/render

# The package that takes longest, and waits most of the time; meanwhile all others, one
# after the other. All are tested, whatever fails, and what failed is said once more at
# the end.
LONGEST := ./cmd/flanneld

test:
	$(MAKE) -j2 $(NEEDED)
	for arch in amd64 386 arm64; do GOARCH=$$arch CGO_ENABLED=0 $(GO) vet ./... || exit 1; done
	for module in $(MODULES); do { $(GO) vet -C $$module . && $(GO) test -C $$module .; } || exit 1; done
	{ \
		$(GO) test -p 2 -vet=off $(RACE) -timeout 40m $(LONGEST) $$($(GO) list ./... | grep -vxF "$$($(GO) list $(LONGEST))"); \
		echo $$? >build/test.status; \
	} 2>&1 | tee build/test.log; \
	status=$$(cat build/test.status); [ $$status = 0 ] || awk -f pkg/lab/failures.awk build/test.log; exit $$status

bench: $(KUBE) $(ETCD) tools
	$(GO) test -p 1 -run '^$$' -bench . -benchmem -timeout 30m ./...

build/golangci-lint: Makefile
	GOBIN=$(CURDIR)/build $(GO) install $(GOLANGCI_LINT)
	@touch $@

lint: build/golangci-lint
	build/golangci-lint run ./...
	for module in $(MODULES); do (cd $$module && $(CURDIR)/build/golangci-lint run .) || exit 1; done

DEMO_etcd := build/etcd
DEMO_kube := build/kube-apiserver build/etcd-3.6

demo: flanneld $(DEMO_$(STORE))
	@$(GO) build -trimpath -o build/flannel-demo ./cmd/flannel-demo
	@exec build/flannel-demo -store $(STORE) -backend $(BACKEND) -hosts $(HOSTS) $(if $(ONCE),-once)

clean:
	rm -rf build
