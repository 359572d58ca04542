package main_test

import (
	"encoding/json"
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// With -log-format=json programs can read each line: what it is about, and the cause of an error.
func TestLogOfObjects(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 0, vxlan, nil)
	h := n.addNode(lab.HostOptions{}, "-log-format=json", "-v=1")
	h.start()
	h.waitReady()
	peer := stranger("10.5.200.0/24", "192.168.0.200")
	n.putPeer(peer)
	h.waitPeers(soon, peer)
	n.put("subnets/10.5.201.0-24", "{\x00\n")
	h.waitLog("10.5.201.0-24 cannot be used")
	n.etcd.Kill()
	h.waitScreen(1, "etcd cannot be used")
	must(h.daemon.Stop(soon))(t)
	type line struct{ Time, Level, Component, Caller, Message, Cause string }
	seen := make(map[string]line)
	for text := range strings.Lines(h.daemon.Log()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Errorf("%v: %s", err, text)
			continue
		}
		if l.Time == "" || l.Component == "" || l.Caller == "" || l.Message == "" || l.Level != "info" && l.Level != "warning" && l.Level != "error" {
			t.Errorf("%s", text)
		}
		for _, part := range []string{"acquired the subnet", "lease 10.5.201.0-24 cannot be used", "route 10.5.200.0/24", "stopping: what is in the kernel", "ready: "} {
			if strings.Contains(l.Message, part) {
				seen[part] = l
			}
		}
		if l.Cause != "" {
			seen["cause"] = l
		}
	}
	for part, want := range map[string]line{
		"acquired the subnet":                {Level: "info", Component: "lease"},
		"lease 10.5.201.0-24 cannot be used": {Level: "warning", Component: "peers"},
		"route 10.5.200.0/24":                {Level: "info", Component: "dataplane"},
		"ready: ":                            {Level: "info", Component: "daemon"},
		"stopping: what is in the kernel":    {Level: "info", Component: "daemon"},
	} {
		if got := seen[part]; got.Level != want.Level || got.Component != want.Component {
			t.Errorf("%q is logged by %+v", part, got)
		}
	}
	if l := seen["cause"]; l.Level == "info" || !strings.Contains(l.Message, l.Cause) {
		t.Errorf("a cause is logged by %+v, all is\n%s", l, h.daemon.Log())
	}
}
