# What the demo and the drill have in common: look whether this machine has what it takes, install the little that is missing,
# build. Sourced, with $root (the repository) and $what (demo or drill) set.
# shellcheck shell=bash disable=SC2154

# `su` without a dash leaves the folders of ip and iptables out.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; else bold= dim= red= plain=; fi
say() { printf '   %s\n' "$*"; }
fail() {
    printf '   %s✘%s %s\n' "$red" "$plain" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '     %s\n' "$@" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "This makes Linux network namespaces; this is $(uname -s)."
[ "$(id -u)" = 0 ] || fail "This makes network namespaces and changes their iptables, so it runs as root:" "sudo make $what"

# --- Rust and a C compiler: the things to have before ---

command -v cargo >/dev/null || fail "There is no cargo here. Rust 1.95 or newer comes from https://rustup.rs:" \
    "curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
has=$(cd "$root" && cargo --version 2>/dev/null | awk '{print $2}')
[ -n "$has" ] || fail "cargo does not run here: $(cd "$root" && cargo --version 2>&1 | head -1)"
if [ "$(printf '%s\n%s\n' "$wanted" "$has" | sort -V | head -1)" != "$wanted" ]; then
    fail "Remora needs Rust $wanted or newer; $(command -v cargo) is $has." "rustup update stable     (or install it from https://rustup.rs: Debian's own is too old)"
fi
if ! printf 'int main(void) { return 0; }\n' | ${CC:-cc} -xc -o /dev/null - 2>/dev/null; then
    fail "There is no working C compiler (${CC:-cc}) here; the TLS library needs one:" "apt-get install -y gcc libc6-dev"
fi

# --- Debian packages: installed when missing ---

# apt-get, waiting up to five minutes for another apt. Of its locks it waits itself for dpkg's only.
quiet_apt() {
    local log told= until=$((SECONDS + 300))
    log=$(mktemp)
    until DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null; do
        if ! grep -q 'Could not get lock' "$log" || [ $SECONDS -ge $until ]; then
            tail -20 "$log" >&2
            rm -f "$log"
            return 1
        fi
        [ "$told" ] || say "waiting for another apt to end"
        told=yes
        sleep 1
    done
    rm -f "$log"
}

install_missing() {
    local missing=() pair
    for pair in ip=iproute2 iptables=iptables ip6tables=iptables tcpdump=tcpdump setpriv=util-linux faketime=faketime; do
        command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local packages
    packages=$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')
    command -v apt-get >/dev/null || fail "These commands' packages are missing, and there is no apt-get to install them: $packages"
    say "installing $packages"
    # No package of these brings a service; should one ever, it is not started.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    # shellcheck disable=SC2086 # names of packages, separated by spaces
    quiet_apt update && quiet_apt install -y --no-install-recommends $packages || fail "apt-get could not install $packages(above)"
    if [ "$(trap -p EXIT)" ]; then
        rm -f /usr/sbin/policy-rc.d
        trap - EXIT
    fi
}

# --- Build ---

# On a terminal one line that moves, elsewhere a line a minute.
build() {
    local started=$SECONDS next=$SECONDS count=0 line log code
    log=$(mktemp)
    set +e
    # The whole workspace, as `make build` does: a selection would compile the dependencies once more with other features.
    (cd "$root" && CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never cargo build --locked --workspace --bins 2>&1) |
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$log"
            case $line in
                *Compiling*)
                    count=$((count + 1))
                    if [ -t 1 ]; then
                        printf '\r\e[K   %s… building: %d crates, %s (%d s; some minutes the first time)%s' \
                            "$dim" "$count" "$(awk '{print $2}' <<<"$line")" $((SECONDS - started)) "$plain"
                    elif [ $SECONDS -ge $next ]; then
                        say "… building: $count crates ($((SECONDS - started)) s)"
                        next=$((SECONDS + 60))
                    fi
                    ;;
            esac
        done
    code=${PIPESTATUS[0]}
    set -e
    [ -t 1 ] && printf '\r\e[K'
    if [ "$code" -ne 0 ]; then
        grep -v Compiling "$log" | tail -40 >&2
        rm -f "$log"
        fail "The build failed (above)."
    fi
    rm -f "$log"
    [ $((SECONDS - started)) -lt 5 ] || say "built in $((SECONDS - started)) s"
}

target=${CARGO_TARGET_DIR:-$root/target}
[[ $target = /* ]] || target=$root/$target
