#!/bin/sh
# Prints the path of a Go program in exactly the version that is asked for
# (MODULE/PATH@VERSION), and installs it first where it isn't there.
set -eu

package=${1%@*}
version=${1#*@}
folder=$(go env GOBIN)
[ -n "$folder" ] || folder=$(go env GOPATH)/bin
file=$folder/$(basename "$package")

# The third field of the line "mod" is the version.
have=$(go version -m "$file" 2>/dev/null | awk '$1 == "mod" { print $3 }' || true)
if [ "$have" != "$version" ]; then
	echo "tool: installing $1" >&2
	CGO_ENABLED=0 go install "$1" >&2
fi
echo "$file"
