#!/usr/bin/env bash
# Prints the directory of the clients that clients.rs runs. The first call installs them from PyPI, in the versions of
# sdk-clients.txt: sdks/ is a virtual environment with the libraries, agents/ one with Claude Code and Codex, whose
# wheels include their programs.
#
#   tests/support/sdk-clients.sh           the libraries; the agents (320 MB) only where they are there already
#   tests/support/sdk-clients.sh --all     both, and as root the missing programs of Debian's
#
# missing/NAME has the error for a client that could not be installed. Only those programs are installed outside of
# target/clients.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly place=$root/target/clients
readonly pins=$root/tests/support/sdk-clients.txt
readonly sdks=(anthropic openai google-genai requests httpx aiohttp uv) agents=(claude-agent-sdk openai-codex)

# install NAME PACKAGE…: installs all packages, or writes the error to missing/NAME.
install() {
    local name=$1 made=$place/$1/made why
    shift
    rm -f "$place/missing/$name"
    if cmp --silent "$pins" "$made"; then return; fi
    rm -rf "${place:?}/$name"
    why=$place/missing/$name.log
    if python3 -m venv "$place/$name" >"$why" 2>&1 &&
        "$place/$name/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
            --only-binary=:all: --constraint "$pins" "$@" >"$why" 2>&1; then
        cp "$pins" "$made"
        rm -f "$why"
    else
        tail -n 1 "$why" >"$place/missing/$name"
        rm -rf "${place:?}/$name" "$why"
    fi
}

# program NAME PACKAGE: a program of this machine. If its installation fails, the file missing/NAME.
program() {
    local name=$1 package=$2 why=$place/missing/$1
    rm -f "$why"
    if command -v "$name" >/dev/null || [[ $(id -u) != 0 ]]; then return; fi
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" \
        </dev/null >"$why.log" 2>&1; then
        tail -n 1 "$why.log" >"$why"
    fi
    rm -f "$why.log"
}

mkdir -p "$place/missing"
install sdks "${sdks[@]}"
if [[ ${1:-} == --all ]]; then
    install agents "${agents[@]}"
    for pair in node:nodejs java:default-jdk-headless keytool:default-jdk-headless gh:gh wget:wget; do
        program "${pair%:*}" "${pair#*:}"
    done
fi
echo "$place"
