package dist_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// foreground are commands of the README that run until someone ends them, each with a
// command that succeeds once they serve.
var foreground = map[*regexp.Regexp]string{
	regexp.MustCompile(`(?m)^etcd `):          "etcdctl --endpoints=http://192.168.0.10:2379 endpoint health",
	regexp.MustCompile(`(?m)^sudo flanneld `): "grep 'ready: subnet' /log",
	regexp.MustCompile(`(?m)^dockerd `):       "docker version",
}

// Whoever runs the commands of the README, in order, on hosts on which nothing runs, has
// containers that see each other's own addresses, and that reach what is outside of Network.
func TestReadme(t *testing.T) {
	t.Parallel()
	n := newLab(t)
	sw, err := n.lab.AddSwitch("switch", netip.MustParsePrefix("192.168.0.0/24"))
	check(t, err)
	systems := make(map[string]*host) // by address
	for _, addr := range []string{"192.168.0.10", "192.168.0.2", "192.168.0.3"} {
		isHost := addr != "192.168.0.10"
		h, err := n.lab.AddHost("host-"+addr[len("192.168.0."):], sw, lab.HostOptions{NoAddress: !isHost})
		check(t, err)
		if !isHost {
			h.Addr = netip.MustParseAddr(addr)
			check(t, h.AddAddr("eth0", netip.PrefixFrom(h.Addr, 24)))
		}
		sys, err := h.Boot(n.ctx, lab.SystemOptions{
			Files:  map[string]string{"/etc/docker/daemon.json": `{"storage-driver": "vfs"}`},
			Copies: map[string]string{"/usr/local/bin/flanneld": daemonBinary, "/usr/local/bin/etcd": "../build/etcd"},
		})
		check(t, err)
		systems[h.Addr.String()] = &host{Host: h, n: n, sys: sys}
		defer func() {
			if log, err := sys.Run(n.ctx, "cat", "/log"); t.Failed() {
				t.Logf("log of %s (%v):\n%s", addr, err, log)
			}
		}()
	}
	n.server = systems["192.168.0.10"].Host
	hosts := []string{"192.168.0.2", "192.168.0.3"}

	for _, b := range blocks(t, "../README.md") {
		where := []string{b.where}
		switch b.where {
		case "":
			continue // it is for the machine where the daemon is built
		case "each host":
			where = hosts
		}
		for _, addr := range where {
			if systems[addr] == nil {
				t.Fatalf("there is no %q, where this is to be run:\n%s", addr, b.script)
			}
			systems[addr].serve(b.script)
		}
	}

	var containers []*container
	for _, addr := range hosts {
		h := systems[addr]
		check(t, lab.WriteImage(n.ctx, filepath.Join(h.sys.Root, "image.tar")))
		c := n.startContainer(h.docker, "/image.tar")
		n.wantInSubnet(c, h.env())
		containers = append(containers, c)
	}
	n.wantReaches(containers[0], containers[1])
	n.wantReaches(containers[1], containers[0])
	n.wantMasquerade(containers[0], containers[1])
	n.wantMasquerade(containers[1], containers[0])
}

// serve runs commands on the host. Those that stay in the foreground it leaves running, and
// waits until they serve.
func (h *host) serve(script string) {
	h.n.t.Helper()
	script = "sudo() { exec \"$@\"; }\n" + script
	for command, ready := range foreground {
		if !command.MatchString(script) {
			continue
		}
		h.run("/bin/sh", "-euc", "{\n"+script+"} >>/log 2>&1 &")
		h.n.wait(soon, fmt.Sprintf("%q", ready), func() string {
			if out, err := h.sys.Run(h.n.ctx, "/bin/sh", "-c", ready); err != nil {
				return err.Error() + out
			}
			return ""
		})
		return
	}
	h.n.t.Log(strings.TrimSpace(h.run("/bin/sh", "-euc", script)))
}
