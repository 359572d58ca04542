package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	perRow  = 3  // hosts side by side
	boxWide = 24 // characters inside a host's box
	// pingTimeout is how long a pod may take to answer; the first ping to a
	// host that has just started may have to wait for its route.
	pingTimeout = 3 * time.Second
)

// draw shows the hosts on their switch, and what each is in the network.
func (d *demo) draw(w io.Writer) {
	fmt.Fprintln(w)
	for start := 0; start < len(d.machines); start += perRow {
		row := d.machines[start:min(start+perRow, len(d.machines))]
		line := func(cell func(m *machine) string) {
			var cells []string
			for _, m := range row {
				cells = append(cells, cell(m))
			}
			fmt.Fprintln(w, " "+strings.Join(cells, " "))
		}
		inside := func(format string, a ...any) string {
			return fmt.Sprintf("│%-*s│", boxWide, " "+fmt.Sprintf(format, a...))
		}
		line(func(m *machine) string {
			return "┌─ " + m.host.Name + " " + strings.Repeat("─", boxWide-3-len(m.host.Name)) + "┐"
		})
		line(func(m *machine) string { return inside("pod     %s", m.pod.Addr) })
		line(func(m *machine) string { return inside("docker0 %s", m.daemon.Env()["FLANNEL_SUBNET"]) })
		line(func(m *machine) string { return inside("eth0    %s", m.host.Addr) })
		line(func(*machine) string {
			return "└" + strings.Repeat("─", boxWide/2) + "┬" + strings.Repeat("─", boxWide-boxWide/2-1) + "┘"
		})
		fmt.Fprintln(w, " "+strings.Repeat("═", boxWide/2+1)+strings.TrimSuffix(strings.Repeat("╧"+strings.Repeat("═", boxWide+2), len(row)), strings.Repeat("═", boxWide/2+2))+fmt.Sprintf(" %s", d.sw.Prefix))
	}
	fmt.Fprintf(w, "\n  %s: %s\n\n", d.store.name(), d.store.url())

	fmt.Fprintf(w, "  %-8s %-15s %-18s %-8s %5s\n", "HOST", "PUBLIC IP", "SUBNET", "BACKEND", "MTU")
	for _, m := range d.machines {
		fmt.Fprintf(w, "  %-8s %-15s %-18s %-8s %5s\n", m.host.Name, m.host.Addr, m.subnet(), d.backend, m.daemon.Env()["FLANNEL_MTU"])
	}
}

// pingAll has every pod ping every other one, shows the round-trip times and
// returns how many pings failed.
func (d *demo) pingAll(ctx context.Context, w io.Writer) (failed int) {
	fmt.Fprintf(w, "\n  Round trips from pod to pod, in milliseconds:\n\n  %-8s", "")
	for i := range d.machines {
		fmt.Fprintf(w, "%8s", fmt.Sprintf("pod%d", i+1))
	}
	fmt.Fprintln(w)
	for i, from := range d.machines {
		fmt.Fprintf(w, "  %-8s", fmt.Sprintf("pod%d", i+1))
		for _, to := range d.machines {
			if from == to {
				fmt.Fprintf(w, "%8s", "·")
				continue
			}
			if rtt, err := from.ping(ctx, to); err != nil {
				failed++
				fmt.Fprintf(w, "%8s", "lost")
			} else {
				fmt.Fprintf(w, "%8.2f", float64(rtt.Microseconds())/1000)
			}
		}
		fmt.Fprintln(w)
	}
	return failed
}

// ping waits for the first answer, which proves that the way is there, and
// returns how long the next one takes.
func (m *machine) ping(ctx context.Context, to *machine) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := m.pod.WaitPing(ctx, to.pod.Addr); err != nil {
		return 0, err
	}
	return m.pod.Ping(ctx, to.pod.Addr, pingTimeout)
}

// suggest says what there is to try.
func (d *demo) suggest(w io.Writer) {
	enter := fmt.Sprintf("nsenter -t %d -U --preserve-credentials ", os.Getpid())
	if inInitialUserNamespace() {
		enter = "sudo nsenter "
	}
	a, b := d.machines[0], d.machines[1]
	fmt.Fprintf(w, `
  It stays up until Ctrl-C. In another terminal, try:

  # the routes that flanneld keeps on host1; delete one, and it is back
  %[1]s--net=%[2]s ip route show proto 70
  %[1]s--net=%[2]s ip route del %[3]s
  # pod1 pings pod2; stop flanneld on host1 meanwhile: no ping is lost
  %[1]s--net=%[4]s ping %[5]s
  kill -9 %[6]d
  # what the daemon has to say, and what it tells others
  cat %[7]s
  cat %[8]s
`, enter, a.host.Path(), b.subnet(), a.pod.Path(), b.pod.Addr, a.daemon.Pid(), a.daemon.LogFile, a.daemon.SubnetFile)
	d.store.suggest(w, enter+"--net="+d.server.Path())
}

// subnet of the machine's pods.
func (m *machine) subnet() netip.Prefix {
	p, _ := netip.ParsePrefix(m.daemon.Env()["FLANNEL_SUBNET"]) // the pod was made from it
	return p.Masked()
}

// inInitialUserNamespace tells whether the demo runs as the machine's own root.
func inInitialUserNamespace() bool {
	uids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && len(strings.Fields(string(uids))) == 3 && strings.Fields(string(uids))[2] == "4294967295"
}
