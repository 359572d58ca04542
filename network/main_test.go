package network

import (
	"testing"

	"go.uber.org/goleak"

	"flanneld/pkg/dataplane/dataplanetest"
)

func TestMain(m *testing.M) {
	dataplanetest.Quiet()
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}
