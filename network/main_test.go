package network

import (
	"testing"

	"go.uber.org/goleak"

	"flanneld/pkg/target/targettest"
)

func TestMain(m *testing.M) {
	targettest.Quiet()
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}
