#!/usr/bin/env bash
# Counts instructions per request through two sidecars and compares them with bench/instructions.json. Root; a few minutes,
# most of them building once. Fails, too, when functions are not found any more by the names in proxy/startup.ld.
#   RECORD=1  the file takes the new counts
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
"$here/../tests/packages.sh"
command -v valgrind >/dev/null || "$here/../tests/packages.sh" valgrind

cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$here/../target}
echo "building (release, with link-time optimisation)"
(cd "$here/.." && "$cargo" build --locked --release -p remora-proxy -p remora-init -p remora-certs -p remora-test --bins)
python3 "$here/startup.py" --check "$target/release/remora-proxy"
REMORA_BIN_DIR="$target/release" exec "$target/release/remora-instructions" --file "$here/instructions.json" ${RECORD:+--record}
