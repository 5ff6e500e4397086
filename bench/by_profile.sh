# Sourced by what builds a release or images. by_profile: in $by, what cargo is told so that it builds by bench/profiles: how often what ran under
# load, which `make pgo` counts. That knows functions by the names that one compiler gives them on one platform: others build without it.
#   REMORA_COUNTING=1   what is built counts (for `make pgo`)
by_profile() {
  local profiles target file unpacked
  profiles=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/profiles
  target=$(readlink -m "${CARGO_TARGET_DIR:-$profiles/../../target}")
  file=$profiles/release.profdata.xz
  by=()
  # By this a function has the same name in each kind of build.
  export RUSTC_WRAPPER=$profiles/../../images/rustc.sh
  if [ -n "${RUSTFLAGS:-}${CARGO_ENCODED_RUSTFLAGS:-}" ]; then
    without "RUSTFLAGS are set, and replace those that ask for it"
  elif [ -n "${REMORA_COUNTING:-}" ]; then
    by=(--config "build.rustflags = ['-Cprofile-generate']")
  elif [ ! -e "$file" ]; then
    without "there is none"
  elif ! rustc -vV | cmp -s - "$profiles/rustc"; then
    without "it is of $(head -n 1 "$profiles/rustc") on $(sed -n 's/^host: //p' "$profiles/rustc")"
  elif ! command -v xz >/dev/null; then
    without "nothing here unpacks it (apt-get install xz-utils)"
  else
    # Named by what it holds, so that cargo builds anew when that changes.
    unpacked=$target/profiles/$(sha256sum <"$file" | cut -c 1-16).profdata
    if [ ! -e "$unpacked" ]; then
      mkdir -p "$target/profiles"
      xz -dc "$file" >"$unpacked.$$"
      mv "$unpacked.$$" "$unpacked"
    fi
    # What changed since is built without it, as is what is new.
    by=(--config "build.rustflags = ['-Cprofile-use=$unpacked', '-Cllvm-args=-no-pgo-warn-mismatch']")
  fi
}
without() { echo "building without the profile of the load: $1" >&2; }
