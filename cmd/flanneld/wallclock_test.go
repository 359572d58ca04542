package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wallClock is what makes a time of the wall clock alone, or takes the reading of
// the monotonic clock away from one. Durations and timers that come of such a
// time are wrong when the wall clock jumps. With each name are the files that may
// use it all the same.
var wallClock = map[string][]string{
	"Unix":         {"subnet/etcdv3/dial.go"}, // a deadline that is long over
	"UnixMilli":    nil,
	"UnixMicro":    nil,
	"UnixNano":     nil,
	"Date":         nil,
	"Parse":        nil,                                                                             // of package time
	"ParseTime":    {"subnet/etcdv2/request.go", "subnet/etcd/examine.go", "subnet/kube/health.go"}, // the latter are for a comparison of clocks
	"AddDate":      nil,
	"UTC":          {"subnet/etcd/diagnose.go", "subnet/kube/errors.go", "subnet/kube/publish.go"}, // when a certificate ends, for people
	"In":           nil,
	"Truncate":     nil,
	"Expiration":   {"subnet/etcdv2/request.go"},                 // a time of etcd's wall clock, in JSON
	"ClockGettime": {"subnet/keeper.go", "network/firewalls.go"}, // of clocks that nobody can set
}

// elsewhere are uses of such names that have nothing to do with time.
func elsewhere(name, receiver string) bool {
	return slices.Contains([]string{"Parse", "Date"}, name) && receiver != "time"
}

// Of leases, retries and waits, none may depend on the wall clock. No test can
// set the clock of the host that it runs on, so this one looks at the code.
func TestNoWallClock(t *testing.T) {
	used := make(map[string]bool) // exceptions
	files := 0
	for _, dir := range []string{"subnet", "network", "cmd"} {
		root := filepath.Join("..", "..")
		err := filepath.WalkDir(filepath.Join(root, dir), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			files++
			name, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			name = filepath.ToSlash(name)
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, use := range wallClockUses(f) {
				if slices.Contains(wallClock[use.Sel.Name], name) {
					used[use.Sel.Name] = true
					continue
				}
				t.Errorf("%s: %s is of the wall clock", fset.Position(use.Pos()), use.Sel.Name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 {
		t.Errorf("only %d files were found", files)
	}
	for name, allowed := range wallClock {
		if len(allowed) > 0 && !used[name] {
			t.Errorf("%s is allowed in %v, and not used there", name, allowed)
		}
	}
}

// wallClockUses finds what wallClock names, Round(0), and Local().
func wallClockUses(f *ast.File) (uses []*ast.SelectorExpr) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			s, isSelector := n.Fun.(*ast.SelectorExpr)
			switch {
			case !isSelector:
			case s.Sel.Name == "Local" && len(n.Args) == 0:
				uses = append(uses, s)
			case s.Sel.Name == "Round" && len(n.Args) == 1:
				if l, isLiteral := n.Args[0].(*ast.BasicLit); isLiteral && l.Value == "0" {
					uses = append(uses, s)
				}
			}
		case *ast.SelectorExpr:
			receiver := ""
			switch x := n.X.(type) {
			case *ast.Ident:
				receiver = x.Name
			case *ast.SelectorExpr:
				receiver = x.Sel.Name
			}
			if _, listed := wallClock[n.Sel.Name]; listed && !elsewhere(n.Sel.Name, receiver) {
				uses = append(uses, n)
			}
		}
		return true
	})
	return uses
}

// The test above finds what it is for.
func TestWallClockUses(t *testing.T) {
	const code = `package p
func f() {
	t := time.Unix(0, n)
	t = time.Now().Round(0)
	t = l.Expires.UTC()
	t = t.Local()
	c.Local(a, b)
	t = time.Now().Truncate(time.Second)
	d.SetDeadline(*node.Expiration)
	t, _ = time.Parse("", "")
	n = t.UnixNano()
	netip.ParseAddr("")
	url.Parse("")
	d = time.Since(t).Round(time.Second)
}`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", code, 0)
	must(t, err)
	if n := len(wallClockUses(f)); n != 8 {
		t.Errorf("%d uses were found, want 8", n)
	}
}
