#!/bin/bash
# rustc.sh RUSTC ARGUMENTS...   rustc without this machine's paths (REMORA_PATHS) in what it makes, and where a crate is known by its name and by the
# version that others can be compatible with. For cargo, as RUSTC_WRAPPER: it would say by a hash of all that a crate is compiled with which one
# is meant, and functions would be called otherwise in each kind of build. So one profile of the load (bench/by_profile.sh) is of all of them.
# shellcheck disable=SC2086 # several flags
[[ ${CARGO_PKG_VERSION:-} =~ ^(0\.)*[0-9]+ ]]
exec "${@/#metadata=*/metadata=${CARGO_PKG_NAME:-}-${BASH_REMATCH[0]:-}}" ${REMORA_PATHS:-}
