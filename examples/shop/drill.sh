#!/bin/bash
# The drill: every certificate of a mesh is replaced under load, up to the root, and nothing may fail.
#   drill.sh            the control, which must fail, then the drill   (SECS=60 seconds of load, SWAPS=1000 swaps of files)
#   drill.sh --short    the same in less than a minute
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
what=drill
. "$here/prepare.sh"
drill=$target/debug/remora-drill

printf '\n%sRemora%s  a shop in a service mesh, every certificate of which is replaced under load\n\n' "$bold" "$plain"
install_missing
build

# --- The control: a drill that cannot fail proves nothing ---

say "control: the old root is dropped while a sidecar still has a certificate of it"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$drill" --config "$here/drill" --short --drop-early >"$log" 2>&1; then
    fail "Dropping the old root early went unnoticed." "$(tail -1 "$log")"
fi
last=$(tail -1 "$log")
if [[ ! $last =~ ^\ *failed\ requests:\ ([0-9]+),\ handshake\ errors:\ ([0-9]+),\ broken\ streams:\ [0-9]+$ ]] ||
    [ "${BASH_REMATCH[1]}" -eq 0 ] || [ "${BASH_REMATCH[2]}" -eq 0 ]; then
    cat "$log" >&2
    fail "The control failed for another reason than that requests and handshakes did."
fi
say "✔ it fails, as it must: ${last#"${last%%[! ]*}"}"

# --- The drill ---

arguments=(--secs "${SECS:-60}" --swaps "${SWAPS:-1000}")
[ "${1:-}" != --short ] || arguments=(--short)
"$drill" --config "$here/drill" "${arguments[@]}"
