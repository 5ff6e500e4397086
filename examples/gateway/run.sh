#!/usr/bin/env bash
# Starts two services and a gateway on free ports, asks for a few paths and shows which service answered.
# Needs Rust, or the binaries in REMORA_BIN_DIR. KEEP=1 leaves everything running until Ctrl-C.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ -n "${REMORA_BIN_DIR:-}" ]; then
  bin=$REMORA_BIN_DIR
else
  echo "building remora-proxy and the two services ..."
  (cd "$root" && cargo build --quiet --locked -p remora-proxy -p remora-shop --bins)
  bin=${CARGO_TARGET_DIR:-$root/target}/debug
fi

work=$(mktemp -d)
started=()
finish() {
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that nothing listens on, below the range the kernel hands out by itself; each is given once.
next_port=$((20000 + RANDOM % 8000))
free_port() {
  while next_port=$((next_port + 1)); accepts "$next_port"; do :; done
  port=$next_port
}
free_port; gateway=$port
free_port; service_a=$port
free_port; service_b=$port
free_port; admin=$port
free_port; metrics=$port
free_port; readiness=$port

# The example as it stands, with the free ports for its own.
sed -e "s/:8080/:$gateway/; s/:9001/:$service_a/; s/:9002/:$service_b/" "$here/gateway.yaml" > "$work/gateway.yaml"
cat >> "$work/gateway.yaml" <<YAML
admin: {address: "127.0.0.1:$admin", metrics: "127.0.0.1:$metrics", readiness: "127.0.0.1:$readiness"}
YAML

start() {
  "$@" >> "$work/log" 2>&1 &
  started+=($!)
}
start "$bin/remora-shop" echo --listen "127.0.0.1:$service_a" --name service-a
start "$bin/remora-shop" echo --listen "127.0.0.1:$service_b" --name service-b
start "$bin/remora-proxy" --config "$work/gateway.yaml"

# HTTP with nothing but bash, so that the example needs no curl: prints the answer's status line, headers and body.
ask() {
  exec 3<>"/dev/tcp/127.0.0.1/$1"
  printf 'GET %s HTTP/1.1\r\nhost: 127.0.0.1:%s\r\nconnection: close\r\n\r\n' "$2" "$1" >&3
  cat <&3
  exec 3<&- 3>&-
}

for attempt in $(seq 300); do
  accepts "$service_a" && accepts "$service_b" && ask "$readiness" /healthz/ready 2>/dev/null | grep -q ' 200 ' && break
  for pid in "${started[@]}"; do
    kill -0 "$pid" 2>/dev/null || { echo "something did not start:" >&2; cat "$work/log" >&2; exit 1; }
  done
  [ "$attempt" != 300 ] || { echo "not ready after 30 s:" >&2; cat "$work/log" >&2; exit 1; }
  sleep 0.1
done

echo "gateway on http://127.0.0.1:$gateway, service-a on port $service_a, service-b on port $service_b"
echo
failed=0
check() { # path, service that must answer
  local answer name path
  answer=$(ask "$gateway" "$1")
  name=$(sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' <<< "$answer" | tail -1)
  path=$(sed -n 's/.*"path": *"\([^"]*\)".*/\1/p' <<< "$answer" | tail -1)
  printf 'GET %-15s -> %s got %s\n' "$1" "${name:-nobody}" "${path:-nothing}"
  if [ "$name" != "$2" ]; then
    echo "  expected $2; the answer was:" >&2
    sed 's/^/  /' <<< "$answer" >&2
    failed=1
  fi
}
check /             service-a
check '/hello?x=1'  service-a
check /api          service-b
check /api/orders/7 service-b
check /apis         service-a

if [ -n "${KEEP:-}" ]; then
  echo
  echo "try: curl -i http://127.0.0.1:$gateway/api      admin: http://127.0.0.1:$admin/help      Ctrl-C ends it"
  wait
fi
exit $failed
