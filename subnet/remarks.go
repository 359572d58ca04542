package subnet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"flanneld/pkg/printable"
)

// KeyRemarks returns which keys of a JSON object are ignored, being none of those that are
// known or there more than once. As encoding/json has it, the case of a key does not
// matter. The prefix says where the object is; whose says, if known, who would read a key.
func KeyRemarks(prefix string, object []byte, known []string, whose func(key string) string) []string {
	var remarks []string
	seen := make(map[string]bool)
	for _, key := range keysOf(object) {
		is := func(k string) bool { return strings.EqualFold(k, key) }
		name := prefix + printable.Name(key)
		i := slices.IndexFunc(known, is)
		why := "is not a known key"
		if i >= 0 {
			name = prefix + known[i]
		} else if is := whose(key); is != "" {
			why = is
		}
		before := seen[strings.ToLower(key)]
		seen[strings.ToLower(key)] = true
		switch {
		case i >= 0 && before:
			remarks = append(remarks, name+" is there more than once: the last one counts")
		case i < 0 && !before:
			remarks = append(remarks, fmt.Sprintf("%s is ignored: it %s", name, why))
		}
	}
	slices.Sort(remarks)
	return slices.Compact(remarks)
}

// keysOf returns the keys of a JSON object in their order.
func keysOf(object []byte) []string {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var keys []string
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return keys
		}
		keys = append(keys, key)
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return keys
		}
	}
	return keys
}
