package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"flanneld/pkg/printable"
	"flanneld/pkg/status"
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
	return []any{recent.add(printable.Line(fmt.Sprint(args...)))}
}

func (lineFilter) FilterF(format string, args []any) (string, []any) {
	return "%s", []any{recent.add(printable.Line(fmt.Sprintf(format, args...)))}
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

// recent are the last lines that this process logged.
var recent lines

const (
	// recentMost is how many they are, and recentLongest how many bytes of each are kept.
	recentMost    = 20
	recentLongest = 300
)

// lines keeps the last lines of a log.
type lines struct {
	mu     sync.Mutex
	events []status.Event // the latest last
}

// add takes a line, and returns it.
func (l *lines) add(text string) string {
	kept := text
	if len(kept) > recentLongest {
		kept = strings.ToValidUTF8(kept[:recentLongest], "") + " …"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == recentMost {
		l.events = slices.Delete(l.events, 0, 1)
	}
	l.events = append(l.events, status.Event{At: time.Now(), Text: strings.Clone(kept)})
	return text
}

func (l *lines) all() []status.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}
