package main_test

import (
	"strings"
	"testing"

	"flanneld/pkg/lab"
)

// tlsNetwork is a lab whose etcd speaks TLS with a certificate of the given
// lifetime, and asks for client certificates if clients is set.
func tlsNetwork(t *testing.T, v variant, clients bool, server func(*lab.CA, *lab.Host) (lab.CertFiles, error)) (*network, *lab.CA) {
	t.Helper()
	n := newLab(t, v)
	ca, err := lab.NewCA(t.TempDir(), "ca")
	check(t, err)
	opts := lab.EtcdOptions{}
	opts.Server, err = server(ca, n.server)
	check(t, err)
	if clients {
		opts.ClientCA = ca.Cert
		opts.Client, err = ca.Client("lab", lab.Valid)
		check(t, err)
	}
	n.startEtcd(opts)
	n.put("config", n.config(nil))
	return n, ca
}

func validServer(ca *lab.CA, h *lab.Host) (lab.CertFiles, error) {
	return ca.Server("etcd", lab.Valid, h.Addr)
}

func TestTLSWithCAAlone(t *testing.T) { inParallel(t, slowVariants, testTLSWithCAAlone) }

func testTLSWithCAAlone(t *testing.T, v variant) {
	n, ca := tlsNetwork(t, v, false, validServer)
	h := n.addNode(lab.HostOptions{})

	t.Log("a wrong CA")
	other, err := lab.NewCA(t.TempDir(), "other")
	check(t, err)
	h.start("-etcd-cafile=" + other.Cert)
	h.waitLog("certificate signed by unknown authority")
	h.waitLog("-etcd-cafile")
	_, err = h.daemon.Stop(soon)
	check(t, err)

	t.Log("no CA at all")
	h.start()
	h.waitLog("certificate signed by unknown authority")
	_, err = h.daemon.Stop(soon)
	check(t, err)

	t.Log("a CA file that is not there")
	h.start("-etcd-cafile=/no/such/file")
	if code, err := h.daemon.Wait(n.ctx); err != nil || code != 1 {
		t.Errorf("exit status %d, %v", code, err)
	}
	h.waitLog("-etcd-cafile")

	t.Log("the right one")
	h.start("-etcd-cafile=" + ca.Cert)
	h.waitReady()
}

// Where there is nothing but IPv6, a certificate is for an address of that.
func TestTLSOverIPv6(t *testing.T) {
	inParallel(t, slowVariants, func(t *testing.T, v variant) {
		n, ca := tlsNetwork(t, v.in(ipv6Only), true, validServer)
		client, err := ca.Client("host", lab.Valid)
		check(t, err)
		if e := n.etcd.Endpoints()[0]; !strings.HasPrefix(e, "https://[fd00::2]:") {
			t.Fatalf("etcd is at %s", e)
		}
		h := n.addNode(lab.HostOptions{}, "-etcd-cafile="+ca.Cert, "-etcd-certfile="+client.Cert, "-etcd-keyfile="+client.Key)
		h.start()
		h.waitReady()
		if e := n.get(h.key()); e == nil || e.value != n.backend.lease(h.peer()) {
			t.Errorf("the lease is %v", e)
		}
	})
}

func TestTLSWithClientCertificate(t *testing.T) {
	inParallel(t, slowVariants, testTLSWithClientCertificate)
}

func testTLSWithClientCertificate(t *testing.T, v variant) {
	n, ca := tlsNetwork(t, v, true, validServer)
	h := n.addNode(lab.HostOptions{}, "-etcd-cafile="+ca.Cert)
	expired, err := ca.Client("expired", lab.Expired)
	check(t, err)
	good, err := ca.Client("good", lab.Valid)
	check(t, err)

	t.Log("none")
	h.start()
	h.waitLog("-etcd-certfile")
	_, err = h.daemon.Stop(soon)
	check(t, err)

	t.Log("expired")
	h.start("-etcd-certfile="+expired.Cert, "-etcd-keyfile="+expired.Key)
	h.waitLog("expired")
	h.waitLog("-etcd-certfile")
	_, err = h.daemon.Stop(soon)
	check(t, err)

	t.Log("a certificate without its key")
	h.start("-etcd-certfile=" + good.Cert)
	if code, err := h.daemon.Wait(n.ctx); err != nil || code != 1 {
		t.Errorf("exit status %d, %v", code, err)
	}
	h.waitLog("-etcd-keyfile")

	t.Log("good")
	h.start("-etcd-certfile="+good.Cert, "-etcd-keyfile="+good.Key)
	h.waitReady()
}

func TestTLSServerExpired(t *testing.T) { inParallel(t, slowVariants, testTLSServerExpired) }

func testTLSServerExpired(t *testing.T, v variant) {
	n, ca := tlsNetwork(t, v, false, func(ca *lab.CA, h *lab.Host) (lab.CertFiles, error) {
		return ca.Server("etcd", lab.Expired, h.Addr)
	})
	h := n.addNode(lab.HostOptions{})
	h.start("-etcd-cafile=" + ca.Cert)
	h.waitLog("certificate has expired")
}

func TestUserAndPassword(t *testing.T) { inParallel(t, slowVariants, testUserAndPassword) }

func testUserAndPassword(t *testing.T, v variant) {
	n := newConfigured(t, v, nil)
	const right, wrong = "open-sesame-4711", "guess-0815"
	check(t, n.etcd.EnableAuth(n.ctx, "root-password-1234"))
	check(t, n.etcd.AddUser(n.ctx, "flannel", right, keyPrefix+"/*"))
	h := n.addNode(lab.HostOptions{}, "-etcd-username=flannel")

	h.start("-etcd-password=" + wrong)
	h.waitLog(`of user "flannel" to read ` + keyPrefix + "/config: ")
	h.waitLog("wrong -etcd-username or -etcd-password")
	_, err := h.daemon.Stop(soon)
	check(t, err)
	refused := h.daemon

	h.start("-v=10", "-etcd-password="+right)
	h.waitReady()
	for _, d := range []*lab.Daemon{refused, h.daemon} {
		if log := d.Log(); strings.Contains(log, right) || strings.Contains(log, wrong) {
			t.Errorf("a password is in the log:\n%s", log)
		}
		for _, m := range d.Notify.Messages() {
			if strings.Contains(m, right) || strings.Contains(m, wrong) {
				t.Errorf("a password is in the status: %s", m)
			}
		}
	}
}
