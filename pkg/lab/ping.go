package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"flanneld/pkg/ip"
)

// Ping sends one ICMP echo request and waits for the reply.
func (ns *Namespace) Ping(ctx context.Context, to netip.Addr, timeout time.Duration) (time.Duration, error) {
	rtt, err := ns.ping(ctx, to, timeout)
	if err != nil {
		return 0, fmt.Errorf("pinging %s from %s: %w", to, ns.Name, err)
	}
	return rtt, nil
}

func (ns *Namespace) ping(ctx context.Context, to netip.Addr, timeout time.Duration) (time.Duration, error) {
	s, err := ns.openEcho(ip.FamilyOf(to))
	if err != nil {
		return 0, err
	}
	defer s.conn.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	start := time.Now()
	if err := s.send(to, 0); err != nil {
		return 0, err
	}
	if _, err := s.receive(to); err != nil {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("no reply: %w", ctx.Err())
		}
		return 0, err
	}
	return time.Since(start), nil
}

// WaitPing pings until the first reply.
func (ns *Namespace) WaitPing(ctx context.Context, to netip.Addr) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := ns.Ping(ctx, to, 200*time.Millisecond)
		if err == nil || errors.Is(err, ErrClosed) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}
