#!/bin/bash
# Builds the real Jaeger, with its real UI, once a machine, into ~/.cache/remora/jaeger:
#   jaeger    the binary          ui/    the UI's files          version    what they are
# Jaeger cannot be fetched with `go install` (its go.mod has replacements): the go.mod and go.sum beside this script
# require it, and pin every dependency.
# Exit codes: 0 it is there, 1 the build failed, 3 this machine has no Go that could build it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=${XDG_CACHE_HOME:-$HOME/.cache}/remora/jaeger
module=github.com/jaegertracing/jaeger
ui=github.com/tonistiigi/jaeger-ui-rest

# The demo finds all of Jaeger in one place; its configuration may be newer than the rest.
install -D -m644 "$here/jaeger.yaml" "$into/jaeger.yaml"
wanted=$(sed -n "s|^\s*$module \(v[0-9.]*\).*|jaeger \1|p; s|^\s*$ui \(v\S*\).*|ui \1|p" "$here/go.mod")
if [ -x "$into/jaeger" ] && [ "$(cat "$into/version" 2>/dev/null)" = "$wanted" ]; then
    echo "Jaeger is built: $into/jaeger"
    exit 0
fi

needs=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$here/go.mod")
if ! command -v go >/dev/null; then
    echo "Jaeger needs Go $needs or newer to be built, and this machine has no go." >&2
    exit 3
fi
# `go version` in a module asks for the module's own toolchain; GOTOOLCHAIN=local asks for what is installed.
export GOTOOLCHAIN=local
has=$(cd / && go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if [ "$(printf '%s\n%s\n' "$needs" "$has" | sort -V | head -1)" != "$needs" ]; then
    echo "Jaeger needs Go $needs or newer to be built, and this machine has Go $has." >&2
    exit 3
fi

mkdir -p "$into"
# Two builds at once would only take each other's processor: the second waits, and finds the first one's result.
exec 9>"$into/.lock"
flock 9
[ "$(cat "$into/version" 2>/dev/null)" = "$wanted" ] && exit 0

echo "Building $(head -1 <<<"$wanted") with Go $has: six minutes of work on two cores the first time …"
started=$SECONDS
cd "$here"
go build -trimpath -ldflags='-s -w' -o "$into/jaeger.new" "$module/cmd/jaeger" 2> >(grep -v '^go: downloading' >&2)
go mod download "$ui"
files=$(go list -m -f '{{.Dir}}' "$ui")/public
rm -rf "$into/ui.new"
# The module carries the UI's files compressed, under their plain names.
(cd "$files" && find . -type f) | while read -r file; do
    mkdir -p "$into/ui.new/$(dirname "$file")"
    gunzip <"$files/$file" >"$into/ui.new/$file"
done
rm -rf "$into/ui"
mv "$into/ui.new" "$into/ui"
mv "$into/jaeger.new" "$into/jaeger"
printf '%s\n' "$wanted" >"$into/version"
echo "Built in $((SECONDS - started)) s: $into/jaeger"
