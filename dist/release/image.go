package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// inImage are the files that an image has in its root: those of dist/Dockerfile.
var inImage = []string{"flanneld", "LICENSE", "THIRD-PARTY-LICENSES"}

// image is what is to be in an archive of images: an OCI layout. Beside that it has the list
// that `docker save` makes, which older Dockers take.
type image struct {
	blobs     map[string][]byte // by digest
	manifests []descriptor      // of each architecture
	saved     []savedImage
}

// The types of an OCI layout, as far as they are used here.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant,omitempty"`
	}
	imageManifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	imageIndex struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	imageConfig struct {
		platform

		Created time.Time    `json:"created"`
		Config  runConfig    `json:"config"`
		RootFS  rootFS       `json:"rootfs"`
		History []layerMaker `json:"history"`
	}
	runConfig struct {
		Entrypoint []string
		Labels     map[string]string
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	layerMaker struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
)

// savedImage is one in the list of `docker save`.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// addImage adds the image for one architecture, made of what is in the archive's directory.
func (r *release) addImage(dir string, b *binary) error {
	var files []entry
	for _, name := range inImage {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files = append(files, entry{name, content, programs[name]})
	}
	layer, err := r.tar(files)
	if err != nil {
		return err
	}
	zipped, err := gzipped(layer)
	if err != nil {
		return err
	}
	p := platform{Architecture: b.arch, OS: "linux"}
	if b.arch == "arm" {
		p.Variant = "v7"
	}
	config, err := r.image.putJSON(configType, imageConfig{
		platform: p,
		Created:  r.time,
		Config: runConfig{Entrypoint: []string{"/flanneld"}, Labels: map[string]string{
			"org.opencontainers.image.title":    "flanneld",
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		}},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{digest(layer)}},
		History: []layerMaker{{r.time, "make release"}},
	})
	if err != nil {
		return err
	}
	contents := r.image.put(layerType, zipped)
	manifest, err := r.image.putJSON(manifestType, imageManifest{2, manifestType, config, []descriptor{contents}})
	if err != nil {
		return err
	}
	manifest.Platform = &p
	r.image.manifests = append(r.image.manifests, manifest)
	r.image.saved = append(r.image.saved, savedImage{
		Config:   blobPath(config.Digest),
		RepoTags: []string{"flanneld:" + r.version + "-" + b.arch},
		Layers:   []string{blobPath(contents.Digest)},
	})
	return nil
}

// writeImage writes the archive: one image for all architectures.
func (r *release) writeImage() error {
	all, err := r.image.putJSON(indexType, imageIndex{2, indexType, r.image.manifests})
	if err != nil {
		return err
	}
	all.Annotations = map[string]string{
		// What Kubernetes makes of a name without a registry.
		"io.containerd.image.name":          "docker.io/library/flanneld:" + r.version,
		"org.opencontainers.image.ref.name": r.version,
	}
	var files []entry
	for _, f := range []struct {
		name  string
		value any
	}{
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
		{"index.json", imageIndex{2, indexType, []descriptor{all}}},
		{"manifest.json", r.image.saved},
	} {
		content, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		files = append(files, entry{name: f.name, content: content})
	}
	for _, digest := range slices.Sorted(maps.Keys(r.image.blobs)) {
		files = append(files, entry{name: blobPath(digest), content: r.image.blobs[digest]})
	}
	archive, err := r.tar(files)
	if err != nil {
		return err
	}
	return r.write("flanneld-"+r.version+".oci.tar", archive)
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

func blobPath(digest string) string { return strings.Replace("blobs/"+digest, ":", "/", 1) }

func (i *image) put(mediaType string, content []byte) descriptor {
	if i.blobs == nil {
		i.blobs = make(map[string][]byte)
	}
	d := digest(content)
	i.blobs[d] = content
	return descriptor{MediaType: mediaType, Digest: d, Size: len(content)}
}

func (i *image) putJSON(mediaType string, value any) (descriptor, error) {
	content, err := json.Marshal(value)
	return i.put(mediaType, content), err
}
