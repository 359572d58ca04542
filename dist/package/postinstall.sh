#!/bin/sh
# dpkg says "configure" and the version that was there before, rpm how many there are.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
case "$1:$2" in
configure:?* | 2:*)
	# Whoever upgrades need not wait for a daemon that waits for etcd.
	systemctl --no-block try-restart flanneld.service
	;;
esac
