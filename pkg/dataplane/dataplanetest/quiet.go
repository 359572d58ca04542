package dataplanetest

import (
	"flag"
	"io"

	"k8s.io/klog/v2"
)

// Quiet has nothing logged, but where a test asks for it, each line once.
func Quiet() {
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true"} {
		if err := flags.Set(name, value); err != nil {
			panic(err)
		}
	}
	klog.SetOutput(io.Discard)
}
