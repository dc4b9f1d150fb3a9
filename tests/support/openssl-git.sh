#!/usr/bin/env bash
# Prints a git whose libcurl uses OpenSSL for TLS, where Debian's own uses GnuTLS, for the tests of git. It is built
# once into target/tools from Debian's source, as root, which installs the required headers. The build takes minutes, so
# `make test-full` runs it and `make test` does not. If the source is unavailable, fails and writes the reason to
# target/clients/missing/git-openssl.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly place=$root/target/tools/git-openssl missing=$root/target/clients/missing/git-openssl
readonly headers=(libcurl4-openssl-dev libssl-dev zlib1g-dev dpkg-dev make gcc libc6-dev)

mkdir -p "${missing%/*}"
rm -f "$missing"
trap 'echo "tests/support/openssl-git.sh: line $LINENO: $BASH_COMMAND" >"$missing"' ERR

if [[ ! -x $place/bin/git ]]; then
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${headers[@]}"
    } </dev/null >&2
    build=$(mktemp -d "$root/target/git-openssl.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    mkdir -p "$build/lists/partial"
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    echo "deb-src http://deb.debian.org/debian $release main" >"$build/src.list"
    apt=(apt-get -qq -o "Dir::Etc::SourceList=$build/src.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$build/lists" -o APT::Sandbox::User=root)
    "${apt[@]}" update >&2
    (cd "$build" && "${apt[@]}" source git >&2)
    make -s -j "$(nproc)" -C "$build"/git-*/ prefix="$place" NO_GETTEXT=1 NO_TCLTK=1 NO_PERL=1 NO_PYTHON=1 NO_EXPAT=1 \
        INSTALL_SYMLINKS=1 CURL_CONFIG=curl-config all install </dev/null >&2
fi
echo "$place/bin/git"
