#!/bin/sh
# Runs a command as root: as it is where we are root, else as root of a user
# namespace of its own, which is enough for the lab. Where that is forbidden
# the command runs as it is, and the lab's tests say why they can't.
set -eu

PATH="$PATH:/usr/sbin:/sbin"
export PATH
if [ "$(id -u)" = 0 ]; then
	exec "$@"
fi
if unshare --user --map-root-user --mount --net true 2>/dev/null; then
	# ip netns wants /run of its own, and a loopback that is up.
	# shellcheck disable=SC2016 # the inner shell expands it
	exec unshare --user --map-root-user --mount --net sh -c \
		'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' as-root "$@"
fi
exec "$@"
