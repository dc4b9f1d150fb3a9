#!/usr/bin/env bash
# tests/fuzz/run.sh SECONDS [target…]: builds the fuzz targets and runs each under libFuzzer for SECONDS. Without a
# target, all targets of src/targets run. The inputs are the seeds in tests/corpus/fuzz/<target> and the inputs of
# earlier runs; with 0 seconds, only these inputs run.
# New inputs are kept in target/fuzz/corpus/<target>. Inputs that crash, hang or take too much memory are kept in
# target/fuzz/crashes/<target>. A crash becomes a named test; the file can also be added to the seeds.
#
# The script prints a line for each target, with the executions and the coverage, and fails if any target crashed. The
# pinned toolchain builds the targets: stable has the flags for coverage, and the fuzzed code has no unsafe code, so
# AddressSanitizer is not needed. libFuzzer requires a C++ compiler.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [target…]}
shift
targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in tests/fuzz/src/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

out=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
# --target keeps the flags from build scripts, which do not link the code for the counters.
build=(cargo build --quiet --profile fuzz -p fuzz --features libfuzzer --target-dir "$out" --target "$host")
if [[ ${CI:-} == true ]]; then build+=(--locked); fi
RUSTFLAGS="${flags[*]}" "${build[@]}"

options=(-timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
if ((seconds > 0)); then options+=(-max_total_time="$seconds"); else options+=(-runs=0); fi

failed=()
for target in "${targets[@]}"; do
    seeds=tests/corpus/fuzz/$target corpus=$out/corpus/$target crashes=$out/crashes/$target log=$out/$target.log
    [[ -d $seeds ]] || { echo "fuzz: $target has no seeds: add seeds to $seeds" >&2; exit 1; }
    mkdir -p "$corpus" "$crashes"
    if FUZZ_TARGET=$target "$out/$host/fuzz/libfuzzer" "${options[@]}" -artifact_prefix="$crashes/" "$corpus" "$seeds" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(sed -n 's/^#[0-9]*\tDONE *//p' "$log" | tr -s ' ')
        echo "fuzz: $target: ${runs:?} executions, ${coverage:?}"
    else
        failed+=("$target")
        tail -n 40 "$log"
        echo "fuzz: $target: FAILED, see $log and $crashes"
    fi
done
((${#failed[@]} == 0)) || { echo "fuzz: findings in: ${failed[*]}" >&2; exit 1; }
