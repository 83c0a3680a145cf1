#!/bin/sh
# Makes the Debian packages of both commands in $DIST (dist), for GOARCH (the
# host's), of VERSION (that of the tag, else of the commit).
set -eu
cd "$(dirname "$0")/.."

NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0
DIST=${DIST:-dist}

export CGO_ENABLED=0 GOOS=linux
GOARCH=$(go env GOARCH)
export GOARCH
ARCH=$GOARCH
[ "$GOARCH" != arm ] || ARCH=arm$(go env GOARM)

# The time of the commit goes into all that is dated: packages of one commit are alike.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
if [ -z "${VERSION:-}" ]; then
	VERSION=$(git describe --tags --match 'v[0-9]*' 2>/dev/null | sed -e 's/^v//' -e 's/-/+/g' || true)
fi
if [ -z "$VERSION" ]; then
	VERSION=0.0.0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$(git rev-parse --short=9 HEAD 2>/dev/null || echo none)
fi
MAINTAINER=${MAINTAINER:-The authors of rendezvous <maintainers@rendezvous.invalid>}
export ARCH VERSION MAINTAINER SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# nfpm runs here, where its configuration finds dist/stage and deploy.
stage=$work/dist/stage
cp -R deploy "$work/deploy"

# The licences of what is linked in, and of the Go library itself.
licences() {
	{
		echo "Go $(go env GOVERSION) $(go env GOROOT)"
		go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' "$1" | sort -u
	} | while read -r module version folder; do
		for file in "$folder"/LICENSE* "$folder"/COPYING* "$folder"/NOTICE*; do
			[ -f "$file" ] || continue
			printf '%s %s, %s\n\n' "$module" "$version" "$(basename "$file")"
			cat "$file"
			printf '\n----\n\n'
		done
	done
}

# A unit as the package has it: it runs the package's program.
installed() {
	sed -e 's,/usr/local/bin/,/usr/bin/,' -e '/^DynamicUser=/d' "deploy/$1"
}

# package NAME COMMAND FILES: NAME is also that of the unit, the user and the state folder.
package() {
	name=$1
	command=$2
	shift 2
	to=$stage/$name
	mkdir -p "$to/doc"
	go build -trimpath -ldflags "-s -w -X rendezvous/internal/ops.version=$VERSION" -o "$to/$command" "./cmd/$command"
	# For its --help one that runs here.
	if [ "$GOARCH" = "$(go env GOHOSTARCH)" ]; then
		ln "$to/$command" "$work/$command"
	else
		GOARCH='' go build -o "$work/$command" "./cmd/$command"
	fi
	scripts/man.sh "$work/$command" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)" "$@" | gzip -9n >"$to/$command.1.gz"

	# With a user that stays, for root joins before the service runs, and settings
	# may be made readable by that user alone.
	installed "$name.service" >"$to/$name.service"
	for script in postinst prerm postrm; do
		sed "s/@name@/$name/g" "deploy/debian/$script" >"$to/$script"
	done

	cp deploy/debian/copyright "$to/doc/copyright"
	licences "./cmd/$command" | gzip -9n >"$to/doc/third-party.gz"
	gzip -9nc CHANGELOG.md >"$to/doc/changelog.gz"
	{
		printf '%s (%s-1) unstable; urgency=medium\n\n  * changelog.gz says what is new.\n\n' "$name" "$VERSION"
		printf ' -- %s  %s\n' "$MAINTAINER" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
	} | gzip -9n >"$to/doc/changelog.Debian.gz"
	printf '# Go programs are.\n%s: statically-linked-binary\n' "$name" >"$to/overrides"
}

package rendezvous rendezvous /etc/rendezvous/rendezvous.yaml /var/lib/rendezvous
installed stripe.conf >"$stage/rendezvous/stripe.conf"
package rendezvous-agent agent /etc/rendezvous/agent.yaml /var/lib/rendezvous-agent
installed rendezvous-tun.service >"$stage/rendezvous-agent/rendezvous-tun.service"

# GOARCH is of the packages, the tool runs here.
nfpm=$(GOARCH='' scripts/tool.sh "$NFPM")
mkdir -p "$DIST"
DIST=$(cd "$DIST" && pwd)
cd "$work"
for config in deploy/nfpm-*.yaml; do
	"$nfpm" package --config "$config" --packager deb --target "$DIST/"
done
