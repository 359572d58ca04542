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
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"flanneld/pkg/lab"
)

// imageArchive is the path of the archive with images of a release.
func imageArchive(t testing.TB, version string) string {
	t.Helper()
	return one(t, release(t, version), "*.oci.tar")
}

// blob is a reference to one, as OCI layouts have it.
type blob struct {
	MediaType, Digest string
	Size              int
	Annotations       map[string]string
	Platform          struct{ OS, Architecture string }
}

// The archive is an OCI layout with one image, whose blobs are what their digests say. It has
// the files that the Dockerfile copies, as they are in the archive for this machine, and
// nothing else.
func TestImageArchive(t *testing.T) {
	t.Parallel()
	files := untar(t, []byte(read(t, imageArchive(t, testVersion))))
	get := func(b blob, to any) []byte {
		t.Helper()
		content, found := files["blobs/"+strings.Replace(b.Digest, ":", "/", 1)]
		if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(content)); !found || sum != b.Digest || len(content) != b.Size {
			t.Fatalf("of %+v there are %d bytes with the digest %s", b, len(content), sum)
		}
		if to != nil {
			check(t, json.Unmarshal(content, to))
		}
		return content
	}
	type index struct{ Manifests []blob }
	var top, all index
	check(t, json.Unmarshal(files["index.json"], &top))
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/library/flanneld:"+testVersion {
		t.Fatalf("the index is %+v", top)
	}
	get(top.Manifests[0], &all)
	if len(all.Manifests) != 1 || all.Manifests[0].Platform.Architecture != runtime.GOARCH || all.Manifests[0].Platform.OS != "linux" {
		t.Fatalf("the image is %+v", all)
	}
	var manifest struct {
		Config blob
		Layers []blob
	}
	get(all.Manifests[0], &manifest)
	var config struct {
		Architecture string
		Created      time.Time
		Config       struct{ Entrypoint []string }
		RootFS       struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	get(manifest.Config, &config)
	if config.Architecture != runtime.GOARCH || !slices.Equal(config.Config.Entrypoint, []string{"/flanneld"}) || config.Created.Unix() != 1700000000 {
		t.Errorf("the image's configuration is %+v", config)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(get(manifest.Layers[0], nil)))
	check(t, err)
	layer, err := io.ReadAll(unzipped)
	check(t, err)
	if got, want := config.RootFS.DiffIDs, []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}; len(manifest.Layers) != 1 || !slices.Equal(got, want) {
		t.Errorf("the layers are %q, want %q", got, want)
	}
	inLayer := untar(t, layer)
	copied := regexp.MustCompile(`(?m)^COPY (.*) /$`).FindStringSubmatch(read(t, "Dockerfile"))
	dir := unpack(t, one(t, release(t, testVersion), "*.tar.gz"), t.TempDir())
	names := strings.Fields(copied[1])
	for _, name := range names {
		if string(inLayer[name]) != read(t, filepath.Join(dir, name)) {
			t.Errorf("%s in the image is not that of the archive", name)
		}
	}
	if len(inLayer) != len(names) {
		t.Errorf("the image has %d files, and the Dockerfile copies %q", len(inLayer), names)
	}
}

// untar has the files of an archive, by name.
func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		check(t, err)
		files[h.Name], err = io.ReadAll(r)
		check(t, err)
	}
}

// containerd takes the archive under the name that the manifest for Kubernetes has, and Docker
// under that of the architecture; and the daemon runs in it.
func TestImageIsLoaded(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	archive := imageArchive(t, testVersion)

	ctr := n.hosts[0].startContainerd()
	ctr("images", "import", archive)
	name := "docker.io/library/" + imageName(t, testVersion)
	if out := ctr("images", "list", "--quiet"); out != name {
		t.Errorf("containerd has the images %q, want %s", out, name)
	}
	if out := ctr("images", "check", "--quiet"); out != name {
		t.Errorf("of the images %q are complete", out)
	}

	d, err := n.hosts[1].StartDocker(n.ctx, "--bip=10.5.1.1/24")
	check(t, err)
	defer func() { check(t, d.Stop(soon)) }()
	docker := n.client(d)
	docker("load", "--input", archive)
	// Without a terminal the version would go to where errors go.
	if out := docker("run", "--rm", "--tty", "flanneld:"+testVersion+"-"+runtime.GOARCH, "-version"); out != testVersion {
		t.Errorf("flanneld -version says %q", out)
	}
}

// imageName is that of the image in the manifest of a release.
func imageName(t *testing.T, version string) string {
	t.Helper()
	manifest := read(t, one(t, release(t, version), "flanneld-*.yaml"))
	found := regexp.MustCompile(`(?m)^ +image: "(.*)"$`).FindAllStringSubmatch(manifest, -1)
	if len(found) != 1 || found[0][1] != "flanneld:"+version {
		t.Fatalf("the images of the manifest are %q", found)
	}
	return found[0][1]
}

// startContainerd starts a containerd on a host, and returns what runs commands of its client,
// by another command if there is one.
func (h *host) startContainerd(by ...string) func(args ...string) string {
	t := h.n.t
	t.Helper()
	dir := filepath.Join(h.Dir, "containerd")
	check(t, os.Mkdir(dir, 0o700))
	config, socket := filepath.Join(dir, "config.toml"), filepath.Join(dir, "sock")
	check(t, os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600))
	p, err := h.Start("containerd", []string{
		"containerd", "--config", config, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket,
	}, nil, lab.ProcessOptions{})
	check(t, err)
	h.n.wait(soon, "containerd", func() string {
		select {
		case <-p.Exited():
			t.Fatalf("containerd has ended: %s", p.Log())
		default:
		}
		if _, err := os.Stat(socket); err != nil {
			return err.Error()
		}
		return ""
	})
	return func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(h.command(nil, slices.Concat(by, []string{"ctr", "--address", socket, "--namespace", "k8s.io"}, args)...))
	}
}
