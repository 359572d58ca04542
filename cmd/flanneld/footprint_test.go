package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What was used of the program's file so far, and is not now, is not the process's.
func TestReturnMemory(t *testing.T) {
	file := func() (kb int) {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "RssFile:")
		if _, err := fmt.Sscan(rest, &kb); err != nil {
			t.Skip("this kernel does not tell")
		}
		return kb
	}
	before := file()
	returnMemory()
	if after := file(); after > before*3/4 {
		t.Errorf("of %d kB of files, %d are left", before, after)
	}
}
