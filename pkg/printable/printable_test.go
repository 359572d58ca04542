package printable

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"in order: 10.5.1.0/24, für…": "in order: 10.5.1.0/24, für…",
		"one\ntwo\n":                  "one; two",
		"one\r\ntwo\r\n\n":            "one; two",
		"a\rb\tc\x00":                 `a\rb\tc\x00`,
		"\x1b[2J\x9b1m":               `\x1b[2J\x9b1m`,
		"\u009b1m\u0085":              `\u009b1m\u0085`,
		"\u2028\u2029\u202e\u2066":    `\u2028\u2029\u202e\u2066`,
		"\u200b\ufeff\u00ad\u00a0":    `\u200b\ufeff\u00ad\u00a0`,
		"\xff\xc0\xaf\xed\xa0\x80":    `\xff\xc0\xaf\xed\xa0\x80`,
		"\U000e0001":                  `\U000e0001`,
		"\ufffd":                      "\ufffd",
	} {
		if got := Line(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	for _, part := range []string{"x", "\x1b", "€", "\n"} {
		if got := Line("begin" + strings.Repeat(part, 1<<20) + "end"); len(got) > MaxLine+50 || !strings.HasSuffix(got, " bytes more)") {
			t.Errorf("of a long text of %q, %d bytes are left", part, len(got))
		}
	}
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"10.5.1.0-24":                        "10.5.1.0-24",
		"10.5.4.0-24&fc00:4::-64":            "10.5.4.0-24&fc00:4::-64",
		"node1 81b637d8fcd2":                 "node1 81b637d8fcd2",
		"folder/key":                         "folder/key",
		"":                                   `""`,
		"x\nE1129 forged":                    `"x\nE1129 forged"`,
		"node1 81b637d8fcd2, which is alive": `"node1 81b637d8fcd2, which is alive"`,
		"\x1b[2J":                            `"\x1b[2J"`,
		strings.Repeat("x", 1000):            `"` + strings.Repeat("x", 80) + `"... (1000 bytes)`,
	} {
		if got := Name(in); got != want {
			t.Errorf("%q becomes %s, want %s", in, got, want)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"", "x", "a\nb", "\x1b[0m", "\xff\xfe", "\u2028", "\r\n", strings.Repeat("\x00", 3*MaxLine)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for name, out := range map[string]string{"line": Line(in), "name": Name(in)} {
			if !utf8.ValidString(out) || len(out) > MaxLine+50 {
				t.Fatalf("%s of %q: %q", name, in, out)
			}
			for _, r := range out {
				if !strconv.IsPrint(r) {
					t.Fatalf("%s of %q has %q: %q", name, in, r, out)
				}
			}
			if again := Line(out); again != out && len(out) < MaxLine {
				t.Fatalf("%q becomes %q, and then %q", in, out, again)
			}
		}
		if printed := strconv.Quote(in); isLine(in) && len(in) < MaxLine && Line(in) != in {
			t.Fatalf("%s was changed", printed)
		}
	})
}
