#!/usr/bin/env bash
# Counts instructions per request through two sidecars and compares them with bench/instructions.json. Root; a few minutes,
# most of them building once. Fails, too, when functions are not found any more by the names in proxy/startup.ld.
#   RECORD=1  the file takes the new counts, and what metrics cost: two more proxies are built for that, a quarter of an hour
#   REMORA_BIN_DIR=FOLDER  counts release binaries that are there already
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
export PATH=$PATH:/usr/sbin:/sbin
"$here/../tests/packages.sh"
command -v valgrind >/dev/null || "$here/../tests/packages.sh" valgrind

target=${CARGO_TARGET_DIR:-$here/../target}
bins=${REMORA_BIN_DIR:-}
if [ -z "$bins" ]; then
  "$here/release.sh"
  bins=$target/release
fi
python3 "$here/startup.py" --check "$bins/remora-proxy"
count() { REMORA_BIN_DIR=$1 "$bins/remora-instructions" --file "$here/instructions.json" "${@:2}"; }
count "$bins" ${RECORD:+--record}
[ -n "${RECORD:-}" ] || exit 0

# What metrics cost: two proxies more, one of which has none. Both are built without the profile, which knows the functions of the usual one alone.
both=$(readlink -m "$target/metrics")
for name in with without; do
  features=()
  [ $name = with ] || features=(--features remora-proxy/uncounted)
  echo "building a proxy $name metrics (release, without the profile of the load)"
  (cd "$here/.." && "${CARGO:-cargo}" build --locked --release -p remora-proxy --bin remora-proxy --target-dir "$both" "${features[@]}")
  mkdir -p "$both/$name"
  find "$bins" -maxdepth 1 -type f -name 'remora-*' -executable -exec cp -t "$both/$name" {} +
  cp "$both/release/remora-proxy" "$both/$name/"
done
count "$both/with" --counts "$both/with.json"
count "$both/without" --uncounted "$both/with.json"
