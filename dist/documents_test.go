package dist_test

import (
	"regexp"
	"strings"
	"testing"
)

// block is commands in a document, as they are to be run.
type block struct {
	where  string // from its first line, "# on WHERE"; empty if it does not say
	script string
}

var listItem = regexp.MustCompile(`^(\d+\.|-) `)

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
	for line := range strings.Lines(read(t, path)) {
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
