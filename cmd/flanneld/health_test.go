package main_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

const healthPort = "-healthz-port=8081"

// health asks for a page of the health checks, as a kubelet does, and returns its status
// and text.
func (h *node) health(page string) string {
	c := http.Client{Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}, Timeout: soon}
	r, err := c.Get("http://127.0.0.1:8081/" + page)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", r.StatusCode, strings.TrimSpace(string(text)))
}

// waitHealth waits until a page says so: how it begins, and what it has in it.
func (h *node) waitHealth(page, begins string, has ...string) {
	h.n.t.Helper()
	h.n.wait(soon, fmt.Sprintf("/%s of %s to say %s … %q", page, h.Name, begins, has), func() string {
		got := h.health(page)
		for _, part := range has {
			if !strings.Contains(got, part) {
				return "it says " + got
			}
		}
		if !strings.HasPrefix(got, begins) {
			return "it says " + got
		}
		return ""
	})
}

func (h *node) isLive() {
	h.n.t.Helper()
	if got := h.health("healthz"); got != "200 ok" {
		h.n.t.Errorf("/healthz of %s says %s", h.Name, got)
	}
}

// The daemon is alive from the first moment, whatever it waits for. It is ready once pods
// have a network, and for as long as they have.
func TestHealth(t *testing.T) {
	inParallel(t, everyVariant, func(t *testing.T, v variant) {
		n := newLab(t, v)
		h := n.addNode(lab.HostOptions{NoAddress: true}, healthPort, "-etcd-endpoints=http://"+n.server.Addr.String()+":2379")
		h.start()
		h.waitHealth("readyz", "503 not ready: waiting for the external interface: there is no default route")
		h.isLive()

		check(t, h.AddAddr("eth0", mustPrefix("192.168.0.77/24")))
		check(t, h.ReplaceRoute(lab.Route{Dst: mustPrefix("0.0.0.0/0"), Via: mustPrefix("192.168.0.1/32").Addr(), Dev: "eth0"}))
		h.waitHealth("readyz", "503 not ready: waiting for the store: ")
		h.isLive()

		n.startEtcd(lab.EtcdOptions{})
		n.put("config", "{")
		h.waitHealth("readyz", "503 not ready: network configuration ", "not valid JSON")
		h.isLive()

		n.put("config", n.config(nil))
		h.waitReady()
		h.waitHealth("readyz", "200 ok")

		check(t, h.LinkDown("eth0"))
		h.waitHealth("readyz", "503 not ready: subnet "+h.subnet().String(), "eth0 is down")
		h.isLive()
		check(t, h.LinkUp("eth0"))
		h.waitHealth("readyz", "200 ok")

		// With a folder in its place, the file cannot be written.
		check(t, os.Remove(h.daemon.SubnetFile))
		check(t, os.Mkdir(h.daemon.SubnetFile, 0o700))
		h.waitHealth("readyz", "503 not ready: ", h.daemon.SubnetFile)
		h.isLive()
		check(t, os.Remove(h.daemon.SubnetFile))
		h.waitHealth("readyz", "200 ok")
		if got := h.health("metrics"); !strings.HasPrefix(got, "404 ") {
			t.Errorf("/metrics says %s", got)
		}
	})
}

// A port that another program has is named, and nothing else waits for it.
func TestHealthPortTaken(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, healthPort)
	var other net.Listener
	check(t, h.Do(func() (err error) {
		other, err = net.Listen("tcp", "127.0.0.1:8081")
		return err
	}))
	h.start()
	h.waitReady()
	h.waitLog("health checks cannot be answered, trying again: listen tcp 0.0.0.0:8081: bind: address already in use; another program has port 8081: stop it, or name another port with -healthz-port")
	n.pause(time.Second)
	check(t, other.Close())
	h.waitHealth("readyz", "200 ok")
	h.waitLog("health checks are answered at 0.0.0.0:8081 now")
	if c := strings.Count(h.daemon.Log(), "cannot be answered"); c != 1 {
		t.Errorf("the log says %d times that they cannot be answered", c)
	}
}

// Who asks slowly, and with however many connections, keeps nobody else from an answer for
// long, and the daemon from nothing.
func TestHealthOfSlowClients(t *testing.T) {
	t.Parallel()
	n := newConfigured(t, hostGW, nil)
	h := n.addNode(lab.HostOptions{}, healthPort)
	h.start()
	h.waitReady()
	for range 150 {
		c, err := h.DialContext(n.ctx, "tcp", "127.0.0.1:8081")
		check(t, err)
		defer c.Close()
		_, err = c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: "))
		check(t, err)
	}
	h.waitHealth("healthz", "200 ok")
	p := stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(p)
	h.waitPeers(soon, p)
}
