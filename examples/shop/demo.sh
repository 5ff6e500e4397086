#!/bin/bash
# The demo: looks whether this machine has what it takes, installs the little that is missing, builds, and hands over to
# remora-demo.
#   demo.sh                 everything          (KEEP=1 leaves the mesh up, JAEGER=URL uses a Jaeger that runs already)
#   demo.sh --down          takes down what KEEP=1 left
#   demo.sh --test-jaeger   the trace only, from a real Jaeger or not at all
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
what=demo
. "$here/prepare.sh"
demo=$target/debug/remora-demo

if [ "${1:-}" = --down ]; then
    [ -x "$demo" ] || build
    exec "$demo" down
fi

[ ! -e /var/lib/remora-demo/kept ] || fail "A demo is still up from \`make demo KEEP=1\`." "make demo-down"
printf '\n%sRemora%s  a shop of three plain applications in a service mesh on this machine\n\n' "$bold" "$plain"
install_missing
build
arguments=(run --config "$here/config")
[ -z "${JAEGER:-}" ] || arguments+=(--jaeger "$JAEGER")
case ${KEEP:-} in '' | 0 | no) ;; *) arguments+=(--keep) ;; esac
[ "${1:-}" != --test-jaeger ] || arguments+=(--trace-only --need-jaeger)
exec "$demo" "${arguments[@]}"
