# Sourced by run.sh and node.sh: how the processes of a control plane start. They keep everything in $folder, and come from $bin.

start() { # name, command...
  setsid "${@:2}" >"$folder/log/$1.log" 2>&1 </dev/null 9>&- &
  echo $! >"$folder/pids/$1"
}
start_etcd() { # client port, peer port
  start etcd "$bin/etcd" --data-dir "$folder/etcd" --log-level warn --unsafe-no-fsync \
    --listen-client-urls "http://127.0.0.1:$1" --advertise-client-urls "http://127.0.0.1:$1" \
    --listen-peer-urls "http://127.0.0.1:$2" --initial-advertise-peer-urls "http://127.0.0.1:$2" \
    --initial-cluster "default=http://127.0.0.1:$2"
}
start_apiserver() { # etcd's port, address, port, services, further flags...
  local pki=$folder/pki
  start apiserver "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$1" --bind-address "$2" --secure-port "$3" \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/sa.pub" \
    --service-account-signing-key-file "$pki/sa.key" --service-cluster-ip-range "$4" "${@:5}"
}
kubectl() { "$bin/kubectl" --kubeconfig "$folder/pki/admin.kubeconfig" "$@"; }
wait_until_ready() { # ends with an error where a process ended
  for _ in $(seq 600); do
    kubectl get --raw /readyz >/dev/null 2>&1 && return
    kill -0 "$(cat "$folder/pids/apiserver")" "$(cat "$folder/pids/etcd")" 2>/dev/null || break
    sleep 0.2
  done
  return 1
}
