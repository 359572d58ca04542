package ec2

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"flanneld/pkg/dataplane/dataplanetest"
)

func TestMain(m *testing.M) {
	// What this machine says of AWS is no matter here.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	dataplanetest.Quiet()
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}
