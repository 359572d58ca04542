package etcdtest

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

// Main is a TestMain that fails if goroutines of stores or of their connections
// outlive them.
func Main(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // they wait more than they compute
	status := m.Run()
	http.DefaultClient.CloseIdleConnections()
	klog.StopFlushDaemon()
	if err := goleak.Find(); status == 0 && err != nil {
		fmt.Println(err)
		status = 1
	}
	os.Exit(status)
}
