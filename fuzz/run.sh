#!/usr/bin/env bash
# run.sh SECONDS [TARGET...]   Fuzzes each target for that long, from the inputs in seeds/. New ones are kept in corpus/,
# which belongs to the machine; what breaks something is kept in artifacts/, and ends the run.
#   SEED=N  begins with this number instead of chance: the same inputs for the same code
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:$HOME/.cargo/bin
seconds=$1
shift
command -v cargo-fuzz >/dev/null || ${CARGO:-cargo} install --locked cargo-fuzz
export RUSTC_BOOTSTRAP=1
# Safe Rust needs no address sanitizer: without it building takes half the time, and running less.
fuzz() { local what=$1; shift; ${CARGO:-cargo} fuzz "$what" --dev --sanitizer none "$@"; }
targets=("$@")
if [ $# -eq 0 ]; then
  mapfile -t targets < <(${CARGO:-cargo} fuzz list)
  fuzz build
fi
for target in "${targets[@]}"; do
  inputs=("corpus/$target")
  mkdir -p "${inputs[0]}"
  case $target in
    yaml) inputs+=(../config/tests/goldens) ;;
    manifest) inputs+=(../control/tests/inject) ;;
    *) inputs+=("seeds/$target") ;;
  esac
  flags=(-max_total_time="$seconds" -verbosity=0 -print_final_stats=1)
  [ -z "${SEED:-}" ] || flags+=(-seed="$SEED")
  dict=$target.dict
  [ "$target" != connection ] || dict=http1.dict
  [ ! -e "$dict" ] || flags+=(-dict="$dict")
  echo "== fuzzing $target for $seconds s"
  fuzz run "$target" "${inputs[@]}" -- "${flags[@]}"
done
