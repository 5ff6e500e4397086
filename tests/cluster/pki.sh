#!/bin/bash
# pki.sh FOLDER URL   Makes what an API server at URL needs: its CA and certificate, an administrator's kubeconfig, and the
# key that signs service-account tokens.
set -euo pipefail
folder=$1 url=$2
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
issue apiserver /CN=kube-apiserver \
  "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc\nextendedKeyUsage=serverAuth\n"
issue admin /O=system:masters/CN=admin "extendedKeyUsage=clientAuth\n"
quiet openssl genrsa -out sa.key 2048
quiet openssl rsa -in sa.key -pubout -out sa.pub
cat >admin.kubeconfig <<EOF
{"apiVersion": "v1", "kind": "Config", "current-context": "cluster",
 "clusters": [{"name": "cluster", "cluster": {"server": "$url", "certificate-authority": "$folder/ca.crt"}}],
 "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "admin"}}],
 "users": [{"name": "admin", "user": {"client-certificate": "$folder/admin.crt", "client-key": "$folder/admin.key"}}]}
EOF
