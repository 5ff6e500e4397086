#!/usr/bin/env bash
# release.sh [--bin NAME]   Builds what is released and what measures it, into target/release, by the profile of the load.
# What crates are called within a program hangs together with what is built beside it, and by that the profile knows them: so it is always all of these.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/by_profile.sh"
by_profile release
[ $# -gt 0 ] || set -- --bins
echo "building (release, with link-time optimisation)"
cd "$here/.."
"${CARGO:-cargo}" build --locked --release "${by[@]}" -p remora-proxy -p remora-init -p remora-certs -p remora-test -p remora-relay "$@"
