package tunnels

import (
	"context"
	"fmt"
	"net"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

var _ dataplane.Trier = (*Dataplane)(nil)

// Try implements dataplane.Trier: it opens the socket of a tunnel that is to have another
// one, and closes it.
func (*Dataplane) Try(_ context.Context, before, after []state.Object) error {
	had, there := state.Find[state.Tunnel](before)
	want, ok := state.Find[state.Tunnel](after)
	if !there || !ok || want.Local == had.Local {
		return nil
	}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(want.Local))
	if err != nil {
		return fmt.Errorf("the UDP port %d cannot be had: %w", want.Local.Port(), err)
	}
	_ = conn.Close()
	return nil
}
