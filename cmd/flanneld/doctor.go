package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/klog/v2"

	"flanneld/network/doctor"
	"flanneld/pkg/printable"
)

// doctorPatience bounds how long facts are gathered.
const doctorPatience = time.Minute

// examine prints what is wrong with this host, and returns the exit status: 0 if nothing is.
func examine(ctx context.Context, o *options, machine host, out io.Writer) int {
	klog.LogToStderr(false) // all that matters is among the findings
	klog.SetOutput(io.Discard)
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	r := doctor.Examine(gather(ctx, o, machine))
	print := r.Print
	if o.json {
		print = r.PrintJSON
	}
	if err := print(out); err != nil {
		fmt.Fprintln(os.Stderr, printable.Line(err.Error()))
		return 1
	}
	if !r.OK {
		return 1
	}
	return 0
}
