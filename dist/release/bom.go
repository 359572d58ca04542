package main

import (
	"bytes"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeBOM writes what the binary is made of, as the linker has noted it down.
func (r *release) writeBOM(b *binary) error {
	component := func(kind cdx.ComponentType, name, version string) cdx.Component {
		purl := "pkg:golang/" + name + "@" + version
		return cdx.Component{Type: kind, BOMRef: purl, Name: name, Version: version, PackageURL: purl}
	}
	main := component(cdx.ComponentTypeApplication, b.info.Main.Path, r.version)
	components := []cdx.Component{component(cdx.ComponentTypeLibrary, "std", strings.TrimPrefix(b.info.GoVersion, "go"))}
	for _, dep := range b.info.Deps {
		components = append(components, component(cdx.ComponentTypeLibrary, dep.Path, dep.Version))
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Timestamp: r.time.Format(time.RFC3339), Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	if err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return err
	}
	return r.write(r.name(b)+".cdx.json", text.Bytes())
}
