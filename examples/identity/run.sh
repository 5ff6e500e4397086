#!/usr/bin/env bash
# An authority, a gateway and a sidecar on one machine: both get their certificates from `remora-certs serve` by a join token,
# a request goes through both, and then intermediate and root are rotated beneath them. Needs root (a network namespace),
# and Rust, or the binaries in REMORA_BIN_DIR. KEEP=1 leaves everything running until Ctrl-C.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "this makes a network namespace, so it runs as root" >&2; exit 1; }

if [ -n "${REMORA_BIN_DIR:-}" ]; then
  from=$REMORA_BIN_DIR
else
  echo "building ..."
  (cd "$root" && cargo build --quiet --locked --workspace --bins)
  from=${CARGO_TARGET_DIR:-$root/target}/debug
fi

pod=remora-identity
work=$(mktemp -d /var/tmp/remora-identity.XXXXXX)
started=()
finish() {
  local pid
  # What a function of this script started is the child of a shell.
  for pid in "${started[@]}"; do pkill -P "$pid" || kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  ip netns del $pod 2>/dev/null || true
  ip link del rid0 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Readable for the proxies' user, which a clone in root's home is not.
chmod 755 "$work"
mkdir "$work/bin"
install -m755 "$from"/remora-{certs,proxy,init,shop} "$work/bin"
PATH=$work/bin:$PATH
for name in door shop; do sed "s|/run/remora-identity|$work|; s|ca/bundle.pem|roots.pem|" "$here/$name.yaml" > "$work/$name.yaml"; done

in_pod() { ip netns exec $pod "$@"; }
as_proxy() { setpriv --reuid 1337 --regid 1337 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"; }
start() {
  "$@" >> "$work/log" 2>&1 &
  started+=($!)
}
wait_for() {
  local what=$1 i
  shift
  for ((i = 0; i < 300; i++)); do
    if "$@" > /dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "$what: not within 30 s; the log says:" >&2
  tail -20 "$work/log" >&2
  exit 1
}
show() { printf '\n$ %s\n' "$*"; "$@"; }

ip netns add $pod
ip link add rid0 type veth peer name eth0 netns $pod
ip addr add 10.78.0.1/30 dev rid0
ip link set rid0 up
ip -n $pod link set lo up
ip -n $pod addr add 10.78.0.2/30 dev eth0
ip -n $pod link set eth0 up

cd "$work"
show remora-certs init --dir ca --trust-domain shop.example
start remora-certs serve --dir ca --listen 10.78.0.1:15012 --admin 10.78.0.1:15013 --dns-name 10.78.0.1 --join-tokens --max-ttl 30s
wait_for "the authority" curl -fsS http://10.78.0.1:15013/ready
cp ca/bundle.pem roots.pem

for name in door shop; do
  echo "\$ remora-certs token --dir ca --id spiffe://shop.example/ns/shop/sa/$name > $name.token"
  remora-certs token --dir ca --id "spiffe://shop.example/ns/shop/sa/$name" > $name.token
  chown 1337:1337 $name.token
  chmod 600 $name.token
done
start in_pod setpriv --reuid 2001 --regid 2001 --clear-groups remora-shop echo --listen 10.78.0.2:8080 --name shop
in_pod remora-init > /dev/null
start in_pod setpriv --reuid 1337 --regid 1337 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all remora-proxy --config shop.yaml
start as_proxy remora-proxy --config door.yaml
wait_for "the gateway" curl -fsS http://10.78.0.1:15021/healthz/ready
wait_for "the sidecar" in_pod curl -fsS http://127.0.0.1:15021/healthz/ready

request() { curl -fsS http://10.78.0.1:8080/hello | head -c 200; echo; }
serial() { curl -fsS http://10.78.0.1:15000/certs | sed -n 's/.*"serial": "\([0-9a-f]*\)".*/\1/p' | head -1; }
echo; echo "through both:"; request
first=$(serial)
echo "the gateway's certificate: serial $first"

show remora-certs rotate intermediate --dir ca
renewed() { [ "$(serial)" != "$first" ]; }
wait_for "a renewal" renewed
echo "the gateway's certificate: serial $(serial), renewed by itself"

show remora-certs rotate status --dir ca
show remora-certs rotate root --dir ca --step start
cp ca/bundle.pem roots.pem
show remora-certs rotate root --dir ca --step issue --wait 60s
show remora-certs rotate root --dir ca --step drop --wait 60s
cp ca/bundle.pem roots.pem
show remora-certs rotate status --dir ca
echo; echo "through both, by the new root:"; request

if [ -n "${KEEP:-}" ]; then
  echo "running until Ctrl-C; logs and certificates: $work"
  wait
fi
