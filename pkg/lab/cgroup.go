package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

const cgroupRoot = "/sys/fs/cgroup"

// The control groups that a system or a Docker daemon makes outlive its processes.
const cgroupJanitorScript = `read -r _
try=0
while [ $try -lt 150 ]; do
	try=$((try + 1))
	set --
	for d in /sys/fs/cgroup/"$0" /sys/fs/cgroup/*/"$0"; do [ ! -d "$d" ] || set -- "$@" "$d"; done
	[ $# -gt 0 ] || exit 0
	find "$@" -depth -type d -exec rmdir {} + 2>/dev/null
	sleep 0.2
done
exit 1`

// newCgroup names a control group of the namespace's own, below the root of each
// hierarchy. It is removed, with those below it, when the namespace is closed or
// this process ends.
func (ns *Namespace) newCgroup() (string, error) {
	name := fmt.Sprintf("%s-%s-%d", filepath.Base(ns.lab.Dir), filepath.Base(ns.Name), ns.lab.serial.Add(1))
	j, err := startJanitorWith(cgroupJanitorScript, name)
	if err != nil {
		return "", err
	}
	if _, err := ns.onClose(func() { _ = j.clean() }); err != nil {
		_ = j.clean()
		return "", err
	}
	return name, nil
}

// systemHierarchies are the roots of the hierarchies that systemd keeps its units in.
func systemHierarchies() []string {
	if _, err := os.Stat(cgroupRoot + "/cgroup.controllers"); err == nil {
		return []string{cgroupRoot} // there is version 2 alone
	}
	var all []string
	for _, name := range []string{"systemd", "unified"} {
		dir := filepath.Join(cgroupRoot, name)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			all = append(all, dir)
		}
	}
	return all
}
