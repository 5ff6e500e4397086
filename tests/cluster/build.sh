#!/bin/bash
# build.sh [api|node]   Builds a real Kubernetes through the Go module proxy, once:
#   api    the control plane's kube-apiserver, kubectl and etcd: about 8 minutes on two idle cores
#   node   those, and what a node and its cluster need beside: controller-manager, scheduler, kubelet, kube-proxy, CoreDNS
#          (about 13 minutes), with Debian's containerd, runc and CNI plug-ins
# Half a minute where Go's caches are warm. Prints the folder with the binaries.
# CLUSTER_ROOT says where it is kept (otherwise the user's cache). With --cached nothing is built or installed.
# Exits 3, with the reason on standard error, where it is neither built nor can be.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${CLUSTER_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/remora/cluster}
kubernetes=${KUBERNETES_VERSION:-v1.35.4} etcd=${ETCD_VERSION:-v3.6.16} coredns=${COREDNS_VERSION:-v1.14.7}
export PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin
cannot() { echo "$1" >&2; exit 3; }

what=api cached=
for word in "$@"; do
  case $word in
    api | node) what=$word ;;
    --cached) cached=1 ;;
    *) echo "build.sh [api|node] [--cached]" >&2; exit 2 ;;
  esac
done
programs=(kube-apiserver kubectl)
others=(etcd)
if [ "$what" = node ]; then
  programs+=(kube-controller-manager kube-scheduler kubelet kube-proxy)
  others+=(coredns pause)
fi
built() {
  local name
  for name in "${programs[@]}" "${others[@]}"; do [ -x "$root/bin/$name" ] || return 1; done
}
from_debian() { # what of Debian a node needs and this machine has not
  local pair
  for pair in containerd:containerd runc:runc iptables:iptables conntrack:conntrack ip:iproute2 \
    /usr/lib/cni/bridge:containernetworking-plugins; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
  done
}

if [ "$what" = node ]; then
  mapfile -t missing < <(from_debian)
  if [ ${#missing[@]} -gt 0 ]; then
    [ -z "$cached" ] && [ "$(id -u)" = 0 ] || cannot "no ${missing[*]} here (Debian packages; make test-cluster installs them as root)"
    "$here/../packages.sh" "${missing[@]}" >&2
  fi
fi
if built; then echo "$root/bin"; exit 0; fi
[ -z "$cached" ] || cannot "no Kubernetes ($what) in $root (make test-cluster builds it)"

export CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false"
command -v go >/dev/null || cannot "no Go here"
case $(go env GOVERSION) in go1.2[6-9]*|go1.[3-9]*) ;; *) cannot "Go 1.26 or newer is needed, here is $(go env GOVERSION)" ;; esac
mkdir -p "$root"/{bin,kubernetes,etcd,coredns}
exec 9>"$root/lock"; flock 9

# Kubernetes' staging repositories are directories of its own repository; the proxy has them as modules.
go_mod=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
[ -r "$go_mod" ] || cannot "Kubernetes $kubernetes cannot be downloaded"
{
  printf 'module cluster\n\n'
  grep -E '^(go|godebug) ' "$go_mod"
  printf '\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$kubernetes"
  sed -nE "s#^\s+(k8s\.io/[a-z0-9-]+) => \./staging.*#\t\1 => \1 v0.${kubernetes#v1.}#p" "$go_mod"
  echo ")"
} >"$root/kubernetes/go.mod"
version=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  minor=${kubernetes#v1.}
  version+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
done
build() { # folder, output, packages...
  (cd "$root/$1" && nice go build -trimpath -ldflags "-s -w$version" -o "$root/bin/$2" "${@:3}") >&2
}
alone() { # output, module, version
  [ ! -x "$root/bin/$1" ] || return 0
  printf 'module cluster\n\ngo 1.26.0\n\nrequire %s %s\n' "$2" "$3" >"$root/$1/go.mod"
  version='' build "$1" "$1" "$2"
}
build kubernetes "" "${programs[@]/#/k8s.io/kubernetes/cmd/}"
alone etcd go.etcd.io/etcd/server/v3 "$etcd"
if [ "$what" = node ]; then
  alone coredns github.com/coredns/coredns "$coredns"
  cc -Os -static -s -o "$root/bin/pause" "$here/pause.c"
fi
echo "$root/bin"
