#!/bin/bash
# The one-node cluster of run.sh, which says how to use it. Each cluster has a slot: the number in the name of its veth and its
# cgroups, and in its addresses. The kernel allows a veth's name once, so the veth is also what keeps two from one slot.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
verb=$1 folder=$2
shift 2
. "$here/plane.sh"
port=6443

take() { # slot: all that is derived from it
  slot=$1
  link=remora-k$slot group=remora-cluster-$slot
  node=10.99.$slot.1 host=10.99.$slot.254
  pods=10.244.$slot.0/24 services=10.$((128 + slot)).0.0/16
  api=10.$((128 + slot)).0.1 dns=10.$((128 + slot)).0.10
}
kept() { take "$(cat "$folder/slot")"; }
pid() { cat "$folder/pids/init"; }
alive() { [ -e "/proc/${1:-none}" ] && [ "$(sed -n 's/^State:\s*//p' "/proc/$1/status" 2>/dev/null | cut -c1)" != Z ]; }
groups() { find /sys/fs/cgroup/ -maxdepth 2 -type d -name "$group"; }
remove_groups() {
  local path
  for _ in $(seq 50); do
    path=$(groups)
    [ -n "$path" ] || return 0
    find $path -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
  done
  echo "cgroups of the node stay: $path" >&2
}

# Outside: namespaces, the wire to them, and the wait.
up() {
  local number child
  rm -rf "$folder"
  mkdir -p "$folder"/{pids,log}
  for number in $(seq 0 63); do
    take "$number"
    ip link add "$link" type veth peer name node 2>/dev/null && break
    [ "$number" != 63 ] || { echo "no slot is free for a cluster (ip link shows remora-k0 to remora-k63)" >&2; exit 1; }
  done
  echo "$slot" >"$folder/slot"
  trap 'code=$?; [ $code = 0 ] || { tail -n 15 "$folder"/log/*.log >&2; down; }' EXIT
  remove_groups
  "$here/pki.sh" "$folder/pki" "https://$node:$port" "$node" "$api"
  setsid unshare --net --mount --pid --fork --mount-proc --kill-child "${BASH_SOURCE[0]}" inside "$folder" \
    >"$folder/log/init.log" 2>&1 </dev/null &
  echo $! >"$folder/pids/unshare"
  for _ in $(seq 100); do child=$(pgrep -P "$!") && break; sleep 0.05; done
  echo "$child" >"$folder/pids/init"
  ip link set node netns "$child" name eth0
  ip addr add "$host/24" dev "$link"
  ip link set "$link" up
  ip route add "$pods" via "$node" dev "$link"
  ip route add "$services" via "$node" dev "$link"
  if [ -n "${CLUSTER_OWNER:-}" ]; then
    setsid "${BASH_SOURCE[0]}" keep "$folder" "$CLUSTER_OWNER" >/dev/null 2>&1 </dev/null 9>&- &
  fi
  await "the node to be Ready" node_ready
  sed "s/DNS_ADDRESS/$dns/" "$here/coredns.yaml" | kubectl apply -f - >"$folder/log/coredns.log"
  await "names to be answered" dns_ready
  echo "$folder/pki/admin.kubeconfig"
}
await() { # what, question
  for _ in $(seq 600); do
    "$2" && return
    alive "$(pid)" || { echo "the node ended" >&2; return 1; }
    sleep 0.2
  done
  echo "waited two minutes in vain for $1" >&2
  return 1
}
node_ready() {
  kubectl get nodes --no-headers 2>/dev/null | grep -q ' Ready' && kubectl get serviceaccount default >/dev/null 2>&1
}
dns_ready() { [ "$(kubectl -n kube-system get deployment coredns -o 'jsonpath={.status.readyReplicas}' 2>/dev/null)" = 1 ]; }

# Inside: the first process of the node's process namespace.
inside() {
  kept
  ip link set lo up
  for _ in $(seq 200); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.05; done
  ip addr add "$node/24" dev eth0
  ip link set eth0 up
  ip route add default via "$host"
  sysctl -qw net.ipv4.ip_forward=1
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  own_places
  start_etcd 2379 2380
  start_apiserver 2379 "$node" $port "$services" --advertise-address "$node" \
    --kubelet-client-certificate "$folder/pki/apiserver-kubelet.crt" --kubelet-client-key "$folder/pki/apiserver-kubelet.key" \
    --kubelet-certificate-authority "$folder/pki/ca.crt" --kubelet-preferred-address-types InternalIP \
    --authorization-mode Node,RBAC --allow-privileged
  containers
  wait_until_ready
  rest
  trap 'exit 0' TERM
  while :; do sleep 3600 & wait $! || true; done
}
own_places() {
  local pair path copy
  # The kubelet wants some sysctls of the whole machine at fixed values: it is shown such values, the machine keeps its own.
  for pair in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
    kernel/keys/root_maxbytes=25000000; do
    path=/proc/sys/${pair%=*} copy=$folder/sysctl/${pair%=*}
    [ -e "$path" ] || continue
    mkdir -p "${copy%/*}"
    echo "${pair#*=}" >"$copy"
    mount --bind "$copy" "$path"
  done
  for path in /sys/fs/cgroup/*/; do
    [ "$path" = /sys/fs/cgroup/unified/ ] || mkdir -p "$path$group"
  done
  for path in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$path" >"/sys/fs/cgroup/cpuset/$group/cpuset.$path"; done
  # Places where containerd, the kubelet and CNI plug-ins leave things whatever they are told.
  mount -t tmpfs tmpfs /run
  mkdir -p /run/lock "$folder"/{cni,kubelet,var-log,var-lib}
  mount --bind "$folder/var-log" /var/log
  mount -t overlay overlay -o "lowerdir=/var/lib,upperdir=$folder/var-lib,workdir=$(mkdir -p "$folder/var-lib.work"; echo "$folder/var-lib.work")" /var/lib
}
containers() {
  local image
  cat >"$folder/cni/10-bridge.conflist" <<EOC
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$folder/cni-data"}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOC
  cat >"$folder/containerd.toml" <<EOC
version = 2
root = "$folder/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
EOC
  start containerd containerd -c "$folder/containerd.toml"
  mkdir -p "$folder/images"
  for image in pause coredns; do
    python3 "$here/../../images/pack.py" "$here/$image.Containerfile" "$bin" "localhost/$image:1" "$folder/images/$image.tar"
  done
  for _ in $(seq 100); do ctr -a /run/containerd.sock version >/dev/null 2>&1 && break; sleep 0.1; done
  load "$folder"/images/*.tar
}
load() {
  local archive
  for archive in "$@"; do ctr -a /run/containerd.sock -n k8s.io images import "$archive"; done
}
rest() {
  local pki=$folder/pki config
  echo "nameserver $node" >"$folder/resolv.conf"
  cat >"$folder/kubelet.yaml" <<EOC
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-serving.crt
tlsPrivateKeyFile: $pki/kubelet-serving.key
cgroupDriver: cgroupfs
cgroupRoot: /$group
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
oomScoreAdj: 0
maxOpenFiles: 20000
resolvConf: $folder/resolv.conf
volumePluginDir: $folder/volume-plugins
clusterDomain: cluster.local
clusterDNS: [$dns]
syncFrequency: 5s
configMapAndSecretChangeDetectionStrategy: Watch
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
EOC
  start kubelet "$bin/kubelet" --config "$folder/kubelet.yaml" --kubeconfig "$pki/kubelet.kubeconfig" \
    --root-dir "$folder/kubelet" --hostname-override node1 --node-ip "$node" --cert-dir "$pki"
  config=$pki/controller-manager.kubeconfig
  start controller-manager "$bin/kube-controller-manager" --kubeconfig "$config" --bind-address 127.0.0.1 \
    --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
  config=$pki/scheduler.kubeconfig
  start scheduler "$bin/kube-scheduler" --kubeconfig "$config" --bind-address 127.0.0.1 --leader-elect=false \
    --authentication-kubeconfig "$config" --authorization-kubeconfig "$config"
  cat >"$folder/kube-proxy.yaml" <<EOC
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/kube-proxy.kubeconfig}
mode: iptables
clusterCIDR: $pods
hostnameOverride: node1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOC
  start kube-proxy "$bin/kube-proxy" --config "$folder/kube-proxy.yaml"
}

down() {
  local one
  kept
  for one in init unshare; do
    one=$(cat "$folder/pids/$one" 2>/dev/null) || continue
    # The first process of a process namespace takes all others with it.
    kill -9 "$one" 2>/dev/null || true
    for _ in $(seq 300); do alive "$one" || break; sleep 0.1; done
  done
  ip link del "$link" 2>/dev/null || true
  remove_groups
  rm -f "$folder/slot"
}
keep() { # owner
  while alive "$1" && [ -e "$folder/slot" ]; do sleep 1; done
  [ ! -e "$folder/slot" ] || down
}
in_node() { exec nsenter -t "$(pid)" -n -m -p -- "$@"; }

case $verb in
  node)
    bin=$("$here/build.sh" node --cached)
    up ;;
  inside)
    bin=$("$here/build.sh" node --cached)
    inside ;;
  load) for archive in "$@"; do nsenter -t "$(pid)" -n -m -p -- ctr -a /run/containerd.sock -n k8s.io images import "$(readlink -f "$archive")"; done ;;
  exec) in_node "$@" ;;
  keep) keep "$1" ;;
  down) down ;;
esac
