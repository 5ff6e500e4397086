#!/bin/bash
# Builds the real SPIRE, once a machine, into ~/.cache/remora/spire: spire-server, spire-agent, and version, what they are.
# SPIRE cannot be fetched with `go install` (its go.mod has replacements): the go.mod and go.sum beside this script
# require it, and pin every dependency.
# Exit codes: 0 it is there, 1 the build failed, 3 this machine has no Go that could build it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=${XDG_CACHE_HOME:-$HOME/.cache}/remora/spire
module=github.com/spiffe/spire

wanted=$(sed -n "s|^\s*$module \(v[0-9.]*\).*|spire \1|p" "$here/go.mod")
built() { [ -x "$into/spire-server" ] && [ -x "$into/spire-agent" ] && [ "$(cat "$into/version" 2>/dev/null)" = "$wanted" ]; }
if built; then
    echo "SPIRE is built: $into"
    exit 0
fi

needs=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$here/go.mod")
if ! command -v go >/dev/null; then
    echo "SPIRE needs Go $needs or newer to be built, and this machine has no go." >&2
    exit 3
fi
# `go version` in a module asks for the module's own toolchain; GOTOOLCHAIN=local asks for what is installed.
export GOTOOLCHAIN=local
has=$(cd / && go env GOVERSION | sed 's/^go//; s/[^0-9.].*//')
if [ "$(printf '%s\n%s\n' "$needs" "$has" | sort -V | head -1)" != "$needs" ]; then
    echo "SPIRE needs Go $needs or newer to be built, and this machine has Go $has." >&2
    exit 3
fi

mkdir -p "$into"
exec 9>"$into/.lock"
flock 9
if built; then exit 0; fi

echo "Building $wanted with Go $has: a quarter of an hour of processor time the first time …"
cd "$here"
for name in spire-server spire-agent; do
    go build -trimpath -ldflags='-s -w' -o "$into/$name.new" "$module/cmd/$name" 2> >(grep -v '^go: downloading' >&2)
    mv "$into/$name.new" "$into/$name"
done
printf '%s\n' "$wanted" >"$into/version"
echo "Built: $into"
