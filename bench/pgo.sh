#!/usr/bin/env bash
# Builds remora-proxy twice: with counters, which the load of each scenario fills, and then by what they counted (profile-guided optimisation).
# Root; two release builds of everything, and two minutes of load.
#   SECS=2    seconds of load of each scenario
# Leaves in target/pgo the profile and, in bins, the binaries that are measured: REMORA_BIN_DIR=$PWD/target/pgo/bins make bench. The profile is of
# one compiler, one Cargo.lock and one source: a function that has changed since is compiled without it. So it is made anew each time, not kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/build.sh"
out=$(readlink -m "$target")/pgo
bins=$(readlink -f "$bins")

# The compiler's own, where rustup was asked for llvm-tools, or Debian's, which reads what Rust 1.95 writes.
profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$profdata" ] || profdata=llvm-profdata-19
command -v "$profdata" >/dev/null || "$here/../tests/packages.sh" llvm-19

proxy() { # a folder's name, and a flag: remora-proxy with the features that it has beside the others
  # What runs while building has counters, too, and keeps none.
  (cd "$here/.." && CARGO_TARGET_DIR=$out/$1 LLVM_PROFILE_FILE=/dev/null RUSTFLAGS="-Csymbol-mangling-version=v0 $2" "$cargo" build --locked \
    --release -p remora-proxy -p remora-init -p remora-certs -p remora-test -p remora-relay --bin remora-proxy)
  rm -f "$out/bins/remora-proxy"
  cp "$out/$1/release/remora-proxy" "$out/bins/"
}

rm -rf "$out/bins" "$out/optimised"
mkdir -p "$out/bins"
find "$bins" -maxdepth 1 -type f -name 'remora-*' -executable ! -name remora-proxy -exec cp -t "$out/bins" {} +
echo "building (release, with counters)"
proxy counting -Cprofile-generate
# Written by the proxy's user, at the end of each sidecar.
counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
chmod 777 "$counts"
LLVM_PROFILE_FILE=$counts/%m.profraw REMORA_BIN_DIR=$out/bins "$out/bins/remora-bench" train --seconds "${SECS:-2}" --output "$out"
"$profdata" merge --sparse -o "$out/remora.profdata" "$counts"/*.profraw
echo "building (release, by what was counted)"
proxy optimised "-Cprofile-use=$out/remora.profdata"
echo "$out/bins/remora-proxy"
