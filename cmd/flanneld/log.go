package main

import (
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
)

// guardLogs makes each message that this process logs one printable line, whatever text
// of others is in it. It is called before anything is logged.
func guardLogs() {
	klog.SetLogFilter(lineFilter{})
	stderr := lineWriter{os.Stderr}
	log.SetOutput(stderr)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, stderr)) // errors alone
}

// lineFilter is a klog.LogFilter.
type lineFilter struct{}

func (lineFilter) Filter(args []any) []any {
	return []any{printable.Line(fmt.Sprint(args...))}
}

func (lineFilter) FilterF(format string, args []any) (string, []any) {
	return "%s", []any{printable.Line(fmt.Sprintf(format, args...))}
}

func (lineFilter) FilterS(msg string, keysAndValues []any) (string, []any) {
	for i, v := range keysAndValues {
		keysAndValues[i] = printable.Line(fmt.Sprint(v))
	}
	return printable.Line(msg), keysAndValues
}

// lineWriter makes what is written at a time one printable line.
type lineWriter struct{ to io.Writer }

func (w lineWriter) Write(p []byte) (int, error) {
	if _, err := w.to.Write([]byte(printable.Line(string(p)) + "\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}
