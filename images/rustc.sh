#!/bin/bash
# rustc.sh RUSTC ARGUMENTS...   rustc without this machine's paths in what it makes. For build.sh, as cargo's RUSTC_WRAPPER.
# shellcheck disable=SC2086 # several flags
exec "$@" $REMORA_PATHS
