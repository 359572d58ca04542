#!/bin/sh
# Turns the subnet file that flanneld writes into options for the Docker daemon.
#
# The output can be read by a shell and as systemd's EnvironmentFile:
#
#     DOCKER_OPT_BIP="--bip=10.5.34.1/24"
#     DOCKER_OPT_IPMASQ="--ip-masq=true"
#     DOCKER_OPT_MTU="--mtu=1450"
#     DOCKER_OPTS=" --bip=10.5.34.1/24 --ip-masq=true --mtu=1450"
#
# With an IPv6 subnet there are DOCKER_OPT_FIXED_CIDR_V6="--fixed-cidr-v6=..." and
# DOCKER_OPT_IPV6="--ipv6", too.
#
# Any other variable DOCKER_OPT_... that is set, here or in the subnet file, goes
# with them, in alphabetical order. What DOCKER_OPTS was before comes first in it.
#
# OUTPUT may be the subnet file itself: its other lines stay.

usage() {
	cat >&2 <<END
Usage: $0 [-f SUBNET-FILE] [-d OUTPUT] [-i] [-c] [-k KEY] [-m]

Writes the options of the Docker daemon that follow from flanneld's subnet file.
With neither -i nor -c it writes both kinds.

    -f FILE  the subnet file (/run/flannel/subnet.env); none is no error
    -d FILE  where to write to (/run/docker_opts.env)
    -i       write each option as a variable of its own: DOCKER_OPT_BIP, ...
    -c       write all options together in one variable
    -k KEY   the name of that variable (DOCKER_OPTS)
    -m       leave --ip-masq out, which Docker before 1.4 does not know
END
	exit 1
}

fail() {
	echo "$0: $*" >&2
	exit 1
}

subnet_file=/run/flannel/subnet.env
output=/run/docker_opts.env
key=DOCKER_OPTS
single=false
combined=false
with_ipmasq=true

while getopts f:d:ick:mh option; do
	case $option in
	f) subnet_file=$OPTARG ;;
	d) output=$OPTARG ;;
	i) single=true ;;
	c) combined=true ;;
	k) key=$OPTARG ;;
	m) with_ipmasq=false ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
if [ $# -gt 0 ]; then
	echo "$0: unexpected argument '$1'" >&2
	usage
fi
case $key in
'' | [0-9]* | *[!A-Za-z0-9_]*) fail "-k '$key' cannot be the name of a variable: take letters, digits and _" ;;
esac
if [ $single = false ] && [ $combined = false ]; then
	single=true
	combined=true
fi

# in_place is whether the options go into the subnet file. What it says of DOCKER_OPTS is
# then what this script wrote there before, and not to be added to.
in_place=false
eval "given=\$$key"
[ ! -d "$subnet_file" ] || fail "-f '$subnet_file' is a folder: name the subnet file in it"
if [ -e "$subnet_file" ]; then
	case $subnet_file in
	*/*) ;;
	*) subnet_file=./$subnet_file ;; # else it would be looked for in PATH
	esac
	# shellcheck source=/dev/null # it is made by flanneld
	. "$subnet_file" || fail "reading $subnet_file failed"
	# shellcheck disable=SC3013 # dash, bash and busybox have it
	if [ -f "$output" ] && [ "$output" -ef "$subnet_file" ]; then
		in_place=true
		# shellcheck disable=SC2154 # eval sets given
		eval "$key=\$given"
	fi
fi

# shellcheck disable=SC2034 # they are found by their prefix
{
	[ -z "$FLANNEL_SUBNET" ] || DOCKER_OPT_BIP=--bip=$FLANNEL_SUBNET
	if [ -n "$FLANNEL_IPV6_SUBNET" ]; then
		DOCKER_OPT_IPV6=--ipv6
		DOCKER_OPT_FIXED_CIDR_V6=--fixed-cidr-v6=$FLANNEL_IPV6_SUBNET
	fi
	[ -z "$FLANNEL_MTU" ] || DOCKER_OPT_MTU=--mtu=$FLANNEL_MTU
	if $with_ipmasq; then
		case $FLANNEL_IPMASQ in
		'') ;;
		true) DOCKER_OPT_IPMASQ=--ip-masq=false ;; # flanneld does it
		false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
		*) fail "FLANNEL_IPMASQ is '$FLANNEL_IPMASQ' in $subnet_file: it has to be true or false" ;;
		esac
	fi
}

# line prints an assignment that a shell and systemd read alike.
line() {
	printf '%s="%s"\n' "$1" "$(printf '%s\n' "$2" | sed 's/[\\"$`]/\\&/g')"
}

eval "all=\$$key"
[ -z "$all" ] || all="$all "
text=
# A line of another variable's value may look like one of these: it is not set then.
# shellcheck disable=SC2154 # eval sets is_set and value
for name in $(set | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | LC_ALL=C sort -u); do
	eval "is_set=\${$name+yes} value=\$$name"
	[ "$is_set" ] || continue
	if $single; then
		text="$text$(line "$name" "$value")
"
	fi
	all="$all $value"
done
if $combined; then
	text="$text$(line "$key" "$all")
"
fi

if $in_place; then
	replaced=
	! $single || replaced='/^DOCKER_OPT_[A-Za-z0-9_]*=/d;'
	! $combined || replaced="$replaced/^$key=/d"
	kept=$(sed "$replaced" "$subnet_file") || fail "reading $subnet_file failed"
	[ -z "$kept" ] || text="$kept
$text"
fi

# A reader sees the old options or the new ones, never a part of them. What is no plain
# file, such as /dev/stdout, must not be replaced by one.
if [ -L "$output" ] || { [ -e "$output" ] && [ ! -f "$output" ]; }; then
	printf %s "$text" >"$output" || fail "writing $output failed"
	exit
fi
temp=$(mktemp "$output.XXXXXX") || fail "writing $output failed"
# mktemp lets nobody else read it. This lets those whom the umask does.
if ! printf %s "$text" >"$temp" || ! chmod '=rw' "$temp" || ! mv -f "$temp" "$output"; then
	rm -f "$temp"
	fail "writing $output failed"
fi
