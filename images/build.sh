#!/bin/bash
# build.sh [init|proxy|control|shop]...   Builds container images from scratch, without an engine, a registry or root:
# static binaries, packed as the Containerfiles say. Without names: init, proxy and control.
# Writes NAME.tar (docker load, podman load, ctr images import) and NAME.spdx.json into target/images, and prints sizes and digests.
# The same commit gives the same digests wherever it is built with the same Rust and Debian (see reproduce.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
export PATH=$PATH:/usr/sbin:/sbin SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
registry=${REMORA_IMAGE_REGISTRY:-localhost/remora}
target=$(readlink -m "${CARGO_TARGET_DIR:-target}")
out=$target/images
platform=x86_64-unknown-linux-gnu
[ $# -gt 0 ] || set -- init proxy control

package() { # the crate of an image
  case $1 in
    init | proxy | control | shop) echo "remora-$1" ;;
    *) echo "build.sh: no image $1 (there are init, proxy, control, shop)" >&2; exit 2 ;;
  esac
}
program() { if [ "$1" = control ]; then echo remora; else echo "remora-$1"; fi; }
# Features are those that all of these ask for, whichever are wanted: so the proxy is the same, and the profile of its load is of it.
packages=(-p remora-init -p remora-proxy -p remora-control) programs=()
for image in "$@"; do
  package "$image" >/dev/null
  packages+=(-p "$(package "$image")") programs+=(--bin "$(program "$image")")
done

# Where things lie on this machine is no part of a binary: neither rustc's paths nor the C compiler's. rustc is told by a wrapper (rustc.sh), since
# cargo builds everything anew where RUSTFLAGS change: so a second clone reuses what the first one built of the dependencies.
home=${CARGO_HOME:-$HOME/.cargo}
REMORA_PATHS="--remap-path-prefix=$PWD=/remora --remap-path-prefix=$target=/target"
REMORA_PATHS+=" --remap-path-prefix=$home=/cargo --remap-path-prefix=$(rustc --print sysroot)=/rust"
export REMORA_PATHS
# This and the profile of the load are added to the flags of .cargo/config.toml, which RUSTFLAGS would replace.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
static="build.rustflags = ['-Ctarget-feature=+crt-static']"
. bench/by_profile.sh
by_profile
c_flags="-ffile-prefix-map=$target=/target -ffile-prefix-map=$home=/cargo"
build() {
  CFLAGS=$c_flags CXXFLAGS=$c_flags CARGO_INCREMENTAL=0 \
    ${CARGO:-cargo} "$@" --config "$static" "${by[@]}" --locked --target "$platform" "${packages[@]}"
}
build build --profile image "${programs[@]}"
tree=$(build tree -q --prefix depth -e normal,no-proc-macro --format '|{p}|{l}')
version=$(${CARGO:-cargo} pkgid -p "$(package "$1")"); version=${version##*[@#]}

# iptables, both variants: the multi-call binaries, what they are linked with, their extensions. Of Debian, as they are.
iptables() {
  local file
  for file in xtables-nft-multi xtables-legacy-multi; do
    file=$(command -v "$file") || { echo "build.sh: no iptables here (apt-get install iptables)" >&2; return 1; }
    echo "$file"
    ldd "$file" | grep -oE '/[^ ]+'
  done | sort -u
  # They are looked for under /usr, also where /lib is the same folder.
  find "/usr/lib/$(uname -m)-linux-gnu/xtables" -name '*.so' | sort
}

for image in "$@"; do
  context=$out/context/$image
  rm -rf "$context"
  mkdir -p "$context"
  cp "$target/$platform/image/$(program "$image")" "$context/"
  cp LICENSE "$context/"
  debian=(/usr/lib/x86_64-linux-gnu/libc.a)
  containerfile=images/$image.Containerfile
  if [ "$image" = shop ]; then containerfile=examples/shop/kubernetes/Containerfile; fi
  if [ "$image" = init ]; then
    files=$(iptables)
    mapfile -t files <<<"$files"
    for file in "${files[@]}"; do install -D "$file" "$context/iptables$file"; done
    debian+=("${files[@]}")
  fi
  read -r digest bytes < <(python3 images/pack.py "$containerfile" "$context" "$registry/$image:$version" "$out/$image.tar" "VERSION=$version")
  contents=$(python3 images/sbom.py "$(package "$image")" "$registry/$image" "$version" "$out/$image.spdx.json" "${debian[@]}" <<<"$tree")
  printf '%-32s %6.1f MB  %s  (%s)\n' "$registry/$image:$version" "$((bytes / 100000))e-1" "$digest" "$contents"
done
