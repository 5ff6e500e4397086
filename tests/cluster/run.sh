#!/bin/bash
# run.sh api FOLDER               Starts etcd and a Kubernetes API server on loopback, on free ports. Nothing else runs:
#                                 no controllers, no scheduler, no node.
# run.sh node FOLDER              Starts a whole cluster of one node, in network, mount and process namespaces of its own; its pods
#                                 and services are reached from here through a veth. Root.
# run.sh load FOLDER ARCHIVE...   Gives that node images.
# run.sh exec FOLDER COMMAND...   Runs a command in that node's namespaces.
# run.sh down FOLDER              Ends either, and takes away everything outside of FOLDER.
# All they keep is in FOLDER (logs in log/). api and node print the kubeconfig once they are ready. Several can run side by side.
# With CLUSTER_OWNER=PID the node is taken down when that process ends.
# Exits 3, with the reason, where there are no binaries (see build.sh).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
usage() { sed -n '2,/^set/{/^#/p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
[ $# -ge 2 ] || usage
verb=$1 folder=$(readlink -m "$2")
shift 2
. "$here/plane.sh"

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
  local etcd_port peer_port port
  read -r etcd_port peer_port port <<<"$(free_ports)"
  rm -rf "$folder"/{pki,etcd,pids,log}
  mkdir -p "$folder"/{pids,log}
  "$here/pki.sh" "$folder/pki" "https://127.0.0.1:$port"
  start_etcd "$etcd_port" "$peer_port"
  start_apiserver "$etcd_port" 127.0.0.1 "$port" 10.96.0.0/16 \
    --advertise-address 10.99.0.1 --endpoint-reconciler-type none --authorization-mode RBAC
  wait_until_ready
}

case $verb in
  api)
    bin=$("$here/build.sh" api --cached)
    for _ in 1 2 3; do
      if control_plane; then echo "$folder/pki/admin.kubeconfig"; exit 0; fi
      stop
    done
    tail -n 20 "$folder"/log/*.log >&2
    exit 1 ;;
  node | load | exec) exec "$here/node.sh" "$verb" "$folder" "$@" ;;
  down)
    if [ -e "$folder/slot" ]; then exec "$here/node.sh" down "$folder"; fi
    stop ;;
  *) usage ;;
esac
