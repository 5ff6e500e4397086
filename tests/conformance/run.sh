#!/bin/bash
# run.sh [--cached] [SUITE...]   The conformance suites through one sidecar and through the whole chain (root).
# Compares with docs/conformance.md; WRITE=1 writes it. With --cached, suites whose peer takes minutes to make and is not
# there are SKIPPED.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
cached=()
if [ "${1:-}" = --cached ]; then cached=(--cached); shift; fi
"$here/build.sh" "${cached[@]}"
export REMORA_CONFORMANCE=${XDG_CACHE_HOME:-$HOME/.cache}/remora/conformance
[ -z "${WRITE:-}" ] || export REMORA_CONFORMANCE_WRITE=1
cd "$here/../.."
# One after another: the suites' own time limits are short.
exec "${CARGO:-cargo}" test --locked --workspace --test conformance -- --nocapture --test-threads=1 "$@"
