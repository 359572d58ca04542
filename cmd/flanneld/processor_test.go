package main_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of processor time in /proc.
const tick = 10 * time.Millisecond

// processCPU is the processor time that a process has used, by the kernel's clock for it.
func processCPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	check(t, unix.ClockGettime(int32(^pid<<3|scheduled), &used))
	return time.Duration(used.Nano())
}

func ticks(t testing.TB, fields []string) time.Duration {
	t.Helper()
	var sum int
	for _, f := range fields {
		n, err := strconv.Atoi(f)
		check(t, err)
		sum += n
	}
	return time.Duration(sum) * tick
}

// cpu is the processor time that the daemon has used.
func (h *node) cpu() time.Duration {
	h.n.t.Helper()
	return processCPU(h.n.t, h.daemon.Pid())
}

// lostTime is for how long, since the start of the machine, its processors have been
// with something else than this test and its lab: other work, or other machines.
func (n *network) lostTime() time.Duration {
	n.t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	check(n.t, err)
	all, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(all)[1:9] // user nice system idle iowait irq softirq steal
	busy := ticks(n.t, append(fields[:3:3], fields[5:]...))
	ours := processCPU(n.t, n.etcd.Pid())
	for _, h := range n.nodes {
		if h.daemon != nil {
			ours += h.cpu()
		}
	}
	var self unix.Rusage
	check(n.t, unix.Getrusage(unix.RUSAGE_SELF, &self))
	ours += time.Duration(self.Utime.Nano() + self.Stime.Nano())
	return (busy - ours) / time.Duration(runtime.NumCPU())
}
