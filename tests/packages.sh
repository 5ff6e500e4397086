#!/usr/bin/env bash
# packages.sh [PACKAGE...]   Installs the Debian packages that the tests use, as far as they are missing, and says which.
# With names, installs those.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

# command -> package
needed=(
  ip:iproute2 iptables:iptables curl:curl h2load:nghttp2-client nghttpd:nghttp2-server iperf3:iperf3
  openssl:openssl faketime:faketime tcpdump:tcpdump strace:strace setpriv:util-linux python3:python3 conntrack:conntrack jq:jq ps:procps wrk:wrk slowhttptest:slowhttptest
  xz:xz-utils
)
missing=("$@")
if [ $# -eq 0 ]; then
  for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "these Debian packages are needed, and only root can install them: ${missing[*]}" >&2
  exit 1
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# What is installed here is started by the tests, never by Debian.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
