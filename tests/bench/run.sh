#!/usr/bin/env bash
# The benchmark behind `make bench`: installs the load generator, then runs bench.py in its own network, mount and
# process namespaces. On a machine without namespaces it runs on free ports of loopback. The head of bench.py explains
# the measurement.
#
#   ENVOY_BIN=$(envoy/install.sh) tests/bench/run.sh
#
# BENCH_SECONDS=5           the length of each cell's measurement
# BENCH_ROUNDS=3            the number of rounds through all cells
# BENCH_CONNECTIONS="1 16 256"
# SALLYPORT_BIN, SALLYPORT_FILTERS   another gateway than target/release/sallyport with target/filters
# SALLYPORT_SETTINGS                 a line of its sallyport.yaml in place of the highest rate of requests
# SALLYPORT_KEEP=1          keep logs and state also of a run that succeeds
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly oha_version=1.16.0
readonly netns=$root/tests/support/in-netns.sh

say() { echo "bench: $*" >&2; }
die() { say "$*"; exit 1; }

for tool in python3 openssl; do
    command -v "$tool" >/dev/null || die "'$tool' is not installed"
done
python3 -c 'import sqlite3, ssl, sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
    die "python3 has to be 3.9 or later, with its modules sqlite3 and ssl"
[[ -x ${ENVOY_BIN:-} ]] || die "set ENVOY_BIN to Envoy 1.40; envoy/install.sh prints its path"
export ENVOY_BIN
export SALLYPORT_BIN=${SALLYPORT_BIN:-$root/target/release/sallyport}
export SALLYPORT_FILTERS=${SALLYPORT_FILTERS:-$root/target/filters}
for file in "$SALLYPORT_BIN" "$SALLYPORT_FILTERS/sallyport.wasm"; do
    [[ -e $file ]] || die "$file is missing; run 'make build' first"
done

export PATH=$PATH:$root/target/tools/bin
if ! command -v oha >/dev/null; then
    say "building the load generator, oha $oha_version, into target/tools; this takes some minutes, once"
    cargo install oha --version "$oha_version" --locked --root "$root/target/tools" >&2 ||
        die "oha could not be built; put oha $oha_version on PATH"
fi

export BENCH_RESULTS=$root/target/bench/results.json
mkdir -p "$(dirname "$BENCH_RESULTS")"
commit=$(git -C "$root" describe --always --dirty 2>/dev/null) || commit=unknown
export BENCH_COMMIT=$commit

bench=(python3 -B "$root/tests/bench/bench.py")
if why=$("$netns" true 2>&1); then
    exec "$netns" "${bench[@]}"
fi
say "no namespaces on this machine ($(head -n 1 <<<"$why")), so this runs on free ports of its loopback"
# Short: paths of Unix sockets are at most 107 bytes long.
SALLYPORT_SCRATCH=$(mktemp -d /tmp/sp-bench.XXXXXX)
export SALLYPORT_SCRATCH
status=0
"${bench[@]}" || status=$?
if [[ $status == 0 && -z ${SALLYPORT_KEEP:-} ]]; then
    rm -rf "$SALLYPORT_SCRATCH"
else
    say "logs and state are kept in $SALLYPORT_SCRATCH"
fi
exit "$status"
