package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"

	"flanneld/pkg/notice"
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

// logJSON has each line of the log be a JSON object from now on.
func logJSON() {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL", "legacy_stderr_threshold_behavior": "false", "add_dir_header": "true", "skip_headers": "false"} {
		if err := flags.Set(name, value); err != nil {
			panic(err) // a name of this program's own
		}
	}
	w := &jsonWriter{to: os.Stderr}
	// Each message goes to its own severity's writer, and to those of all lower ones.
	for _, severity := range []string{"FATAL", "ERROR", "WARNING"} {
		klog.SetOutputBySeverity(severity, io.Discard)
	}
	klog.SetOutputBySeverity("INFO", w)
	klog.SetLogFilter(lineFilter{parts: true})
	others := partWriter{w}
	log.SetOutput(others)
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, others))
}

// lineFilter is a klog.LogFilter.
type lineFilter struct {
	parts bool // what a message is about goes before it, and its cause behind it
}

// separator is between the parts of a message. In none of them it is printable.
const separator = "\x1f"

func (f lineFilter) Filter(args []any) []any {
	return []any{f.line(fmt.Sprint(args...), args)}
}

func (f lineFilter) FilterF(format string, args []any) (string, []any) {
	return "%s", []any{f.line(fmt.Sprintf(format, args...), args)}
}

func (f lineFilter) FilterS(msg string, keysAndValues []any) (string, []any) {
	for i, v := range keysAndValues {
		keysAndValues[i] = printable.Line(fmt.Sprint(v))
	}
	return printable.Line(msg), keysAndValues
}

// line returns the message that is made of args.
func (f lineFilter) line(text string, args []any) string {
	text = recent.add(printable.Line(text))
	if !f.parts {
		return text
	}
	component, cause := "", ""
	for _, arg := range args {
		switch arg := arg.(type) {
		case notice.About:
			component = arg.Component
		case error:
			cause = printable.Line(arg.Error())
		}
	}
	return strings.Join([]string{component, text, cause}, separator)
}

// components are the parts of the daemon by the folders of the files that log.
var components = map[string]string{
	"subnet": string(status.ComponentLease), "network": string(status.ComponentDataplane), "kernel": string(status.ComponentDataplane),
	"netfilter": string(status.ComponentDataplane), "ec2": string(status.ComponentDataplane), "tunnels": string(status.ComponentDataplane),
	"udp": string(status.ComponentDataplane), "etcd": string(status.ComponentStore), "etcdv2": string(status.ComponentStore),
	"etcdv3": string(status.ComponentStore), "kube": string(status.ComponentStore), "conns": string(status.ComponentStore),
}

// otherComponent is that of all that no other part logs.
const otherComponent = "daemon"

// jsonWriter makes objects of lines as klog writes them, with the folder of the file.
type jsonWriter struct {
	mu sync.Mutex
	to io.Writer
}

// klogLine is such a line: the severity, the file with its folder and number, the message.
var klogLine = regexp.MustCompile(`(?s)^([IWEF])[0-9]{4} \S+ +[0-9]+ (?:(\S+)/)?(\S+:[0-9]+)\] (.*)$`)

var levels = map[string]string{"I": "info", "W": "warning", "E": "error", "F": "fatal"}

func (w *jsonWriter) Write(p []byte) (int, error) {
	line := strings.TrimSuffix(string(p), "\n")
	level, folder, caller := "info", "", ""
	if m := klogLine.FindStringSubmatch(line); m != nil {
		level, folder, caller, line = levels[m[1]], m[2], m[3], m[4]
	}
	parts := strings.Split(line, separator)
	if len(parts) != 3 {
		parts = []string{"", line, ""}
	}
	w.write(level, cmp.Or(parts[0], components[folder], otherComponent), strings.TrimPrefix(folder+"/"+caller, "/"), printable.Line(parts[1]), parts[2])
	return len(p), nil
}

func (w *jsonWriter) write(level, component, caller, text, cause string) {
	object, err := json.Marshal(struct {
		Time      time.Time `json:"time"`
		Level     string    `json:"level"`
		Component string    `json:"component"`
		Caller    string    `json:"caller,omitempty"`
		Message   string    `json:"message"`
		Cause     string    `json:"cause,omitempty"`
	}{time.Now(), level, component, caller, text, cause})
	if err != nil {
		return // texts can always be written
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.to.Write(append(object, '\n')) // whoever reads it may be gone
}

// partWriter takes what libraries log by themselves: errors, all of them.
type partWriter struct{ to *jsonWriter }

func (w partWriter) Write(p []byte) (int, error) {
	w.to.write("error", otherComponent, "", printable.Line(strings.TrimSuffix(string(p), "\n")), "")
	return len(p), nil
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
