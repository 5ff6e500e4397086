#!/usr/bin/env bash
# Writes proxy/startup.ld anew: the names of the functions that run in a sidecar until it is ready, and while it has nothing to do. The linker
# puts them together (see proxy/build.rs), and most of the other code is never read into an idle sidecar's memory. Root; once in a while, and
# for each version that is published: compilers inline otherwise, and other functions run. CI fails when too few are found (startup.py --check).
#   IMAGE=FILE    a container image's remora-proxy, built with CARGO_PROFILE_IMAGE_STRIP=none, whose functions are named too
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
export PATH=$PATH:/usr/sbin:/sbin
command -v valgrind >/dev/null || "$here/../tests/packages.sh" valgrind
bins=${REMORA_BIN_DIR:-}
if [ -z "$bins" ]; then
  "$here/release.sh"
  bins=${CARGO_TARGET_DIR:-$here/../target}/release
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bins/remora-certs" init --dir "$work/ca" --trust-domain example.org >/dev/null
"$bins/remora-certs" issue --ca "$work/ca" --id spiffe://example.org/ns/test/sa/one --out "$work/tls" >/dev/null
cat >"$work/remora.yaml" <<YAML
service: {name: one, namespace: test}
mtls: {trust_domain: example.org, certificate: $work/tls/cert.pem, key: $work/tls/key.pem, trust_bundle: $work/tls/bundle.pem}
workers: 2
drain_timeout: 0
outbound:
  - {host: "server:8080", addresses: [10.77.0.3], endpoints: ["10.77.0.3:8080"]}
inbound: {mtls: strict, ports: [{port: 8080}]}
tracing: {endpoint: "http://10.77.0.4:4317", sampling: 0.01}
YAML

# In a namespace of its own, whose ports are free. Workers look once a second whether they have memory to give back.
count() { # a program, and where the counts go
  program=$1 out=$2 work=$work unshare --net bash -euc '
    ip link set lo up
    valgrind --tool=callgrind --demangle=no --callgrind-out-file="$out" "$program" --config "$work/remora.yaml" 2>"$work/log" &
    trap "kill $!; wait $!" EXIT
    "$program" wait || { cat "$work/log" >&2; exit 1; }
    sleep 10
    callgrind_control --dump $! >/dev/null 2>&1
    until [ -s "$out.1" ] && tail -n 1 "$out.1" | grep -q ^totals; do sleep 0.1; done
  '
}
count "$bins/remora-proxy" "$work/release"
[ -z "${IMAGE:-}" ] || count "$IMAGE" "$work/image"
python3 "$here/startup.py" "$work"/*.1 >"$work/startup.ld"
mv "$work/startup.ld" "$here/../proxy/startup.ld"
echo "proxy/startup.ld: $(wc -l <"$here/../proxy/startup.ld") lines"
