#!/usr/bin/env bash
# A flame graph (SVG) of both sidecars of Remora under the load of each scenario: perf samples by the clock. Root; five minutes.
#   SECS=4    seconds of load        ONLY=h1-mtls,...    some scenarios
# Writes target/profile/SCENARIO.svg.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
. "$here/build.sh"
command -v perf >/dev/null || "$here/../tests/packages.sh" linux-perf
exec "$bins/remora-bench" profile --seconds "${SECS:-4}" --output "$target/profile" ${ONLY:+--only "$ONLY"}
