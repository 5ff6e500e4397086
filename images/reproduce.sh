#!/bin/bash
# reproduce.sh [IMAGE...]   Builds the images of the last commit from two clones at different paths, each with a target folder of its own,
# and compares every byte: archives and SBOMs. Both builds are cold.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || set -- init proxy control
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
places=("$work/here" "$work/a/much/longer/way/to/there")
for place in "${places[@]}"; do
  git clone -q "$here/.." "$place"
  CARGO_TARGET_DIR=$place.target "$place/images/build.sh" "$@"
done
for image in "$@"; do
  for file in "$image.tar" "$image.spdx.json"; do
    cmp "${places[0]}.target/images/$file" "${places[1]}.target/images/$file" || { echo "FAILED $file differs"; exit 1; }
  done
  echo "ok   $image is the same from both"
done
