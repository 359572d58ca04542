package lab_test

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"flanneld/pkg/lab"
)

// A program that was just written can be executed, whatever is started meanwhile.
func TestWrittenProgramRuns(t *testing.T) {
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	content := append([]byte("#!/bin/sh\nexit 0\n"), make([]byte, 1<<20)...) // takes a while to write
	for range 100 {
		program := filepath.Join(t.TempDir(), "program")
		check(t, lab.WriteProgram(program, content, 0o755))
		if out, err := exec.Command(program).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}
