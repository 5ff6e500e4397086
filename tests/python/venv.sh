#!/bin/sh
# Makes the Python environment of the gRPC tests once, and prints its interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/remora"
venv="$cache/venv-$(cksum < "$here/requirements.txt" | cut -d' ' -f1)"
mkdir -p "$cache"
exec 9> "$cache/venv.lock"
flock 9
if [ ! -e "$venv/complete" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  : > "$venv/complete"
fi
echo "$venv/bin/python"
