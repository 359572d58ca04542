#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
# Only dpkg has this: nothing at all is to stay. But a daemon that runs is another one by
# now, and these are its own.
if [ "$1" = purge ]; then
	case $(systemctl is-active flanneld.service 2>/dev/null) in
	active | activating | reloading | deactivating) ;;
	*) rm -rf /var/lib/flannel /run/flannel ;;
	esac
fi
