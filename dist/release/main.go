// Release makes what is published of one commit: for each binary an archive,
// packages for Debian and Fedora, and a list of what it is made of, and the
// checksums of all of these. Of the same binaries it makes the same bytes.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

func main() {
	var r release
	flag.StringVar(&r.version, "version", "", "`version` as git describes the commit")
	flag.StringVar(&r.root, "root", "", "`directory` of the repository")
	flag.StringVar(&r.out, "out", "", "`directory` for what is made")
	epoch := flag.Int64("epoch", 0, "`seconds` since 1970 at the commit: the time of all files")
	flag.Parse()
	r.time = time.Unix(*epoch, 0).UTC()
	if err := r.make(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what all files of one have in common.
type release struct {
	version   string
	root, out string
	time      time.Time
	image     image // of all binaries
}

// binary is one that is released.
type binary struct {
	path string
	info *debug.BuildInfo
	arch string // with Go's names
}

func (r *release) make(paths []string) error {
	if r.version == "" || r.root == "" || r.out == "" || len(paths) == 0 {
		return errors.New("-version, -root, -out and at least one binary are needed")
	}
	for _, path := range paths {
		b, err := readBinary(path)
		if err == nil {
			err = r.makeFor(b)
		}
		if err != nil {
			return fmt.Errorf("releasing %s: %w", path, err)
		}
	}
	if err := errors.Join(r.writeKubernetes(), r.writeImage()); err != nil {
		return err
	}
	return r.writeSums()
}

func readBinary(path string) (*binary, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b := &binary{path: path, info: info}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" {
			b.arch = s.Value
		}
	}
	if b.arch == "" {
		return nil, errors.New("it does not say what architecture it is for")
	}
	return b, nil
}

// name is that of a file of the release for the binary's platform, without its ending.
func (r *release) name(b *binary) string {
	return "flanneld-" + r.version + "-linux-" + b.arch
}

func (r *release) makeFor(b *binary) error {
	parent, err := os.MkdirTemp("", "flanneld-release-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(parent) }()
	dir := filepath.Join(parent, r.name(b))
	if err := r.fill(dir, b); err != nil {
		return err
	}
	files, err := entries(dir, r.name(b))
	if err != nil {
		return err
	}
	return errors.Join(
		r.writeTGZ(r.name(b)+".tar.gz", files),
		r.addImage(dir, b),
		r.writeBOM(b),
		r.writePackages(dir, b),
	)
}

// writeSums writes the checksums of all files, for sha256sum --check.
func (r *release) writeSums() error {
	entries, err := os.ReadDir(r.out) // in alphabetical order
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(r.out, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), entry.Name())
	}
	return r.write("SHA256SUMS", []byte(sums.String()))
}

func (r *release) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644)
}

// described is what git describe says of a commit: the last tag, how many commits ago
// that was, and the present one.
var described = regexp.MustCompile(`^v?(\d[^-]*(?:-[a-z][^-]*)?)(?:-(\d+)-(g[0-9a-f]+))?$`)

// packageVersion is the version as dpkg and rpm order it: commits after a tag come
// after it, and those before any tag, by their time, before all. What was changed since
// a commit comes after that.
func packageVersion(version string, at time.Time) string {
	commit, changed := strings.CutSuffix(version, "-dirty")
	parts := described.FindStringSubmatch(commit)
	if parts == nil || isHash.MatchString(commit) {
		return "0~" + at.Format("20060102150405") + "." + strings.ReplaceAll(version, "-", ".")
	}
	after := slices.DeleteFunc(parts[2:], func(s string) bool { return s == "" })
	if changed && len(after) == 0 {
		after = []string{"0"} // of commits
	}
	if changed {
		after = append(after, "dirty")
	}
	v := strings.ReplaceAll(parts[1], "-", "~")
	if len(after) > 0 {
		v += "+" + strings.Join(after, ".")
	}
	return v
}

// chartVersion is the version as Helm wants it, which is semantic: commits before any tag are
// before all others, and those after a tag are builds of that.
func chartVersion(version string, at time.Time) string {
	commit, changed := strings.CutSuffix(version, "-dirty")
	parts := described.FindStringSubmatch(commit)
	var build []string
	v := "0.0.0-" + at.Format("20060102150405")
	switch {
	case parts == nil || isHash.MatchString(commit):
		build = []string{commit}
	default:
		v = parts[1]
		build = slices.DeleteFunc(parts[2:], func(s string) bool { return s == "" })
	}
	if changed {
		build = append(build, "dirty")
	}
	if len(build) > 0 {
		v += "+" + strings.Join(build, ".")
	}
	return v
}

// isHash tells a commit before any tag, which may begin with a digit.
var isHash = regexp.MustCompile(`^[0-9a-f]{7,40}$`)
