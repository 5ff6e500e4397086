#!/usr/bin/env bash
# Measures Remora beside Envoy, HAProxy, a bare relay and no proxy at all, in one run. Root; half an hour, and building once.
#   SECS=6    seconds of load a round        ROUNDS=3    rounds of each
#   ONLY=h1-mtls,tcp-plain    some scenarios (`handshakes` and `ca` are two more); the kept results stay as they are
# Writes bench/{results.json,rounds.json,RESULTS.md} and docs/bench.svg.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
. "$here/build.sh"
output=(--output "$here" --picture "$here/../docs/bench.svg")
[ -z "${ONLY:-}" ] || output=(--output "$target/bench" --only "$ONLY")
exec "$bins/remora-bench" run --envoy "$envoy" --seconds "${SECS:-6}" --rounds "${ROUNDS:-3}" "${output[@]}"
