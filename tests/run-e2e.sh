#!/usr/bin/env bash
# Runs the end-to-end tests, each module in namespaces of its own (tests/support/in-netns.sh). The modules of the
# binaries `shared` and `own` run several at once, those of `alone` one after the other behind them.
#
#   tests/run-e2e.sh                                   all of them
#   tests/run-e2e.sh --test spoofing                   one module; more than one `--test` is possible
#   tests/run-e2e.sh --test spoofing -- forwarded      tests with that word in their name
#   tests/run-e2e.sh -- --include-ignored              what follows `--` goes to each test binary
#
# The output of one module alone comes as it is printed; that of several comes whole when each has ended, and stays in
# target/e2e/MODULE.log.
#
# ENVOY_BIN      Envoy; otherwise what envoy/install.sh names, otherwise `envoy` on PATH
# SALLYPORT_BIN  the gateway; otherwise target/release/sallyport
# SALLYPORT_FILTERS  the directory of its filters; otherwise target/filters
# SALLYPORT_JOBS     modules at once; otherwise one and a half for each core
# SALLYPORT_KEEP=1   keep logs and state also of tests that pass
set -euo pipefail
# Bash reads the braces whole, so an edit of this file does not change a run.
{
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
runner=$root/tests/support/in-netns.sh

wanted=()
while (($#)); do
    case $1 in
    --test) wanted+=("${2:?--test needs the name of a module}"); shift 2 ;;
    --test=*) wanted+=("${1#--test=}"); shift ;;
    --) shift; break ;;
    *) echo "usage: tests/run-e2e.sh [--test MODULE]... [-- TEST-ARGUMENTS]" >&2; exit 2 ;;
    esac
done
arguments=("$@")

skip_all() {
    local file
    for file in tests/e2e/tests/{shared,own,alone}/*.rs; do
        [[ $file == */main.rs ]] || echo "skipped: end-to-end tests $(basename "$file" .rs): $1"
    done
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

# Clients of the model APIs and of registries, for the module `clients`. The large ones only where they are there, or
# all are wanted.
all=()
if [[ ${SALLYPORT_ALL_CLIENTS:-} == 1 ]]; then all=(--all); fi
SDK_CLIENTS=$(tests/support/sdk-clients.sh "${all[@]}" || true)
export SDK_CLIENTS

# As cargo sets it for a test: the program itself, not rustup's.
CARGO=$(rustc --print sysroot)/bin/cargo
[[ -x $CARGO ]] || CARGO=$(command -v cargo)
export CARGO

# Tests name here what they could not do on this machine; libtest hides the output of tests that pass.
SALLYPORT_SKIPPED=$(mktemp)
export SALLYPORT_SKIPPED
messages=$(mktemp)
declare -A job_of=()

clean_up() {
    local job
    for job in "${!job_of[@]}"; do kill -- "-$job" 2>/dev/null || true; done
    rm -f "$SALLYPORT_SKIPPED" "$messages"
}
trap clean_up EXIT

# With the features of the whole workspace, so that nothing is built that `make unit` has not built already.
build=(cargo test --no-run --workspace --message-format json-render-diagnostics)
if [[ ${CI:-} == true ]]; then build+=(--locked); fi
for file in tests/e2e/tests/*/main.rs; do build+=(--test "$(basename "$(dirname "$file")")"); done
"${build[@]}" >"$messages"
# The tests do not need the build's own variables.
unset RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS

# Which tests of which module of which binary there are, as `--list` names them under the given arguments.
declare -A binary_of=() tests_of=()
shared=() alone=()
while IFS=$'\t' read -r name binary; do
    listed=$("$binary" --list --format terse "${arguments[@]}")
    while IFS= read -r test; do
        [[ $test == *::*': test' ]] || continue
        test=${test%: test}
        module=${test%%::*}
        if [[ -z ${binary_of[$module]:-} ]]; then
            binary_of[$module]=$binary
            if [[ $name == alone ]]; then alone+=("$module"); else shared+=("$module"); fi
        fi
        tests_of[$module]+="$test "
    done <<<"$listed"
done < <(sed -n 's/.*"kind":\["test"\].*"name":"\(shared\|own\|alone\)".*"executable":"\([^"]*\)".*/\1\t\2/p' "$messages")

for module in "${wanted[@]}"; do
    if [[ ! -e $(compgen -G "tests/e2e/tests/*/$module.rs") ]]; then
        echo "there is no module '$module' in tests/e2e/tests" >&2
        exit 2
    fi
done
if ((${#wanted[@]})); then
    chosen=" ${wanted[*]} "
    for list in shared alone; do
        declare -n modules=$list
        kept=()
        for module in "${modules[@]}"; do [[ $chosen != *" $module "* ]] || kept+=("$module"); done
        modules=("${kept[@]}")
    done
fi

# Runs one module's tests, by their whole names. `--list` has already applied the words among the arguments.
run() {
    local tests
    read -ra tests <<<"${tests_of[$1]}"
    # Where cargo runs tests.
    cd tests/e2e
    "$runner" "${binary_of[$1]}" --exact "${tests[@]}" "${arguments[@]}" </dev/null
}

failed=()
if ((${#shared[@]} + ${#alone[@]} == 1)); then
    module=${shared[0]:-${alone[0]:-}}
    (run "$module") || failed+=("$module")
else
    logs=$root/target/e2e
    mkdir -p "$logs"
    cores=$(nproc)
    jobs=${SALLYPORT_JOBS:-$((cores + cores / 2))}
    # Long modules first, by their last duration, so that no long module runs alone at the end.
    order() {
        local module took
        for module in "$@"; do
            case $module in chaos | clients | hostile | oauth | push* | registration) took=200 ;; *) took=60 ;; esac
            [[ ! -s $logs/$module.seconds ]] || read -r took _ <"$logs/$module.seconds"
            echo "$took $module"
        done | sort -rn | cut -d' ' -f2
    }

    # Waits for one of the jobs to end, and prints what it said.
    reap() {
        local job status=0 module wall user system
        wait -n -p job "${!job_of[@]}" || status=$?
        module=${job_of[$job]}
        unset "job_of[$job]"
        echo
        cat "$logs/$module.log"
        if ((status)); then
            failed+=("$module")
            echo "e2e: $module failed"
        else
            read -r wall user system <"$logs/$module.seconds"
            echo "e2e: $module took $wall s; processors $user, system $system"
        fi
    }

    # Runs the modules that follow, so many at once.
    run_all() {
        local most=$1 module
        shift
        for module in "$@"; do
            while ((${#job_of[@]} >= most)); do reap; done
            # A process group for each, which is what an interrupt has to end.
            set -m
            {
                begun=$EPOCHSECONDS status=0
                (run "$module") >"$logs/$module.log" 2>&1 || status=$?
                # Its last line is what all that the job has waited for took of the processors.
                times >"$logs/$module.seconds"
                sed -i '1d; s/^/'"$((EPOCHSECONDS - begun))"' /' "$logs/$module.seconds"
                exit "$status"
            } &
            job_of[$!]=$module
            set +m
        done
        while ((${#job_of[@]})); do reap; done
    }

    mapfile -t shared < <(order "${shared[@]}")
    run_all "$jobs" "${shared[@]}"
    run_all 1 "${alone[@]}"
fi

# tests/summary.sh collects these lines.
sort -u "$SALLYPORT_SKIPPED" | sed 's/^/skipped: /'
for module in "${failed[@]}"; do echo "e2e: failed: $module (alone: tests/run-e2e.sh --test $module)" >&2; done
((${#failed[@]} == 0))
exit
}
