#!/bin/sh
# Installs the programs that the tests and the demo run, when root on Debian.
# Elsewhere it names what is missing and goes on: unit tests need none of it.
# With CI=true a missing program is an error.
set -eu

# program:package
wanted="
wireguard-go:wireguard-go
wg:wireguard-tools
turnserver:coturn
turnutils_stunclient:coturn
iperf3:iperf3
nft:nftables
conntrack:conntrack
tcpdump:tcpdump
tshark:tshark
tinyproxy:tinyproxy-bin
setpriv:util-linux
curl:curl
ip:iproute2
sysctl:procps
ping:iputils-ping
ethtool:ethtool
nginx:nginx
sshd:openssh-server
ssh:openssh-client
openvpn:openvpn
ethtool:ethtool
debootstrap:debootstrap
dpkg-deb:dpkg
protoc:protobuf-compiler
gcc:gcc
miniupnpd:miniupnpd
"

missing() {
	for entry in $wanted; do
		command -v "${entry%:*}" >/dev/null || echo "${entry#*:}"
	done | sort -u | tr '\n' ' '
}

PATH="$PATH:/usr/sbin:/sbin"
packages=$(missing)
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	# The tests start servers themselves; none is to run because it was installed.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get update -q
	# libc6-dev comes with gcc only as a recommendation.
	case " $packages" in *" gcc "*) packages="$packages libc6-dev" ;; esac
	# shellcheck disable=SC2086 # a list of words
	apt-get install -q -y --no-install-recommends $packages
	packages=$(missing)
	[ -n "$packages" ] || exit 0
fi

echo "deps: these packages (by their Debian names) are missing: $packages" >&2
echo "deps: install them, or run make deps as root on Debian" >&2
[ "${CI:-}" != true ]
