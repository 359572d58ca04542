package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"

	"flanneld/network"
	"flanneld/pkg/dataplane"
	"flanneld/pkg/ip"
)

// host is this host, as the daemon sees and changes it.
type host interface {
	dataplane.Dataplane
	network.View
	HasNexthops() bool
	Forwards(ip.Family) bool
	Follow([]ip.Family)
}

// machineName is what leases call this machine: its name for people, and of its ID
// what does not give that away.
func machineName(id string) string {
	name, _ := os.Hostname()
	return fmt.Sprintf("%s %x", name, sha256.Sum256([]byte("flanneld "+id)))[:len(name)+1+12]
}

// machineID tells this machine from others, those aside that were made from the
// same image; it is the host name if it can't be known.
func machineID() string {
	if id := readMachineID("/etc/machine-id", "/var/lib/dbus/machine-id"); id != "" {
		return id
	}
	name, _ := os.Hostname()
	return name
}

// readMachineID returns the ID in the first of the files that has one, or nothing.
// An image that is yet to become a machine says instead that it has none.
func readMachineID(files ...string) string {
	for _, file := range files {
		content, err := os.ReadFile(file)
		if id := string(bytes.TrimSpace(content)); err == nil && id != "" && id != "uninitialized" {
			return id
		}
	}
	return ""
}
