package netfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"flanneld/pkg/dataplane"
	"flanneld/pkg/state"
)

// iptTool is the programs that read and write rules in one way.
type iptTool struct {
	iptVersion
	family        *family
	save, restore string // paths
}

// iptVersion is what a program says of itself.
type iptVersion struct {
	variant state.RuleBackend
	number  [3]int
}

const (
	// lockSeconds is how long a program waits for another one to be done. Routes are
	// not looked after meanwhile.
	lockSeconds = 1
	// lockPause is how long none is started after one that waited in vain.
	lockPause = 500 * time.Millisecond
	// toolPatience is how long a program may take.
	toolPatience = time.Minute
)

// errLocked is in the errors of programs that waited for another one in vain.
var errLocked = errors.New("another program keeps it, see fuser -v on that file; this is tried again")

// fullRandom is the first version that knows --random-fully, and the first of which
// iptables-restore can wait for others.
var fullRandom = [3]int{1, 6, 2}

func (v iptVersion) knowsRandomFully() bool { return slices.Compare(v.number[:], fullRandom[:]) >= 0 }

// iptTools finds programs, and remembers what they are.
type iptTools struct {
	known map[string]iptVersion // by file and time of its last change
}

// find returns the programs of a way in PATH: those that are called just iptables
// if they are of the right variant, else those that are named after it.
func (t *iptTools) find(ctx context.Context, way state.RuleBackend, f *family) (*iptTool, error) {
	named := Program(way, f.Family)
	for _, name := range []string{f.program, named} {
		var paths [3]string
		var err error
		for i, suffix := range []string{"", "-save", "-restore"} {
			if paths[i], err = exec.LookPath(name + suffix); err != nil {
				break
			}
		}
		if err != nil {
			continue
		}
		v, err := t.version(ctx, paths[0])
		if err != nil {
			return nil, err
		}
		if v.variant == way {
			return &iptTool{iptVersion: v, family: f, save: paths[1], restore: paths[2]}, nil
		}
	}
	return nil, fmt.Errorf("%w: PATH (%s) has no %[4]s, %[4]s-save and %[4]s-restore of this variant, nor %[3]s, %[3]s-save and %[3]s-restore: install the package iptables, or use -masq-mode=nftables",
		errAbsent, os.Getenv("PATH"), named, f.program)
}

// host returns the way of what is just called iptables, or ip6tables.
func (t *iptTools) host(ctx context.Context, f *family) (state.RuleBackend, error) {
	path, err := exec.LookPath(f.program)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not in PATH (%s): install the package iptables, or use -masq-mode=nftables", errAbsent, f.program, os.Getenv("PATH"))
	}
	v, err := t.version(ctx, path)
	return v.variant, err
}

// version asks a program what it is, unless it has been asked before.
func (t *iptTools) version(ctx context.Context, path string) (iptVersion, error) {
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return iptVersion{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return iptVersion{}, err
	}
	// One file is all variants, and goes by the name that it is called by.
	id := fmt.Sprint(path, " ", file, " ", info.ModTime().UnixNano())
	if v, ok := t.known[id]; ok {
		return v, nil
	}
	out, err := runTool(ctx, nil, path, "--version")
	if err != nil {
		return iptVersion{}, err
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return iptVersion{}, fmt.Errorf("%s --version: %w", path, err)
	}
	if t.known == nil {
		t.known = make(map[string]iptVersion)
	}
	t.known[id] = v
	return v, nil
}

var versionText = regexp.MustCompile(`v(\d+)\.(\d+)\.(\d+)`)

// parseVersion understands `iptables v1.8.9 (nf_tables)`. Those before 1.8 do not
// say that they are what is called legacy now.
func parseVersion(text string) (v iptVersion, err error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return v, fmt.Errorf("%q tells no version", text)
	}
	for i := range v.number {
		if v.number[i], err = strconv.Atoi(m[i+1]); err != nil {
			return v, err
		}
	}
	v.variant = state.IPTablesLegacy
	if strings.Contains(text, "nf_tables") {
		v.variant = state.IPTablesNFT
	}
	return v, nil
}

// tables returns all that there is.
func (t *iptTool) tables(ctx context.Context) (iptTables, error) {
	out, err := runTool(ctx, nil, t.save)
	if err != nil {
		return nil, err
	}
	tables, unreadable := parseSave(out)
	for _, p := range places {
		if slices.Contains(unreadable, p.table) {
			return nil, fmt.Errorf("%w: %s cannot read the table %s, which has rules that were not made by iptables: remove them (nft list table %[4]s %[3]s), or use -masq-mode=nftables", errAbsent, t.save, p.table, strings.TrimSuffix(t.family.program, "tables"))
		}
	}
	return tables, nil
}

// change changes a table, all at once or not at all: nothing if still, which is asked in the
// last moment, says that it is too late.
func (t *iptTool) change(ctx context.Context, table string, lines []string, still func() bool) error {
	lines = append([]string{"*" + table}, lines...)
	args := []string{"--noflush"}
	if slices.Compare(t.number[:], fullRandom[:]) >= 0 {
		args = append(args, fmt.Sprintf("--wait=%d", lockSeconds))
	}
	late := false
	_, err := runTool(ctx, func(stdin *os.File) {
		_, _ = stdin.WriteString(strings.Join(lines, "\n") + "\n")
		awaitRead(stdin)
		if late = !still(); !late { // else it does nothing
			_, _ = stdin.WriteString("COMMIT\n")
		}
	}, t.restore, args...)
	switch {
	case late:
		return dataplane.ErrSettling
	case err != nil:
		return t.family.explain(err, append(lines, "COMMIT"))
	}
	return nil
}

// awaitRead waits until a program has read what was written to it: it has started then, and
// takes no more time until it does as told. That is not waited for long.
func awaitRead(pipe *os.File) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Microsecond) {
		left := 0
		_ = raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if left == 0 || err != nil {
			return
		}
	}
}

// runTool runs a program with an input, which give writes if it is not nil, and returns what
// it prints. Its complaints are in the error.
func runTool(ctx context.Context, give func(stdin *os.File), path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	var out, complaints bytes.Buffer
	c := exec.CommandContext(ctx, path, args...)
	c.Stdout, c.Stderr = &out, &complaints
	c.WaitDelay = time.Second
	err := runGiven(c, give)
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	var texts []string
	for line := range strings.Lines(complaints.String()) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "Try ") {
			texts = append(texts, line)
		}
	}
	return nil, fmt.Errorf("%s: %w: %s", strings.Join(append([]string{path}, args...), " "), err, strings.Join(texts, "; "))
}

// runGiven runs a program. It may end before it has read all.
func runGiven(c *exec.Cmd, give func(stdin *os.File)) error {
	if give == nil {
		return c.Run()
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c.Stdin = stdin
	err = c.Start()
	_ = stdin.Close()
	if err == nil {
		give(w)
	}
	_ = w.Close()
	if err != nil {
		return err
	}
	return c.Wait()
}

var lineNumber = regexp.MustCompile(`line:? (\d+)`)

// explain adds to the error of iptables-restore what it does not say: the line that
// it objects to, and what to do.
func (f *family) explain(err error, lines []string) error {
	text := err.Error()
	if m := lineNumber.FindStringSubmatch(text); m != nil {
		if n, atoi := strconv.Atoi(m[1]); atoi == nil && n >= 1 && n <= len(lines) {
			err = fmt.Errorf("%w (line %d is %q)", err, n, lines[n-1])
		}
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	switch {
	case has("xtables lock"):
		return fmt.Errorf("%w: %w", err, errLocked)
	case has("Permission denied", "Operation not permitted"):
		return fmt.Errorf("%w: this needs CAP_NET_ADMIN and CAP_NET_RAW", err)
	case has("No chain/target/match by that name", "do you need to insmod", "Extension", "No such file or directory", "not supported"):
		return fmt.Errorf("%w: the kernel may lack a module (try modprobe -a %s, or modprobe nft_compat; and modprobe -a xt_comment xt_mark xt_MASQUERADE)", err, f.modules)
	}
	return err
}
