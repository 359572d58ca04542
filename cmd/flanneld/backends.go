package main

import (
	"fmt"
	"io"

	"flanneld/backend"
	"flanneld/backend/alloc"
	"flanneld/backend/awsvpc"
	"flanneld/backend/hostgw"
	"flanneld/backend/udp"
	"flanneld/backend/vxlan"
	"flanneld/pkg/state"
	"flanneld/subnet"
)

// backends are those that a configuration may name.
var backends = backend.NewTable(alloc.Type, awsvpc.Type, hostgw.Type, udp.Type, vxlan.Type)

// reportOffHost tells what stays because it is not on this host.
func reportOffHost(s subnet.Saved, out io.Writer) {
	b, err := backends.New(s.Config)
	if err != nil {
		return // it was never in use
	}
	for _, object := range b.Local(backend.Host{}, s.Config.Network(), s.Own) {
		if text := state.OffHost(object); text != "" {
			fmt.Fprintf(out, "left %s\n", text)
		}
	}
}
