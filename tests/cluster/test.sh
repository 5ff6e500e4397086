#!/bin/bash
# test.sh [--cached] [api]   What needs a real Kubernetes.
# First its API server alone: TokenReview, the keys of its service-account issuer, and `remora check cluster`. Then a whole cluster of one node, with the images of
# `make images` and the shop's pods in it (root); with `api` not that. KEEP=FOLDER leaves that cluster up in FOLDER, or takes the one that is there.
# SKIPPED where Kubernetes neither is built nor can be.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
available() { # part, flags
  local code=0
  bin=$("$here/build.sh" "${@:2}" "$1") || code=$?
  case $code in
    0) return ;;
    3) echo "SKIPPED test-cluster, $1: no Kubernetes here (see above)"; return 1 ;;
    *) exit "$code" ;;
  esac
}
cd "$here/../.."
only=
if [ "${*: -1}" = api ]; then only=api; set -- "${@:1:$#-1}"; fi
if available api "$@"; then
  echo "Kubernetes in $bin"
  REMORA_CLUSTER=required ${CARGO:-cargo} test --locked --workspace --test authority kubernetes:: -- --nocapture
  REMORA_CLUSTER=required ${CARGO:-cargo} test --locked --workspace --test check cluster:: -- --nocapture
fi
[ -z "$only" ] || exit 0
available node "$@" || exit 0
./images/build.sh init proxy control shop
folder=${KEEP:-$(mktemp -d /tmp/remora-cluster-XXXXXX)}
if [ -z "${KEEP:-}" ]; then
  trap '"$here/run.sh" down "$folder"; rm -rf "$folder"' EXIT
fi
[ -e "$folder/slot" ] || CLUSTER_OWNER=$([ -n "${KEEP:-}" ] || echo $$) "$here/run.sh" node "$folder"
export REMORA_CLUSTER_NODE=$folder REMORA_IMAGES=${CARGO_TARGET_DIR:-$PWD/target}/images
suite() { ${CARGO:-cargo} test --locked --workspace --test cluster -- --nocapture "$@"; }
suite --skip uninstall::
REMORA_CLUSTER_UNINSTALL=1 suite uninstall::
