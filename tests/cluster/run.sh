#!/bin/bash
# run.sh api FOLDER    Starts etcd and a Kubernetes API server on loopback, on free ports, with all they keep in FOLDER.
#                      Prints the kubeconfig once it is ready. Nothing else runs: no controllers, no scheduler, no node.
# run.sh down FOLDER   Ends them.
# Exits 3, with the reason, where there are no binaries (see build.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 2 ] || { sed -n 2,5p "${BASH_SOURCE[0]}" >&2; exit 2; }
folder=$(readlink -m "$2")

start() { # name, command...
  setsid "${@:2}" >"$folder/log/$1.log" 2>&1 </dev/null 9>&- &
  echo $! >"$folder/pids/$1"
}
stop() {
  local name pid
  for name in apiserver etcd; do
    pid=$(cat "$folder/pids/$name" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
}
free_ports() { # three that nobody uses now
  python3 -c 'import socket
held = [socket.socket() for _ in range(3)]
for one in held: one.bind(("127.0.0.1", 0))
print(*[one.getsockname()[1] for one in held])'
}
control_plane() { # ends with an error where a port was taken meanwhile
  local etcd_port peer_port port pki=$folder/pki
  read -r etcd_port peer_port port <<<"$(free_ports)"
  rm -rf "$folder"/{pki,etcd,pids,log}
  mkdir -p "$folder"/{pids,log}
  "$here/pki.sh" "$pki" "https://127.0.0.1:$port"
  start etcd "$bin/etcd" --data-dir "$folder/etcd" --log-level warn --unsafe-no-fsync \
    --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-cluster "default=http://127.0.0.1:$peer_port"
  start apiserver "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" \
    --bind-address 127.0.0.1 --secure-port "$port" --advertise-address 10.99.0.1 --endpoint-reconciler-type none \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/sa.pub" \
    --service-account-signing-key-file "$pki/sa.key" --service-cluster-ip-range 10.96.0.0/16 --authorization-mode RBAC
  for _ in $(seq 600); do
    "$bin/kubectl" --kubeconfig "$pki/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1 && return
    kill -0 "$(cat "$folder/pids/apiserver")" "$(cat "$folder/pids/etcd")" 2>/dev/null || break
    sleep 0.2
  done
  return 1
}

case $1 in
  api)
    bin=$("$here/build.sh" api --cached)
    for _ in 1 2 3; do
      if control_plane; then echo "$folder/pki/admin.kubeconfig"; exit 0; fi
      stop
    done
    tail -n 20 "$folder"/log/*.log >&2
    exit 1 ;;
  down) stop ;;
  *) sed -n 2,5p "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
