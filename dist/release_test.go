package dist_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"flanneld/pkg/lab"
)

// releases are made of the repository's files for this machine, once for each version.
var releases = struct {
	sync.Mutex
	dirs map[string]string
}{dirs: map[string]string{}}

// release has a version made, and returns the directory with it.
func release(t testing.TB, version string) string {
	t.Helper()
	releases.Lock()
	defer releases.Unlock()
	dir := releases.dirs[version]
	if dir == "" {
		dir = filepath.Join(filepath.Dir(daemonBinary), version)
		makeRelease(t, "..", dir, version)
		releases.dirs[version] = dir
	}
	return dir
}

// makeRelease makes a release of a repository.
func makeRelease(t testing.TB, root, dir, version string, env ...string) {
	t.Helper()
	cmd := exec.Command("make", "-C", root, "release", "RELEASE="+dir, "ARCHES="+runtime.GOARCH,
		"VERSION="+version, "SOURCE_DATE_EPOCH=1700000000")
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make release: %v\n%s", err, out)
	}
}

// one is the file in a directory that a pattern matches.
func one(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("as %s there are %q (%v)", pattern, found, err)
	}
	return found[0]
}

// testVersion is what tests make, and nextVersion the one after it.
const testVersion, nextVersion = "v1.2.3", "v1.2.4"

// The same files give the same bytes, wherever they are and whoever makes them.
func TestReleaseIsReproducible(t *testing.T) {
	t.Parallel()
	first := release(t, testVersion)
	root := filepath.Join(t.TempDir(), "elsewhere")
	copyRepository(t, root)
	second := filepath.Join(t.TempDir(), "release")
	makeRelease(t, root, second, testVersion, "TZ=Asia/Tokyo", "LC_ALL=C", "USER=somebody", "HOSTNAME=elsewhere",
		"GOAMD64=v3", "GOARM64=v9.0", "GOFLAGS=-tags=netgo -gcflags=all=-N", "GOEXPERIMENT=greenteagc")
	for _, b := range blocks(t, "../Documentation/installing.md") {
		if strings.HasPrefix(b.script, "sha256sum ") {
			cmd := exec.Command("sh", "-c", b.script)
			cmd.Dir = second
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", b.script, err, out)
			}
		}
	}
	sums := sums(t, first)
	if len(sums) != 7 {
		t.Errorf("the release has sums of %d files, want an archive, two packages, a list of contents, an image, and a manifest and a chart for Kubernetes: %q", len(sums), sums)
	}
	for name, sum := range sums {
		for _, dir := range []string{first, second} {
			content := read(t, filepath.Join(dir, name))
			if got := fmt.Sprintf("%x", sha256.Sum256([]byte(content))); got != sum {
				t.Errorf("%s in %s has the sum %s, want %s", name, dir, got, sum)
			}
		}
	}
}

// sums are those in a release's file, by the name of what they are of.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(read(t, filepath.Join(dir, "SHA256SUMS"))) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		all[name] = sum
	}
	return all
}

// copyRepository copies the repository, but for what is made of it and what git knows.
func copyRepository(t *testing.T, to string) {
	t.Helper()
	check(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "../")
		if name == "build" || name == ".git" {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o600)
	}))
}

// The archive has what Documentation/installing.md says.
func TestArchive(t *testing.T) {
	t.Parallel()
	dir := unpack(t, one(t, release(t, testVersion), "*.tar.gz"), t.TempDir())
	if want := "flanneld-v1.2.3-linux-" + runtime.GOARCH; filepath.Base(dir) != want {
		t.Errorf("it unpacks to %s, want %s", dir, want)
	}
	for _, name := range []string{
		"flanneld.service", "options.env", "mk-docker-opts.sh", "docker.service.d/flannel.conf",
		"containerd.service.d/flannel.conf", "cni/10-flannel.conflist", "aws/iam-policy.json", "cloud-config.yaml", "Vagrantfile", "Dockerfile",
		"monitoring/flanneld.rules.yaml", "monitoring/flanneld.rules.test.yaml", "monitoring/grafana-dashboard.json", "monitoring/podmonitor.yaml",
	} {
		if got := read(t, filepath.Join(dir, name)); got != read(t, name) {
			t.Errorf("%s is not as in the repository:\n%s", name, got)
		}
	}
	for _, name := range []string{"LICENSE", "README.md", "Documentation/running.md", "Documentation/packet.svg"} {
		if got := read(t, filepath.Join(dir, name)); got != read(t, "../"+name) {
			t.Errorf("%s is not as in the repository:\n%s", name, got)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "flanneld"), "-version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != testVersion {
		t.Errorf("flanneld -version: %v: %s", err, out)
	}
	const mostBytes = 30_000_000 // what uses reflection makes the linker keep all of a package
	if info, err := os.Stat(filepath.Join(dir, "flanneld")); err != nil {
		t.Error(err)
	} else if info.Size() > mostBytes {
		t.Errorf("flanneld has %d bytes, want %d at most", info.Size(), mostBytes)
	}
	if out, err := exec.Command(filepath.Join(dir, "mk-docker-opts.sh"), "-h").CombinedOutput(); !strings.Contains(string(out), "Usage: ") {
		t.Errorf("mk-docker-opts.sh: %v: %s", err, out)
	}
	licences := read(t, filepath.Join(dir, "THIRD-PARTY-LICENSES"))
	for _, m := range dependencies(t, filepath.Join(dir, "flanneld")) {
		if !strings.Contains(licences, "\n"+strings.ReplaceAll(m, "@", " ")+"\n") {
			t.Errorf("there is no licence of %s", m)
		}
	}
}

// unpack unpacks an archive into a directory and returns the one that it makes there.
func unpack(t *testing.T, path, into string) string {
	t.Helper()
	file, err := os.Open(path)
	check(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	check(t, err)
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		content, err := io.ReadAll(r)
		check(t, err)
		to := filepath.Join(into, h.Name)
		check(t, os.MkdirAll(filepath.Dir(to), 0o755))
		check(t, lab.WriteProgram(to, content, fs.FileMode(h.Mode)))
	}
	return one(t, into, "*")
}

// dependencies are the modules that a binary was linked from, as PATH@VERSION.
func dependencies(t *testing.T, binary string) []string {
	t.Helper()
	out, err := exec.Command("go", "version", "-m", binary).Output()
	check(t, err)
	var all []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "dep" {
			all = append(all, fields[1]+"@"+fields[2])
		}
	}
	if len(all) < 10 {
		t.Fatalf("go version -m says:\n%s", out)
	}
	return all
}

// The list of contents has each module that is in the binary, and nothing else.
func TestBOM(t *testing.T) {
	dir := release(t, testVersion)
	var bom struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, PURL string }
	}
	check(t, json.NewDecoder(bytes.NewReader([]byte(read(t, one(t, dir, "*.cdx.json"))))).Decode(&bom))
	if c := bom.Metadata.Component; bom.BOMFormat != "CycloneDX" || c.Name != "flanneld" || c.Version != testVersion {
		t.Errorf("it is of %v in the format %s", c, bom.BOMFormat)
	}
	var got []string
	for _, c := range bom.Components {
		got = append(got, c.PURL)
	}
	want := []string{"pkg:golang/std@" + strings.TrimPrefix(runtime.Version(), "go")}
	for _, m := range dependencies(t, filepath.Join(dir+"-binaries", runtime.GOARCH, "flanneld")) {
		want = append(want, "pkg:golang/"+m)
	}
	if !slices.Equal(got, want) {
		t.Errorf("there is\n%q, want\n%q", got, want)
	}
}
