package subnet

import (
	"testing"

	"flanneld/pkg/fence"
)

// Each file uses only those before it.
func TestOrderOfFiles(t *testing.T) {
	broken, err := fence.Files(t.Context(), ".",
		// what a store holds
		"lease.go", "changes.go", "remarks.go", "config.go", "assignment.go", "snapshot.go", "store.go", "health.go",
		// the leases of others, and what is free
		"overlap.go", "choose.go", "vet.go", "linger.go",
		// what this host holds
		"holding.go", "saved.go", "peers.go",
		// the keeper: what is known, what follows from it, and the loop
		"action.go", "state.go", "owner.go", "conflict.go", "assigned.go", "acquire.go", "reconfigure.go", "hold.go", "start.go", "decide.go",
		"outage.go", "keeper.go",
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
}
