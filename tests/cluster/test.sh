#!/bin/bash
# What needs a real Kubernetes API server: TokenReview and the keys of its service-account issuer.
# SKIPPED where it neither is built nor can be.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
code=0
bin=$("$here/build.sh" "$@" api) || code=$?
case $code in
    0) echo "Kubernetes in $bin" ;;
    3) echo "SKIPPED test-cluster: no Kubernetes here (see above)"; exit 0 ;;
    *) exit "$code" ;;
esac
cd "$here/../.."
REMORA_CLUSTER=required ${CARGO:-cargo} test --locked -p remora-test --test authority kubernetes:: -- --nocapture
