package fence_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"flanneld/pkg/fence"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module m\n",
		"low.go":      "package m\n\nimport (\n\t\"fmt\"\n\n\t\"m/sub\"\n)\n\nvar _ = sub.Other\n\ntype thing struct{ field int }\n\nfunc (t thing) String() string { return fmt.Sprint(t.field) }\n",
		"high.go":     "package m\n\nfunc make() thing { return thing{field: 1} }\n",
		"sub/high.go": "package sub\n\nvar Other int\n", // no file of the package
		"low_test.go": "package m\n\nvar _ = make()\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		order []string
		want  []string
	}{
		{[]string{"low.go", "high.go"}, nil},
		{[]string{"high.go", "low.go"}, []string{"high.go uses field of low.go, which comes later", "high.go uses thing of low.go, which comes later"}},
		{[]string{"low.go"}, []string{"high.go has no place in the order"}},
		{[]string{"low.go", "mid.go", "high.go"}, []string{"mid.go has a place in the order, and is not there"}},
	} {
		got, err := fence.Files(t.Context(), dir, test.order...)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("of the order %v is said %q, want %q", test.order, got, test.want)
		}
	}
}
