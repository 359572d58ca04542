// Render prints what Helm makes of a chart, for those who have no Helm. It is a module of its
// own, as Helm's packages are many.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
)

func main() {
	chart := flag.String("chart", "", "`directory` of the chart")
	namespace := flag.String("namespace", "kube-flannel", "`name` of the namespace")
	file := flag.String("values", "", "`file` with values other than the chart's own")
	flag.Parse()
	manifest, err := renderFile(*chart, *namespace, *file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
	fmt.Print(header + manifest)
}

// header is for those who would change what is printed.
const header = "# Made of the Helm chart beside it by `make manifest`: change that.\n"

func renderFile(chart, namespace, file string) (string, error) {
	values := chartutil.Values{}
	if file != "" {
		var err error
		if values, err = chartutil.ReadValuesFile(file); err != nil {
			return "", err
		}
	}
	return render(chart, namespace, values)
}

// render returns the objects that `helm install` makes of a chart in a namespace, in that order.
func render(dir, namespace string, values map[string]any) (string, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return "", fmt.Errorf("reading the chart: %w", err)
	}
	release := chartutil.ReleaseOptions{Name: "flannel", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, release, nil)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return "", err
	}
	maps.DeleteFunc(files, func(name, _ string) bool { return strings.HasSuffix(name, "NOTES.txt") })
	_, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return "", fmt.Errorf("sorting the objects: %w", err)
	}
	var b strings.Builder
	for _, m := range manifests {
		fmt.Fprintf(&b, "---\n%s\n", strings.TrimSpace(m.Content))
	}
	return b.String(), nil
}
