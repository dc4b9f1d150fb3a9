#!/usr/bin/env bash
# Prints a Python with clients of git other than git, dulwich and libgit2, for the tests of push.rs: a virtual
# environment in target/, made from PyPI at the first call. Fails if Python or PyPI is unavailable.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly packages=(dulwich==1.2.21 pygit2==1.21.0)
readonly place=$root/target/git-clients

if [[ ! -e $place/made ]]; then
    rm -rf "$place"
    python3 -m venv "$place" >&2
    "$place/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 10 "${packages[@]}" >&2
    touch "$place/made"
fi
echo "$place/bin/python"
