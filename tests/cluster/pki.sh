#!/bin/bash
# pki.sh FOLDER URL [NODE SERVICE]   Makes what an API server at URL needs: its CA and certificate, an administrator's
# kubeconfig, and the key that signs service-account tokens. With the addresses of a node and of the API server's own
# service, also the certificates and kubeconfigs of the cluster's other parts.
set -euo pipefail
folder=$1 url=$2 node=${3:-127.0.0.1} service=${4:-10.96.0.1}
mkdir -p "$folder" && cd "$folder"
quiet() { "$@" 2>/dev/null; }
key() { quiet openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

key ca.key
quiet openssl req -x509 -new -key ca.key -subj /CN=cluster-ca -days 3650 -out ca.crt
issue() { # name, subject, extensions
  key "$1.key"
  quiet openssl req -new -key "$1.key" -subj "$2" |
    quiet openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(printf '%b' "$3") -out "$1.crt"
}
client() { # name, subject
  issue "$1" "$2" "extendedKeyUsage=clientAuth\n"
  cat >"$1.kubeconfig" <<EOK
{"apiVersion": "v1", "kind": "Config", "current-context": "cluster",
 "clusters": [{"name": "cluster", "cluster": {"server": "$url", "certificate-authority": "$folder/ca.crt"}}],
 "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "$1"}}],
 "users": [{"name": "$1", "user": {"client-certificate": "$folder/$1.crt", "client-key": "$folder/$1.key"}}]}
EOK
}
names="IP:127.0.0.1,IP:$node,IP:$service,DNS:localhost,DNS:kubernetes.default.svc"
issue apiserver /CN=kube-apiserver "subjectAltName=$names\nextendedKeyUsage=serverAuth\n"
client admin /O=system:masters/CN=admin
quiet openssl genrsa -out sa.key 2048
quiet openssl rsa -in sa.key -pubout -out sa.pub
[ $# -gt 2 ] || exit 0
issue kubelet-serving /CN=node1 "subjectAltName=IP:$node,DNS:node1\nextendedKeyUsage=serverAuth\n"
client apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
client kubelet /O=system:nodes/CN=system:node:node1
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client kube-proxy /CN=system:kube-proxy
