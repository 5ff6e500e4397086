#!/usr/bin/env bash
# What a request costs as there are more connections, endpoints, outbound entries and workers: Remora alone, mTLS. Root; five minutes.
#   SECS=4    seconds of load a point        ONLY=connections,entries    some curves, kept out of the repository
# Writes bench/scale.json and docs/bench-scale.svg.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
. "$here/build.sh"
output=(--output "$here" --picture "$here/../docs/bench-scale.svg")
[ -z "${ONLY:-}" ] || output=(--output "$target/bench" --only "$ONLY")
# The load opens as many connections as it is told.
ulimit -n "$(ulimit -Hn)"
exec "$bins/remora-bench" scale --seconds "${SECS:-4}" "${output[@]}"
