package dist_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are followed from top to bottom by these functions, each on fresh hosts. Each
// names all blocks of its document in their order: so a document with a new block, or with
// blocks in another order, needs a change there.
var documents = map[string]func(*guide){
	"README.md":                        followReadme,
	"Documentation/aws-vpc.md":         followAWSVPC,
	"Documentation/cloud-config.md":    followCloudConfig,
	"Documentation/cni.md":             followCNI,
	"Documentation/configuration.md":   followConfiguration,
	"Documentation/contributing.md":    followContributing,
	"Documentation/design.md":          followDesign,
	"Documentation/docker.md":          followDocker,
	"Documentation/from-scratch.md":    followFromScratch,
	"Documentation/installing.md":      followInstalling,
	"Documentation/ipv6.md":            followIPv6,
	"Documentation/kubernetes.md":      followKubernetes,
	"Documentation/leases.md":          followLeases,
	"Documentation/masquerade.md":      followMasquerade,
	"Documentation/observing.md":       followObserving,
	"Documentation/performance.md":     followPerformance,
	"Documentation/running.md":         followRunning,
	"Documentation/security.md":        followSecurity,
	"Documentation/systemd.md":         followSystemd,
	"Documentation/troubleshooting.md": followTroubleshooting,
	"Documentation/upgrading.md":       followUpgrading,
	"Documentation/vagrant.md":         followVagrant,
}

// What the documents have their readers do works, in the order in which they say it, and
// prints what they show.
func TestDocuments(t *testing.T) {
	t.Parallel()
	all, err := filepath.Glob("../Documentation/*.md")
	check(t, err)
	all = append(all, "../README.md")
	for name := range documents {
		if !slices.Contains(all, "../"+name) {
			t.Errorf("there is no %s", name)
		}
	}
	for _, path := range all {
		name := strings.TrimPrefix(path, "../")
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			g := &guide{
				t: t, name: name, blocks: blocks(t, path), used: make(map[string]bool),
				places: make(map[string][]*host), dirs: make(map[*host]string),
			}
			follow := documents[name]
			if follow == nil {
				g.end("documents has no function that follows it")
				return
			}
			follow(g)
			g.end("the function that follows it does not come to them")
		})
	}
}

// block is commands in a document, as they are to be run.
type block struct {
	where  string // from its first line, "# on WHERE"; empty if it does not say
	script string
}

var (
	listItem = regexp.MustCompile(`^(\d+\.|-) `)
	// otherBlocks would not be found.
	otherBlocks = regexp.MustCompile("(?m)^ *(```|~~~|<pre|<code)|^\t")
)

// blocks are what is indented by four columns in a document. Within a list item the
// item's own indentation comes on top of that.
func blocks(t testing.TB, path string) []block {
	t.Helper()
	var all []block
	var lines []string
	indent := 4
	end := func() {
		text := strings.Trim(strings.Join(lines, "\n"), "\n")
		lines = nil
		if text == "" {
			return
		}
		first, rest, _ := strings.Cut(text, "\n")
		if where, ok := strings.CutPrefix(first, "# on "); ok {
			all = append(all, block{where, rest + "\n"})
		} else {
			all = append(all, block{script: text + "\n"})
		}
	}
	text := read(t, path)
	if other := otherBlocks.FindString(text); other != "" {
		t.Errorf("%s has a block that begins with %q, which nobody runs: indent it by four columns", path, other)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		code, isCode := strings.CutPrefix(line, strings.Repeat(" ", indent))
		switch {
		case isCode:
			lines = append(lines, code)
		case line == "":
			lines = append(lines, "")
		default:
			end()
			if item := listItem.FindString(line); item != "" {
				indent = 4 + len(item)
			} else if !strings.HasPrefix(line, " ") {
				indent = 4
			}
		}
	}
	end()
	return all
}

// A block is found wherever it stands, and says where it is to be run.
func TestBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "document.md")
	check(t, os.WriteFile(path, []byte(`# A document

    one

    still one

Text.

1. An item

       # on each host
       two
           indented

Text.

    three
`), 0o600))
	want := []block{{"", "one\n\nstill one\n"}, {"each host", "two\n    indented\n"}, {"", "three\n"}}
	if got := blocks(t, path); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}
