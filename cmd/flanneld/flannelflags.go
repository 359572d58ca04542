package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/klog/v2"
)

// The options of every flannel are taken if their value asks for nothing that this daemon
// does not do: units, scripts and images name them all, with their defaults.

// foreign are flannel's options that this daemon does not have.
var foreign = []struct {
	name  string
	value foreignValue
}{
	{"ip-blackhole-route", foreignValue{kind: truth, remedy: "this version adds no blackhole route; leave it out"}},
	{"listen", foreignValue{kind: text, remedy: "this version serves no leases to other hosts; leave it out, and give these -etcd-endpoints"}},
	{"networks", foreignValue{kind: text, remedy: "a daemon has one network; leave it out, and start a daemon for each, with -etcd-prefix=PREFIX/NAME and a -subnet-file of its own"}},
	{"remote", foreignValue{kind: text, remedy: "this version asks etcd itself; leave it out, and name etcd with -etcd-endpoints"}},
	{"remote-cafile", foreignValue{kind: text}},
	{"remote-certfile", foreignValue{kind: text}},
	{"remote-keyfile", foreignValue{kind: text}},
	{"subnet-dir", foreignValue{kind: text}},
	{"watch-networks", foreignValue{kind: truth, remedy: "a daemon has one network; leave it out, and start a daemon for each"}},
}

func addForeign(fs *flag.FlagSet) {
	for _, f := range foreign {
		fs.Var(f.value, f.name, "of flannel")
	}
}

// foreignValue is the value of an option that does nothing here. Without a remedy it does
// nothing in flannel either, while those that have one are not given.
type foreignValue struct {
	kind   kind
	remedy string
}

type kind int

const (
	text kind = iota
	number
	truth
)

func (f foreignValue) Set(v string) error {
	asks := strings.Trim(v, ", ") != ""
	switch f.kind {
	case text:
	case number:
		n, err := strconv.ParseInt(v, 0, 64)
		if err != nil {
			return errors.New("is not a number")
		}
		asks = n != 0
	case truth:
		var err error
		if asks, err = strconv.ParseBool(v); err != nil {
			return errors.New("is neither true nor false")
		}
	}
	if asks && f.remedy != "" {
		return errors.New(f.remedy)
	}
	return nil
}

func (f foreignValue) String() string   { return "" }
func (f foreignValue) IsBoolFlag() bool { return f.kind == truth }

// addLogging adds the options of flannel's loggers, of which there were two, to fs. Between
// those that -help lists, which have been in each flannel, and the others it calls listed.
//
// The log goes to stderr alone, whatever they say: the logger ends the process if it can't
// write to its file, and follows links that others put into a folder such as /tmp.
func addLogging(fs *flag.FlagSet, files *[]string, listed func()) {
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	add := func(names ...string) {
		for _, name := range names {
			f := logging.Lookup(name)
			fs.Var(f.Value, f.Name, f.Usage)
		}
	}
	add("v", "vmodule")
	at := logging.Lookup("log_backtrace_at")
	fs.Var(backtrace{at.Value}, at.Name, at.Usage)
	listed()
	add("add_dir_header", "legacy_stderr_threshold_behavior", "skip_headers", "stderrthreshold")
	for _, name := range []string{"alsologtostderr", "one_output", "skip_log_headers"} {
		fs.Var(foreignValue{kind: truth}, name, "of flannel")
	}
	fs.Var(foreignValue{kind: number}, "log_file_max_size", "of flannel")
	fs.Var(foreignValue{kind: text}, "alsologtostderrthreshold", "of flannel")
	for _, name := range []string{"log_dir", "log_file", "logtostderr"} {
		fs.Var(&logFile{name: name, said: files}, name, "of flannel")
	}
}

// backtrace takes the value that older loggers show as the default.
type backtrace struct{ flag.Value }

func (b backtrace) Set(v string) error {
	if v == ":0" {
		v = ""
	}
	return b.Value.Set(v)
}

func (b backtrace) String() string {
	if b.Value == nil { // as the flag package has it at times
		return ""
	}
	return b.Value.String()
}

// logFile is an option that asks for the log in a file. It takes note of that.
type logFile struct {
	name string
	said *[]string
}

func (l *logFile) Set(v string) error {
	if l.IsBoolFlag() {
		stderr, err := strconv.ParseBool(v)
		if err != nil {
			return errors.New("is neither true nor false")
		}
		if stderr {
			return nil
		}
	}
	*l.said = append(*l.said, fmt.Sprintf("-%s=%s", l.name, v))
	return nil
}

func (l *logFile) String() string   { return "" }
func (l *logFile) IsBoolFlag() bool { return l.name == "logtostderr" }

// lenient passes values on without what templates, environment files and container
// manifests leave around them; an empty one is as good as none.
type lenient struct{ flag.Value }

func (l lenient) Set(v string) error {
	if v = plain(v); v == "" {
		return nil
	}
	return l.Value.Set(v)
}

func (l lenient) IsBoolFlag() bool {
	b, ok := l.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// makeLenient makes a flag so, unless each character of its value counts, or an empty one
// has a meaning.
func makeLenient(f *flag.Flag) {
	switch f.Name {
	case "etcd-password":
	case "etcd-prefix", "state-dir":
		f.Value = trimmed{f.Value}
	default:
		f.Value = lenient{f.Value}
	}
}

// trimmed is lenient, but takes an empty value for one.
type trimmed struct{ flag.Value }

func (t trimmed) Set(v string) error { return t.Value.Set(plain(v)) }

// plain returns a value without white space and one pair of quotes around it.
func plain(v string) string {
	v = strings.TrimSpace(v)
	if n := len(v); n >= 2 && v[0] == v[n-1] && (v[0] == '"' || v[0] == '\'') {
		v = strings.TrimSpace(v[1 : n-1])
	}
	return v
}

// parseArgs parses the command line. Empty arguments, which are variables of a unit that
// are not set, are passed over.
func parseArgs(fs *flag.FlagSet, args []string) error {
	for {
		err := fs.Parse(args)
		if err != nil || fs.NArg() == 0 || plain(fs.Arg(0)) != "" {
			return err
		}
		args = fs.Args()[1:]
	}
}

// valueHint says how to give a value to a flag of yes and no, if that is what the first
// argument that is no option is.
func valueHint(fs *flag.FlagSet, args []string) string {
	i := len(args) - fs.NArg()
	if _, err := strconv.ParseBool(fs.Arg(0)); err != nil || i == 0 {
		return ""
	}
	name := strings.TrimLeft(args[i-1], "-")
	f := fs.Lookup(name)
	if f == nil || !slices.Contains([]string{"-" + name, "--" + name}, args[i-1]) {
		return ""
	}
	return fmt.Sprintf("; the value of this one is given so: -%s=%s", name, fs.Arg(0))
}
