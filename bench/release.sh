#!/usr/bin/env bash
# release.sh [--bin NAME]   Builds what is released and what measures it, into target/release, by the profile of the load.
# Crates have the features that all that is built together asks for, and a profile is of that code: so it is always all of these.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/by_profile.sh"
by_profile
[ $# -gt 0 ] || set -- --bins
echo "building (release, with link-time optimisation)"
cd "$here/.."
"${CARGO:-cargo}" build --locked --release "${by[@]}" -p remora-proxy -p remora-init -p remora-certs -p remora-test -p remora-relay "$@"
