package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// returnMemory gives back what only the start needed: what lies about in the heap, and the pages
// of the program's own file. Those that are needed again are mapped again, as long as the
// kernel has room for them in its cache without being read.
func returnMemory() {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	var start, end uintptr
	ours := false
	for s := bufio.NewScanner(maps); s.Scan(); {
		fields := strings.Fields(s.Text())
		switch {
		case len(fields) == 0:
		case strings.HasSuffix(fields[0], ":"):
			// Pages that were written are not the file's any more: a linker's, or a debugger's.
			if ours && fields[0] == "Anonymous:" && fields[1] == "0" {
				_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
			}
		default:
			_, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end)
			ours = err == nil && len(fields) >= 6 && strings.HasPrefix(fields[1], "r") && fields[1][1] == '-' && strings.HasSuffix(s.Text(), " "+program)
		}
	}
}
