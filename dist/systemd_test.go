package dist_test

import (
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mostExposure is of ten, which a unit without any hardening comes near to.
const mostExposure = 3.0

func TestExposure(t *testing.T) {
	needTool(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "./flanneld.service").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := regexp.MustCompile(`Overall exposure level for flanneld.service: ([0-9.]+) `).FindStringSubmatch(string(out))
	if found == nil {
		t.Fatalf("there is no exposure level in:\n%s", out)
	}
	level, err := strconv.ParseFloat(found[1], 64)
	check(t, err)
	if level > mostExposure {
		t.Errorf("the exposure level is %v, want at most %v:\n%s", level, mostExposure, out)
	}
}

// What comes after flanneld waits until there is a subnet, for as long as that takes.
func TestOrder(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "host-gw")
	h := n.hosts[0]
	n.etcd.Kill()
	h.boot(map[string]string{
		optionsFile: n.options(),
		unitDir + "dependent.service": `[Unit]
Wants=flanneld.service
After=flanneld.service
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/docker.env
ExecStart=/bin/sh -c 'cp /run/flannel/subnet.env /seen && printf %%s "$$DOCKER_OPT_X" >/read'
[Install]
WantedBy=multi-user.target
`,
		"/docker.env": mkDockerOpts(t, "sh", []string{"DOCKER_OPT_X=" + tricky}, "-i"),
	}, "flanneld.service", "dependent.service")
	h.follow("systemd.md", "mkdir -p /etc/systemd/system/containerd")
	h.run("systemctl", "enable", "--now", "--no-block", "containerd")
	h.wantVerified("flanneld.service")
	h.wantVerified("containerd.service")
	h.waitShow("flanneld", "ActiveState", "activating")
	n.wait(soon, "a status that tells of etcd", func() string {
		if status := h.show("flanneld", "StatusText"); !strings.Contains(status, n.etcd.Endpoint()) {
			return "it is " + status
		}
		return ""
	})
	for _, unit := range []string{"dependent", "containerd"} {
		if state := h.show(unit, "ActiveState"); state != "inactive" {
			t.Errorf("while flanneld waits, %s is %s", unit, state)
		}
	}
	check(t, n.etcd.Start(n.ctx))
	h.waitShow("flanneld", "ActiveState", "active")
	h.waitShow("dependent", "ActiveState", "active")
	h.waitShow("containerd", "ActiveState", "active")
	if seen := h.run("cat", "/seen"); seen != h.run("cat", "/run/flannel/subnet.env") {
		t.Errorf("what started after flanneld has seen the subnet file %q", seen)
	}
	if got := h.run("cat", "/read"); got != tricky {
		t.Errorf("of what mk-docker-opts.sh wrote, systemd has read %q, want %q", got, tricky)
	}
	subnet := strings.Replace(h.env()["FLANNEL_SUBNET"], ".1/", ".0/", 1)
	want := "subnet " + subnet + " on eth0 (" + h.Addr.String() + "), backend host-gw, 0 peers"
	if status := h.run("systemctl", "status", "--no-pager", "flanneld"); !strings.Contains(status, want) {
		t.Errorf("there is no %q in the status:\n%s", want, status)
	}
	if level := h.run("systemd-analyze", "security", "--no-pager", "flanneld"); !strings.Contains(level, "OK") {
		t.Errorf("systemd says of the unit:\n%s", level)
	}
	for property, want := range map[string]string{"WatchdogUSec": "30s", "RestartUSec": "2s", "TimeoutStartUSec": "infinity", "TimeoutStopUSec": "10s"} {
		if got := h.show("flanneld", property); got != want {
			t.Errorf("the unit's %s is %s, want %s", property, got, want)
		}
	}
	// iptables must not be left without its lock, nor may others have it.
	if lock := h.run("stat", "--format=%a %U", "/run/xtables.lock"); lock != "600 root" {
		t.Errorf("the lock of iptables has mode and owner %s", lock)
	}
	pid := h.show("flanneld", "MainPID")
	h.run("nsenter", "--target="+pid, "--mount", "flock", "--nonblock", "/run/xtables.lock", "true")
}

// wantVerified checks that systemd finds nothing wrong with a unit.
func (h *host) wantVerified(unit string) {
	h.n.t.Helper()
	if out := h.run("systemd-analyze", "verify", "--recursive-errors=no", "--man=no", unit); out != "" {
		h.n.t.Errorf("of %s, systemd says: %s", unit, out)
	}
}

// shortWatchdog is a drop-in of tests.
const shortWatchdog = "[Service]\nWatchdogSec=6\n"

// The hardened unit leaves the daemon all that it needs.
func TestBackends(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	n.configure("10.5.0.0/16", "vxlan")
	for _, h := range n.hosts {
		h.boot(map[string]string{unitDir + "flanneld.service.d/test.conf": shortWatchdog})
		h.follow("systemd.md", "install")
		h.addPod("pod")
	}
	n.wantPings()
	h := n.hosts[0]
	if v := h.run("cat", "/proc/sys/net/ipv6/conf/flannel.1/accept_ra"); v != "0" {
		t.Errorf("flannel.1 has accept_ra %s: the daemon can't write settings of the network", v)
	}
	t.Run("watchdog", func(t *testing.T) { n.in(t).testWatchdog() })
	t.Run("stop", func(t *testing.T) { n.in(t).testStop() })
	for _, backend := range []string{"udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			n := n.in(t)
			n.configure("10.5.0.0/16", backend)
			for _, h := range n.hosts {
				h.run("systemctl", "restart", "flanneld")
				h.addPod(backend)
			}
			n.wantPings()
		})
	}
	for _, v := range rulesVariants {
		t.Run(v.name, func(t *testing.T) { n.in(t).testRules(v) })
	}
	for _, h := range n.hosts[1:] {
		log := h.run("journalctl", "--no-pager", "--output=cat", "--unit=flanneld")
		for line := range strings.Lines(log) {
			if regexp.MustCompile(`(?i)not permitted|denied|read-only`).MatchString(line) {
				t.Errorf("%s was refused something: %s", h.Name, line)
			}
		}
	}
}

// wantPings checks that the pods reach each other.
func (n *network) wantPings() {
	n.t.Helper()
	check(n.t, n.hosts[0].pod.WaitPing(n.ctx, n.hosts[1].pod.Addr))
	check(n.t, n.hosts[1].pod.WaitPing(n.ctx, n.hosts[0].pod.Addr))
}

// witness pings from pod to pod while f runs; not one ping may be lost.
func (n *network) witness(f func()) {
	n.t.Helper()
	p, err := n.hosts[0].pod.StartPinger(n.hosts[1].pod.Addr, 5*time.Millisecond)
	check(n.t, err)
	f()
	if report := p.Stop(); report.Lost > 0 || report.Sent == 0 {
		n.t.Errorf("from pod to pod: %v", report)
	}
}

// A daemon that does not move is killed and started again; one that does is not.
func (n *network) testWatchdog() {
	h := n.hosts[0]
	before := h.show("flanneld", "MainPID")
	n.witness(func() {
		n.wait(soon, "a daemon older than the watchdog allows without a sign of life", func() string {
			started := h.show("flanneld", "ActiveEnterTimestampMonotonic")
			usec, err := strconv.ParseInt(started, 10, 64)
			check(n.t, err)
			uptime, _, _ := strings.Cut(h.run("cat", "/proc/uptime"), ".")
			now, err := strconv.ParseInt(uptime, 10, 64)
			check(n.t, err)
			if now-usec/1_000_000 < 8 {
				return "it is not yet"
			}
			return ""
		})
		if pid, restarts := h.show("flanneld", "MainPID"), h.show("flanneld", "NRestarts"); pid != before || restarts != "0" {
			n.t.Errorf("a daemon that works was replaced %s times, PID %s by %s", restarts, before, pid)
		}
		h.run("kill", "-STOP", before)
		h.waitShow("flanneld", "NRestarts", "1")
		h.waitShow("flanneld", "ActiveState", "active")
	})
	if pid := h.show("flanneld", "MainPID"); pid == before || pid == "0" {
		n.t.Errorf("the daemon's PID was %s and is %s", before, pid)
	}
	log := h.run("journalctl", "--no-pager", "--output=cat", "--unit=flanneld")
	if !strings.Contains(log, "Watchdog timeout") {
		n.t.Errorf("the journal does not tell of the watchdog:\n%s", log)
	}
}

// Stopping the daemon leaves forwarding and the subnet file.
func (n *network) testStop() {
	h := n.hosts[0]
	was := h.env()["FLANNEL_SUBNET"]
	n.witness(func() {
		start := time.Now()
		h.run("systemctl", "stop", "flanneld")
		if took := time.Since(start); took > 10*time.Second {
			n.t.Errorf("stopping took %s", took)
		}
		for property, want := range map[string]string{"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"} {
			if got := h.show("flanneld", property); got != want {
				n.t.Errorf("after stopping, %s is %s, want %s", property, got, want)
			}
		}
		if now := h.env()["FLANNEL_SUBNET"]; now != was {
			n.t.Errorf("after stopping, the subnet file has %q, want %q", now, was)
		}
		h.run("systemctl", "start", "flanneld")
	})
	if now := h.env()["FLANNEL_SUBNET"]; now != was {
		n.t.Errorf("the subnet was %s and is %s", was, now)
	}
}
