#!/usr/bin/env bash
# Counts instructions per request through two sidecars and compares them with bench/instructions.json. Root; a few minutes,
# most of them building once. Fails, too, when functions are not found any more by the names in proxy/startup.ld.
#   RECORD=1  the file takes the new counts        REMORA_BIN_DIR=FOLDER  counts release binaries that are there already
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
"$here/../tests/packages.sh"
command -v valgrind >/dev/null || "$here/../tests/packages.sh" valgrind

bins=${REMORA_BIN_DIR:-}
if [ -z "$bins" ]; then
  "$here/release.sh"
  bins=${CARGO_TARGET_DIR:-$here/../target}/release
fi
python3 "$here/startup.py" --check "$bins/remora-proxy"
REMORA_BIN_DIR=$bins exec "$bins/remora-instructions" --file "$here/instructions.json" ${RECORD:+--record}
