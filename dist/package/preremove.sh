#!/bin/sh
# dpkg says "remove", rpm how many will be left. An upgrade stops nothing.
set -e
command -v systemctl >/dev/null || exit 0 # as in a container
case "$1" in
remove | 0)
	systemctl --no-reload disable flanneld.service
	[ ! -d /run/systemd/system ] || systemctl stop flanneld.service
	;;
esac
