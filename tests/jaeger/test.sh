#!/bin/bash
# The joined trace in a real Jaeger: one request through the whole shop, its spans fetched back from Jaeger's HTTP API,
# their number, parents, kinds and services asserted. SKIPPED where Jaeger neither is built nor can be.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "${JAEGER:-}" ]; then
    code=0
    "$here/build.sh" || code=$?
    case $code in
        0) ;;
        3) echo "SKIPPED test-jaeger: no Jaeger here (see above)"; exit 0 ;;
        *) exit "$code" ;;
    esac
fi
exec "$here/../../examples/shop/demo.sh" --test-jaeger
