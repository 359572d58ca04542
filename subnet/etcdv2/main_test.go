package etcdv2

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if goroutines of stores or of their connections outlive them.
func TestMain(m *testing.M) {
	status := m.Run()
	http.DefaultClient.CloseIdleConnections()
	deadline := time.Now().Add(patience)
	for status == 0 {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		_, others, _ := strings.Cut(string(stacks), "\n\n") // the first is this one
		if !strings.Contains(others, "net/http.") && !strings.Contains(others, "flanneld/") {
			break
		}
		if time.Now().After(deadline) {
			fmt.Printf("leaked goroutines:\n%s\n", others)
			status = 1
		}
		time.Sleep(20 * time.Millisecond)
	}
	os.Exit(status)
}
