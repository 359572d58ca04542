package main_test

import (
	"fmt"
	"slices"
	"strings"
)

// lacks says so if a text lacks a part.
func lacks(text, part string) string {
	if strings.Contains(text, part) {
		return ""
	}
	return fmt.Sprintf("there is %q", text)
}

func sorted(s ...string) []string {
	slices.Sort(s)
	return s
}
