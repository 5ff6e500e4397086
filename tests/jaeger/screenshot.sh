#!/bin/bash
# Photographs one request's trace in the real Jaeger for the README: docs/images/jaeger-trace.png.
# Needs `make jaeger`, a demo that is up (`make demo KEEP=1`) and chromium (apt-get install chromium).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=$here/../../docs/images/jaeger-trace.png
jaeger=http://10.77.0.4:16686
trace=$(curl -sf http://10.77.0.2:8080/products | sed -n 's/.*"traceparent":"00-\([0-9a-f]*\)-.*/\1/p')
echo "trace $trace"
# All spans are there when the page is opened: it does not ask again.
until [ "$(curl -s "$jaeger/api/traces/$trace" | grep -o '"operationName"' | wc -l)" -ge 7 ]; do sleep 0.2; done
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
mkdir -p "$(dirname "$into")"
chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --user-data-dir="$profile" \
    --window-size=1400,460 --force-device-scale-factor=1.5 --virtual-time-budget=20000 \
    --screenshot="$into" "$jaeger/trace/$trace" 2>/dev/null
ls -l "$into"
