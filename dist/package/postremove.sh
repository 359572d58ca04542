#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
# Only dpkg has this: nothing at all is to stay.
if [ "$1" = purge ]; then
	rm -rf /var/lib/flannel /run/flannel
fi
