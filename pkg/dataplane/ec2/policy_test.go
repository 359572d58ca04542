package ec2

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The policy allows each action that is used here, and no other.
func TestPolicy(t *testing.T) {
	text, err := os.ReadFile("../../../dist/aws/iam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Version   string
		Statement []struct {
			Effect, Resource string
			Action           []string
		}
	}
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	var allowed []string
	for _, s := range policy.Statement {
		if s.Effect == "Allow" && s.Resource == "*" {
			allowed = append(allowed, s.Action...)
		}
	}
	called, named := actions(t)
	if !slices.Equal(allowed, called) || policy.Version != "2012-10-17" {
		t.Errorf("the policy of %s allows %q, what is called is %q", policy.Version, allowed, called)
	}
	if !slices.Equal(named, called) {
		t.Errorf("errors name %q, what is called is %q", named, called)
	}
}

// actions lists what the sources call of EC2, and what they call it in errors.
func actions(t *testing.T) (called, named []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fn, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if client, ok := fn.X.(*ast.SelectorExpr); ok && client.Sel.Name == "ec2" {
				called = append(called, "ec2:"+fn.Sel.Name)
			}
			if fn.Sel.Name == "do" {
				named = append(named, "ec2:"+strings.Trim(call.Args[1].(*ast.BasicLit).Value, `"`))
			}
			return true
		})
	}
	slices.Sort(called)
	slices.Sort(named)
	return slices.Compact(called), slices.Compact(named)
}
