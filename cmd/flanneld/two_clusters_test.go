package main_test

import (
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// Endpoints of two clusters make no two networks: all hosts use the same cluster, and
// name the endpoint of the other one.
func TestEndpointsOfTwoClusters(t *testing.T) {
	t.Parallel()
	for _, v := range []variant{hostGW, vxlan} {
		t.Run(v.store.name, func(t *testing.T) {
			t.Parallel()
			n := newConfigured(t, v, nil)
			ours := n.etcd
			second := must(n.lab.AddHost("server2", n.sw, lab.HostOptions{}))(t)
			other := must(n.lab.StartEtcd(n.ctx, second, lab.EtcdOptions{Version: n.store.version, Args: []string{"--initial-cluster-token=other"}}))(t)
			check(t, n.store.admin(t, other).put(n.ctx, keyPrefix+"/config", n.config(settings{"Network": "10.66.0.0/16"}), 0))
			for range 6 { // each begins with one of the two at random
				n.addNode(lab.HostOptions{}, "-etcd-endpoints="+ours.Endpoint()+","+other.Endpoint())
			}
			for _, h := range n.nodes {
				h.start()
			}
			for _, h := range n.nodes {
				h.waitReady()
				h.waitLog("not using the endpoint " + other.Endpoint() + ": it is a member of the etcd cluster ")
			}
			for _, h := range n.nodes {
				h.waitPeers(soon, h.others()...)
			}
			ours.Kill()
			n.pause(2 * time.Second)
			for _, h := range n.nodes {
				h.waitPeers(0, h.others()...)
			}
			check(t, ours.Start(n.ctx))
			late := stranger("10.5.200.0/24", "192.168.0.200")
			n.putPeer(late)
			for _, h := range n.nodes {
				h.waitPeers(soon, append(h.others(), late)...)
			}
		})
	}
}
