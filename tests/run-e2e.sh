#!/usr/bin/env bash
# Runs the end-to-end tests, each test binary in namespaces of its own (tests/support/in-netns.sh).
#
#   tests/run-e2e.sh                                   all of them
#   tests/run-e2e.sh --test spoofing                   one file; everything is handed on to `cargo test`
#   tests/run-e2e.sh --test spoofing -- forwarded      tests with that word in their name
#
# ENVOY_BIN      Envoy; otherwise what envoy/install.sh names, otherwise `envoy` on PATH
# SALLYPORT_BIN  the gateway; otherwise target/release/sallyport
# SALLYPORT_FILTERS  the directory of its filters; otherwise target/filters
# SALLYPORT_KEEP=1   keep logs and state also of tests that pass
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
runner=$root/tests/support/in-netns.sh

skip_all() {
    for file in tests/e2e/tests/*.rs; do echo "skipped: end-to-end tests $(basename "$file" .rs): $1"; done
    # A machine of our own that cannot run them is a fault, not a circumstance.
    [[ ${CI:-} != true ]] || exit 1
    exit 0
}

for tool in unshare nsenter ip mount timeout git curl; do
    command -v "$tool" >/dev/null || skip_all "'$tool' is not installed"
done
if ! why=$("$runner" true 2>&1); then
    skip_all "this machine lets us make no namespaces; run as root ($(head -n 1 <<<"$why"))"
fi

export SALLYPORT_BIN=${SALLYPORT_BIN:-$root/target/release/sallyport}
export SALLYPORT_FILTERS=${SALLYPORT_FILTERS:-$root/target/filters}
export SALLYPORT_FILTERS_PANIC=$root/target/filters-panic
for file in "$SALLYPORT_BIN" "$SALLYPORT_FILTERS/sallyport.wasm" "$SALLYPORT_FILTERS_PANIC/sallyport.wasm"; do
    [[ -e $file ]] || { echo "$file is missing: run 'make build filters-panic' first" >&2; exit 2; }
done

if [[ -z "${ENVOY_BIN:-}" && -x envoy/install.sh ]]; then ENVOY_BIN=$(envoy/install.sh | tail -n 1); fi
if [[ -z "${ENVOY_BIN:-}" ]]; then ENVOY_BIN=$(command -v envoy || true); fi
[[ -x "${ENVOY_BIN:-}" ]] || { echo "no Envoy: set ENVOY_BIN or run 'make build' first" >&2; exit 2; }
export ENVOY_BIN

# Another gh than the machine's, for the tests of gh.
NEWER_GH=$(tests/support/newer-gh.sh || true)
export NEWER_GH

# Other clients than git, for the tests of push.
GIT_CLIENTS=$(tests/support/git-clients.sh 2>/dev/null || true)
export GIT_CLIENTS

# Clients of the model APIs and of registries, for clients.rs. The large ones only where they are there, or all are
# wanted.
all=()
if [[ ${SALLYPORT_ALL_CLIENTS:-} == 1 ]]; then all=(--all); fi
SDK_CLIENTS=$(tests/support/sdk-clients.sh "${all[@]}" || true)
export SDK_CLIENTS

# Tests name here what they could not do on this machine; cargo hides the output of tests that pass.
SALLYPORT_SKIPPED=$(mktemp)
export SALLYPORT_SKIPPED
trap 'rm -f "$SALLYPORT_SKIPPED"' EXIT

triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
export "CARGO_TARGET_${triple}_RUNNER=$runner"
status=0
cargo test -p e2e --no-fail-fast "$@" || status=$?
# tests/summary.sh collects these lines.
sort -u "$SALLYPORT_SKIPPED" | sed 's/^/skipped: /'
exit "$status"
