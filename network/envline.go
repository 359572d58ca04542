package network

import (
	"iter"
	"slices"
	"strings"
)

// assignment is a line of subnet.env, or several that a quote holds together.
type assignment struct {
	line string // as it is, with its end
	// name is the variable of ours that the line sets, and value what a shell takes it to
	// be. The name is empty for all other lines.
	name, value string
	exported    bool // systemd ignores such a line
}

// assignments splits a file that a shell and systemd read into its lines. Others write
// there, too: their lines may be anything.
func assignments(text string) iter.Seq[assignment] {
	return func(yield func(assignment) bool) {
		for text != "" {
			line := text[:lineEnd(text)]
			text = text[len(line):]
			if !yield(parseAssignment(line)) {
				return
			}
		}
	}
}

const blanks = " \t"

// lineEnd returns the length of the first line. A quote that is never closed ends with
// its line.
func lineEnd(text string) int {
	first := strings.IndexByte(text, '\n') + 1
	if first == 0 {
		first = len(text)
	}
	var quote byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
		case c == '\n':
			return i + 1
		case c == '"', c == '\'':
			quote = c
		case c == '#' && (i == 0 || strings.IndexByte(blanks+"\n", text[i-1]) >= 0):
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return len(text)
			}
			return i + end + 1
		}
	}
	if quote != 0 {
		return first
	}
	return len(text)
}

func parseAssignment(line string) assignment {
	a := assignment{line: line}
	text := strings.TrimLeft(line, blanks)
	if rest, ok := strings.CutPrefix(text, "export"); ok && strings.TrimLeft(rest, blanks) != rest {
		text, a.exported = strings.TrimLeft(rest, blanks), true
	}
	name, value, ok := strings.Cut(text, "=")
	if ok && slices.Contains(variables, name) {
		a.name, a.value = name, unquote(strings.TrimSuffix(value, "\n"))
	}
	return a
}

// unquote returns the word that a shell and systemd make of the right side of an
// assignment. If anything follows, even a comment, they do not agree: it is returned as it
// is, which is no value of ours.
func unquote(text string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			if strings.Trim(text[i:], blanks) != "" {
				return text
			}
			return b.String()
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
