package main_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	daemon "flanneld/cmd/flanneld"
	"flanneld/pkg/lab"
)

// hostile is text that would like to be a line of the log, a message to the service
// manager, and a command to a terminal.
const hostile = "x\nE1129 00:00:00.000000       1 main.go:1] forged\nREADY=1\nSTATUS=forged\r\n\x1b[2J\u009b1m\x9b1m\u2028\u202e\xff\x00"

// hostileJSON is that as JSON writes it.
func hostileJSON(t *testing.T) string {
	t.Helper()
	return string(must(json.Marshal(hostile))(t))
}

var logHeader = regexp.MustCompile(`^[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [a-z_0-9]+\.go:\d+\] `)

// checkLines checks that each line of the log is the daemon's own, and that the service
// manager was told nothing but what the daemon means.
func (h *node) checkLines() {
	h.n.t.Helper()
	for line := range strings.Lines(h.daemon.Log()) {
		if line = strings.TrimSuffix(line, "\n"); !logHeader.MatchString(line) || strings.HasPrefix(line, "E1129 00:00:00.000000") {
			h.n.t.Errorf("%s: the log has the line %q", h.Name, line)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(line) {
			h.n.t.Errorf("%s: the log has a line that is not printable: %q", h.Name, line)
		}
	}
	for _, m := range h.daemon.Notify.Messages() {
		rest, ready := strings.CutPrefix(m, "READY=1\n")
		status, told := strings.CutPrefix(rest, "STATUS=")
		switch {
		case !ready && (m == "WATCHDOG=1" || m == "READY=1" || m == "STOPPING=1"):
		case !told || strings.ContainsFunc(status, func(r rune) bool { return !strconv.IsPrint(r) }):
			h.n.t.Errorf("%s: the service manager is told %q", h.Name, m)
		}
	}
}

// Whatever others write where the daemon reads, it makes no line of the log, and no
// message to the service manager.
func TestForeignText(t *testing.T) {
	t.Parallel()
	v := hostGW
	v.store = etcdV3
	n := newNetwork(t, 2, v, nil)
	h, other := n.nodes[0], n.nodes[1]
	text := hostileJSON(t)
	long := strings.Repeat("E1129 forged ", 100_000)

	t.Log("in etcd, while it runs")
	for _, key := range []string{hostile, "10.5.1.0-24" + hostile, "\n", long, "\x1b"} {
		n.put("subnets/"+key, n.backend.lease(stranger("10.5.1.0/24", "192.168.0.99")))
	}
	for i, value := range []string{
		hostile, text, long, `{"PublicIP":` + text + `}`, "{" + text + ":1}", `{"PublicIP":"192.168.0.99","BackendData":` + hostile + `}`,
		`{"PublicIP":"192.168.0.99","BackendType":` + text + `,"BackendData":{` + text + ":" + text + `},"Machine":` + text + `,"Challenger":` + text + `}`,
	} {
		n.put(fmt.Sprintf("subnets/10.5.%d.0-24", 150+i), value)
	}
	n.put(h.key(), fmt.Sprintf(`{"PublicIP":"%s","BackendType":"host-gw","Machine":%q,"Challenger":%s}`, h.Addr, daemon.Machine(), text))
	h.waitLog("asks whether we are alive")
	h.waitLog("lease 10.5.153.0-24 cannot be used")
	n.put("subnets/10.5.201.0-24", n.backend.lease(stranger("10.5.201.0/24", "192.168.0.98")))
	h.waitPeers(soon, other.peer(), stranger("10.5.201.0/24", "192.168.0.98"))

	t.Log("in etcd, where it starts")
	twin := n.addNode(lab.HostOptions{})
	n.put("subnets/10.5.202.0-24", fmt.Sprintf(`{"PublicIP":"%s","BackendType":"host-gw","Machine":%s}`, twin.Addr, text))
	twin.start()
	n.wait(soon, "the twin to wait", func() string { return lacks(twin.daemon.Status(), "waiting whether it is alive") })
	var starting []*node
	for i, config := range []string{
		hostile, text, `{"Network":` + text + `}`, `{"Network":"10.5.0.0/16","SubnetLen":` + text + `}`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":` + text + `}}`, `{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0` + "\u2028\u009b" + `"}`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":` + text + `}}`, `{"Network":"10.5.0.0/16","MasqExclude":[` + text + `]}`,
	} {
		s := n.addNode(lab.HostOptions{}, fmt.Sprintf("-etcd-prefix=/other%d", i))
		check(t, n.admin.put(n.ctx, fmt.Sprintf("/other%d/config", i), config, 0))
		s.start()
		starting = append(starting, s)
	}
	for _, s := range starting {
		s.waitLog("waiting: network configuration")
	}

	t.Log("from what is not etcd")
	url := n.startHostileServer(2000)
	for _, args := range [][]string{{"-etcd-api=2"}, {"-etcd-api=3"}, {}} {
		s := n.addNode(lab.HostOptions{}, append(args, "-etcd-endpoints="+url)...)
		s.start()
		starting = append(starting, s)
		s.waitLog("trying again, nothing changes meanwhile")
	}

	t.Log("on the host")
	other.daemon.Kill()
	check(t, os.WriteFile(filepath.Join(other.Dir, "subnet.env"), []byte("FLANNEL_SUBNET="+hostile+"\n"+hostile), 0o600))
	check(t, os.WriteFile(other.stateFile(), []byte(hostile), 0o600))
	other.env = []string{"FLANNELD_X\nE1129 00:00:00.000000 1 main.go:1] forged=1", "FLANNELD_\x1b[2J=1"}
	other.start()
	other.waitReady()

	n.pause(time.Second)
	for _, node := range append([]*node{h, other, twin}, starting...) {
		node.checkLines()
	}
	if size := len(h.daemon.Log()); size > 40_000 {
		t.Errorf("the log has %d bytes", size)
	}

	for _, args := range [][]string{{"-release"}, {"-etcd-migrate", "-dry-run"}, {"-iface=" + hostile[:20], "-unknown\n" + hostile[:60]}} {
		_, out := twin.act(args...)
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "E1129") && strings.Contains(line, "] forged") || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !strconv.IsPrint(r) }) {
				t.Errorf("%q prints %q", args, line)
			}
		}
	}
}

// startHostileServer starts something that answers as no etcd does, on etcd's host.
func (n *network) startHostileServer(port uint16) (url string) {
	n.t.Helper()
	addr := netip.AddrPortFrom(n.server.Addr, port)
	var listener net.Listener
	check(n.t, n.server.Do(func() (err error) {
		listener, err = net.Listen("tcp", addr.String())
		return err
	}))
	n.t.Cleanup(func() { _ = listener.Close() })
	line := strings.ReplaceAll(strings.ReplaceAll(hostile, "\n", "\x0b"), "\r", "")
	go func() {
		for i := 0; ; i++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Read(make([]byte, 64<<10))
			body := hostile + `{"errorCode":1,"message":"` + hostile + `"}`
			switch i % 4 {
			case 0:
				_, _ = fmt.Fprintf(c, "HTTP/1.1 401 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", line, len(body), body)
			case 1:
				body = `{"errorCode":1,"message":"\u001b[2J\nE1129 00:00:00.000000       1 main.go:1] forged"}`
				_, _ = fmt.Fprintf(c, "HTTP/1.1 400 x\r\nX-Other: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", line, len(body), body)
			case 2:
				_, _ = fmt.Fprintf(c, "%s\r\n%s\r\n\r\n", hostile, hostile)
			case 3:
				_, _ = fmt.Fprintf(c, "HTTP/1.1 307 x\r\nLocation: http://%s/\r\nConnection: close\r\n\r\n", line)
			}
			_ = c.Close()
		}
	}()
	return "http://" + addr.String()
}
