package dist_test

import (
	"path/filepath"

	"flanneld/pkg/lab"
)

// followTroubleshooting looks at healthy hosts.
func followTroubleshooting(g *guide) {
	g.lay("192.168.0.10", 2, map[string]string{"/etc/docker/daemon.json": `{"storage-driver": "vfs"}`})
	g.startEtcd()
	g.put("subnets/10.5.34.0-24", `{"PublicIP": "192.168.0.2"}`)
	g.put("subnets/10.5.50.0-24", `{"PublicIP": "192.168.0.3"}`)
	g.install(`{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	for _, h := range g.nodes {
		h.follow("docker.md", "echo FLANNELD_IP_MASQ")
		check(g.t, lab.WriteImage(g.ctx, filepath.Join(h.sys.Root, "image.tar")))
		g.startContainer(h.docker, "/image.tar")
	}
	g.rest()
}
