#!/bin/bash
# build.sh [api]   Builds a real Kubernetes control plane through the Go module proxy, once: kube-apiserver, kubectl, etcd.
# Prints the folder with the binaries. About 8 minutes on two idle cores, half a minute where Go's caches are warm.
# CLUSTER_ROOT says where it is kept (otherwise the user's cache). With --cached nothing is built.
# Exits 3, with the reason on standard error, where it is neither built nor can be.
set -euo pipefail
root=${CLUSTER_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/remora/cluster}
kubernetes=${KUBERNETES_VERSION:-v1.35.4} etcd=${ETCD_VERSION:-v3.6.16}
cannot() { echo "$1" >&2; exit 3; }

what=api cached=
for word in "$@"; do
  case $word in
    api) what=$word ;;
    --cached) cached=1 ;;
    *) echo "build.sh [api] [--cached]" >&2; exit 2 ;;
  esac
done
binaries() { # those of a part, so that a whole node can become another part
  case $what in api) echo kube-apiserver kubectl etcd ;; esac
}

complete=1
for name in $(binaries); do [ -x "$root/bin/$name" ] || complete=; done
if [ -n "$complete" ]; then echo "$root/bin"; exit 0; fi
[ -z "$cached" ] || cannot "no Kubernetes in $root (make test-cluster builds it)"

export PATH=$PATH:/usr/local/go/bin CGO_ENABLED=0 GOFLAGS="-mod=mod -buildvcs=false"
command -v go >/dev/null || cannot "no Go here"
case $(go env GOVERSION) in go1.2[6-9]*|go1.[3-9]*) ;; *) cannot "Go 1.26 or newer is needed, here is $(go env GOVERSION)" ;; esac
mkdir -p "$root"/{bin,kubernetes,etcd}
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
build() { # folder, packages...
  (cd "$root/$1" && nice go build -trimpath -ldflags "-s -w$version" -o "$root/bin/" "${@:2}") >&2
}
build kubernetes k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
printf 'module cluster\n\ngo 1.26.0\n\nrequire go.etcd.io/etcd/server/v3 %s\n' "$etcd" >"$root/etcd/go.mod"
(cd "$root/etcd" && nice go build -trimpath -ldflags "-s -w" -o "$root/bin/etcd" go.etcd.io/etcd/server/v3) >&2
echo "$root/bin"
