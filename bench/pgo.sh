#!/usr/bin/env bash
# Writes anew how often what runs under load: bench/profiles, by which releases and images are built (by_profile.sh). remora-proxy is built with counters, which the
# load of each scenario fills. Root; a build that takes a little longer than a release's, and two minutes of load.
#   SECS=2    seconds of load of each scenario        REMORA_BIN_DIR=FOLDER    takes from there what makes the load
# Functions that changed since are compiled without a profile: so once in a while is enough, and with each new compiler. What follows: bench/startup.sh
# (other functions are inlined), and RECORD=1 make bench-instructions.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/usage.sh"
. "$here/build.sh"
out=$(readlink -m "$target")/pgo
bins=$(readlink -f "$bins")

# The compiler's own, where rustup was asked for llvm-tools, or Debian's, which reads what Rust 1.95 writes.
profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
[ -x "$profdata" ] || profdata=llvm-profdata-19
command -v "$profdata" >/dev/null || "$here/../tests/packages.sh" llvm-19

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What runs while building has counters, too, and keeps none.
CARGO_TARGET_DIR=$out REMORA_COUNTING=1 LLVM_PROFILE_FILE=/dev/null "$here/release.sh" --bin remora-proxy
rm -rf "$out/bins"
mkdir -p "$out/bins" "$work/counts"
find "$bins" -maxdepth 1 -type f -name 'remora-*' -executable ! -name remora-proxy -exec cp -t "$out/bins" {} +
cp "$out/release/remora-proxy" "$out/bins/"
# Written by the proxy's user, at the end of each sidecar.
chmod 755 "$work"
chmod 777 "$work/counts"
LLVM_PROFILE_FILE=$work/counts/%m.profraw REMORA_BIN_DIR=$out/bins "$out/bins/remora-bench" train --seconds "${SECS:-2}" --output "$out"
"$profdata" merge --sparse --text -o "$work/all" "$work/counts"/*.profraw
python3 "$here/hot.py" <"$work/all" >"$work/hot"
"$profdata" merge -o "$work/release.profdata" "$work/hot"
xz -9e "$work/release.profdata"
mv "$work/release.profdata.xz" "$here/profiles/"
rustc -vV >"$here/profiles/rustc"
ls -l "$here/profiles"
