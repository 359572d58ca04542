package dist_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// bootBoth boots the hosts with the daemon, and adds a pod to each.
func (n *network) bootBoth(options string) {
	n.t.Helper()
	for _, h := range n.hosts {
		h.boot(map[string]string{optionsFile: n.options() + options}, "flanneld.service")
		h.waitShow("flanneld", "ActiveState", "active")
		h.addPod("pod")
	}
	n.wantPings()
}

// What happens to a daemon in its unit is not its end, and no packet is lost.
func TestUnitSurvives(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	const quoted = `FLANNELD_IFACE_REGEX='^eth\d$'`
	if !strings.Contains(read(t, "../Documentation/systemd.md"), quoted) {
		t.Errorf("systemd.md does not say %s", quoted)
	}
	n.bootBoth(quoted + "\n")
	t.Run("the journal is stopped", func(t *testing.T) { n.in(t).testNoJournal() })
	t.Run("signals", func(t *testing.T) { n.in(t).testSignals() })
	t.Run("the folder is removed", func(t *testing.T) { n.in(t).testFolderRemoved() })
	t.Run("the options are removed", func(t *testing.T) { n.in(t).testNoOptions() })
}

// Without anyone who reads its log, the daemon goes on as it was.
func (n *network) testNoJournal() {
	h := n.hosts[0]
	const journal = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket"
	n.witness(func() {
		pid := h.show("flanneld", "MainPID")
		h.run("sh", "-c", "systemctl stop "+journal+" && systemctl start systemd-journald")
		n.put("subnets/nonsense", "x") // which it logs
		n.wait(soon, "a status that tells of the lease", func() string {
			if status := h.show("flanneld", "StatusText"); !strings.Contains(status, "1 leases unusable") {
				return "it is " + status
			}
			return ""
		})
		if now := h.show("flanneld", "MainPID"); now != pid {
			n.t.Errorf("the daemon's PID was %s and is %s", pid, now)
		}
	})
	h.run("systemctl", "restart", "flanneld") // has a journal again
}

// Whoever ends the daemon, but by systemctl, has it start again.
func (n *network) testSignals() {
	h := n.hosts[0]
	n.witness(func() {
		for i, signal := range []string{"HUP", "TERM", "KILL"} {
			h.run("kill", "-"+signal, h.show("flanneld", "MainPID"))
			h.waitShow("flanneld", "NRestarts", strconv.Itoa(i+1))
			h.waitShow("flanneld", "ActiveState", "active")
		}
	})
}

// What is in /run/flannel is there again after someone removed it, though the daemon
// can't make a folder in /run.
func (n *network) testFolderRemoved() {
	h := n.hosts[0]
	before := h.run("cat", "/run/flannel/subnet.env")
	n.witness(func() {
		h.run("rm", "-r", "/run/flannel")
		n.wait(soon, "the subnet file", func() string {
			if now, err := h.sys.Run(n.ctx, "cat", "/run/flannel/subnet.env"); err != nil || strings.TrimSpace(now) != before {
				return fmt.Sprintf("there is %q: %v", now, err)
			}
			return ""
		})
		h.waitShow("flanneld", "ActiveState", "active")
	})
}

// Without options the daemon looks for etcd where there is none, and starts with what it
// kept in /var/lib/flannel.
func (n *network) testNoOptions() {
	h := n.hosts[0]
	n.witness(func() {
		h.run("rm", optionsFile)
		h.run("systemctl", "restart", "--no-block", "flanneld")
		n.wait(soon, "a status that tells of etcd", func() string {
			if status := h.show("flanneld", "StatusText"); !strings.Contains(status, "etcd cannot be used since") {
				return "it is " + status
			}
			return ""
		})
		h.waitShow("flanneld", "ActiveState", "active")
	})
}

// A tunnel may have a port that not everyone may take.
func TestUnitLowPort(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	config := func(backend string) {
		n.put("config", fmt.Sprintf(`{"Network": "10.5.0.0/16", "Backend": {"Type": %q, "Port": 443}}`, backend))
	}
	config("vxlan")
	n.bootBoth("")
	config("udp")
	for _, h := range n.hosts {
		h.run("systemctl", "restart", "flanneld")
		h.addPod("udp")
	}
	n.wantPings()
}
