package fakeaws

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// fields are what a thing can be filtered by: the values that it has for each
// filter.
type fields[T any] map[string]func(T) []string

// one makes a field of a thing that has one value.
func one[T any](value func(T) string) func(T) []string {
	return func(x T) []string { return []string{value(x)} }
}

// selection is what a Describe request asks for.
type selection[T thing] struct {
	code, prefix, kind string // of errors about IDs
	parameter          string // of IDs: InstanceId for InstanceId.1 and so on
	fields             fields[T]
	maxResults         int // the most that may be asked for
	pageSize           int // of a request that does not say; 0 for no pages
}

// choose picks what the request asks for. A page is cut out before the filters, so
// it may be empty and yet not the last: EC2 promises no more than that.
func (s selection[T]) choose(list []T, form url.Values) (chosen []T, nextToken string, err error) {
	ids := listOf(form, s.parameter)
	for _, id := range ids {
		if _, err := lookUp(list, s.code, s.prefix, s.kind, id); err != nil {
			return nil, "", err
		}
	}
	for _, x := range list {
		if len(ids) == 0 || slices.Contains(ids, x.id()) {
			chosen = append(chosen, x)
		}
	}
	if chosen, nextToken, err = s.page(chosen, form, len(ids) > 0); err != nil {
		return nil, "", err
	}
	for i := 1; form.Has(fmt.Sprintf("Filter.%d.Name", i)); i++ {
		name := form.Get(fmt.Sprintf("Filter.%d.Name", i))
		values := listOf(form, fmt.Sprintf("Filter.%d.Value", i))
		field, ok := s.fields[name]
		if !ok {
			return nil, "", errorf("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if len(values) == 0 {
			return nil, "", errorf("InvalidParameterValue", "The filter '%s' has no values", name)
		}
		chosen = slices.DeleteFunc(chosen, func(x T) bool { return !matchAny(values, field(x)) })
	}
	return chosen, nextToken, nil
}

// page cuts out the page that the request asks for. The token says where the
// next one begins.
func (s selection[T]) page(list []T, form url.Values, byID bool) ([]T, string, error) {
	start := 0
	if token := form.Get("NextToken"); token != "" {
		text, _ := base64.StdEncoding.DecodeString(token)
		rest, ok := strings.CutPrefix(string(text), s.kind+":")
		var err error
		if start, err = strconv.Atoi(rest); !ok || err != nil || start < 0 {
			return nil, "", errorf("InvalidNextToken", "The token '%s' is invalid", token)
		}
	}
	list = list[min(start, len(list)):]
	size := s.pageSize
	if form.Has("MaxResults") {
		var err error
		size, err = strconv.Atoi(form.Get("MaxResults"))
		if err != nil || size < 5 || size > s.maxResults {
			return nil, "", errorf("InvalidParameterValue",
				"Value ( %s ) for parameter maxResults is invalid. Expecting a value between 5 and %d.",
				form.Get("MaxResults"), s.maxResults)
		}
		if byID {
			return nil, "", errorf("InvalidParameterCombination",
				"The parameter %ssSet cannot be used with the parameter maxResults", s.kind)
		}
	}
	if size == 0 || byID || len(list) <= size {
		return list, "", nil
	}
	return list[:size], base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s:%d", s.kind, start+size)), nil
}

func matchAny(patterns, values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		return v != "" && slices.ContainsFunc(patterns, func(p string) bool { return match(p, v) })
	})
}

// match compares a value with a pattern, in which * stands for any text, ? for
// one character, and a backslash before them takes that away.
func match(pattern, value string) bool {
	if pattern == "" {
		return value == ""
	}
	switch pattern[0] {
	case '*':
		return match(pattern[1:], value) || value != "" && match(pattern, value[1:])
	case '?':
		return value != "" && match(pattern[1:], value[1:])
	case '\\':
		if len(pattern) > 1 {
			pattern = pattern[1:]
		}
	}
	return value != "" && value[0] == pattern[0] && match(pattern[1:], value[1:])
}
