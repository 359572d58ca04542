package lab

import (
	"io/fs"
	"os"
	"syscall"
)

// WriteProgram writes a file that is to be executed. A process that is started at the same
// time would hold the file open for writing for a moment, and the kernel refuses to execute
// such a file (ETXTBSY).
func WriteProgram(path string, content []byte, perm fs.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, content, perm)
}
