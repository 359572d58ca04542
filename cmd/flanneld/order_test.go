package main_test

import (
	"testing"

	"flanneld/pkg/fence"
)

// Each file uses only those before it.
func TestOrderOfFiles(t *testing.T) {
	broken, err := fence.Files(t.Context(), ".",
		"log.go",
		// the options, and the tables of what they and the configuration name
		"flannelflags.go", "options.go", "backends.go",
		// this host, and what it had before
		"machine.go", "alone.go", "source.go", "etcdsource.go", "kubesource.go", "sources.go", "saved.go", "previous.go", "networks.go",
		// the parts of the daemon, and how they are tied together
		"systemd.go", "counters.go", "footprint.go", "choose.go", "rules.go", "available.go", "publish.go", "desired.go", "underlays.go", "prepare.go", "endpoint.go", "collect.go", "answers.go", "daemon.go",
		// what is done instead of its work
		"ask.go", "checkconfig.go", "gather.go", "doctor.go", "release.go", "cleanup.go", "migrate.go",
		"main.go",
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
}
