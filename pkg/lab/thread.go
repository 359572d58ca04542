package lab

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// goOnOwnThread runs fn in a new goroutine, locked to a thread that ends with
// it. That thread is never the process's first one: the runtime parks that
// thread for ever instead of ending it, and with it would stay whatever
// namespace fn had put it into.
func goOnOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		taken := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(taken)
			fn()
		}()
		<-taken
		runtime.UnlockOSThread()
	}()
}
