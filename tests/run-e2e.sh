#!/usr/bin/env bash
# Runs the end-to-end tests, each module in its own namespaces (tests/support/in-netns.sh). The modules of the binaries
# `shared` and `own` run in parallel. The modules of `alone` run one by one afterwards.
#
#   tests/run-e2e.sh                                   all modules
#   tests/run-e2e.sh --test spoofing                   one module; more than one `--test` is possible
#   tests/run-e2e.sh --test spoofing -- forwarded      tests with this word in their name
#   tests/run-e2e.sh -- --include-ignored              arguments after `--` go to each test binary
#
# The output of a single module appears at once. With several modules, the output of each appears when the module ends,
# and stays in target/e2e/MODULE.log. A module that has passed with the same inputs is not run again: its output is
# printed again, with a line that says so.
#
# ENVOY_BIN          Envoy; by default the path that envoy/install.sh prints, or else `envoy` on PATH
# SALLYPORT_BIN      the gateway; by default target/release/sallyport
# SALLYPORT_FILTERS  the directory of its filters; by default target/filters
# SALLYPORT_FRESH=1  run all modules, also those that have passed with the same inputs
# SALLYPORT_JOBS     the number of parallel modules; by default 1.5 for each core
# SALLYPORT_KEEP=1   keep logs and state also of tests that pass
set -euo pipefail
# Bash reads the whole block in braces first, so an edit of this file does not change a run.
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
    # In CI, a machine that cannot run the tests is a failure.
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

# A newer gh than the machine's, for the tests of gh.
NEWER_GH=$(tests/support/newer-gh.sh || true)
export NEWER_GH

# Git clients other than git itself, for the tests of push.
GIT_CLIENTS=$(tests/support/git-clients.sh 2>/dev/null || true)
export GIT_CLIENTS

# Clients of the model APIs and of registries, for the module `clients`. Large clients are used only if they are
# installed, or if SALLYPORT_ALL_CLIENTS is 1.
all=()
if [[ ${SALLYPORT_ALL_CLIENTS:-} == 1 ]]; then all=(--all); fi
SDK_CLIENTS=$(tests/support/sdk-clients.sh "${all[@]}" || true)
export SDK_CLIENTS

# CARGO as cargo sets it for a test: the program itself, not the proxy of rustup.
CARGO=$(rustc --print sysroot)/bin/cargo
[[ -x $CARGO ]] || CARGO=$(command -v cargo)
export CARGO

logs=$root/target/e2e
mkdir -p "$logs"
messages=$(mktemp)
declare -A job_of=()

clean_up() {
    local job
    for job in "${!job_of[@]}"; do kill -- "-$job" 2>/dev/null || true; done
    rm -f "$messages"
}
trap clean_up EXIT

# With the features of the whole workspace, so that cargo reuses all crates that `make unit` has built.
build=(cargo test --no-run --workspace --message-format json-render-diagnostics)
if [[ ${CI:-} == true ]]; then build+=(--locked); fi
for file in tests/e2e/tests/*/main.rs; do build+=(--test "$(basename "$(dirname "$file")")"); done
"${build[@]}" >"$messages"
# The tests do not need the build's own variables.
unset RUSTC_WORKSPACE_WRAPPER CLIPPY_ARGS

# The binary and the tests of each module, as `--list` prints them for the given arguments.
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
        echo "no module '$module' in tests/e2e/tests" >&2
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

# inputs PATHSPEC…: the hash of everything that can change a test's outcome: these files of the checkout, the built programs,
# the tools of this machine, the variables of the tests, and this script's arguments. Outside a git checkout the hash is
# new each time.
inputs() {
    local tool
    {
        git ls-files -z --cached --others --exclude-standard -- "$@" | xargs -0 sha256sum 2>/dev/null || echo "$RANDOM"
        printf '%s\0' "${binary_of[@]}" | sort -zu | xargs -0 sha256sum
        sha256sum "$SALLYPORT_BIN" "$SALLYPORT_FILTERS/sallyport.wasm" \
            "$SALLYPORT_FILTERS_PANIC/sallyport.wasm" "$ENVOY_BIN"
        uname -sr
        for tool in git curl gh node python3 docker; do
            if command -v "$tool"; then "$tool" --version 2>&1 | head -n 1; fi
        done
        env | sed -n '/^SALLYPORT_\(FRESH\|JOBS\|KEEP\)=/d; /^\(SALLYPORT_\|NEWER_GH\|GIT_CLIENTS\|SDK_CLIENTS\|OPENSSL_GIT\)/p'
        printf '%s\n' "${arguments[@]}"
    } | sha256sum
}

# Runs one module's tests by their full names. `--list` has already applied the words among the arguments.
run() {
    local tests
    read -ra tests <<<"${tests_of[$1]}"
    # Tests write skipped parts into this file, because libtest hides the output of tests that pass.
    export SALLYPORT_SKIPPED=$logs/$1.skipped
    : >"$SALLYPORT_SKIPPED"
    # The directory in which cargo runs tests.
    cd tests/e2e
    "$runner" "${binary_of[$1]}" --exact "${tests[@]}" "${arguments[@]}" </dev/null
}

failed=()
if ((${#shared[@]} + ${#alone[@]} == 1)); then
    module=${shared[0]:-${alone[0]:-}}
    (run "$module") || failed+=("$module")
else
    code=$(inputs . ':!*.md') all=$(inputs .)
    # Whether the module $1 has passed with the inputs of now. Only two modules read documents.
    unchanged() {
        case $1 in readme | clients) now=$all ;; *) now=$code ;; esac
        [[ ${SALLYPORT_FRESH:-} != 1 && -s $logs/$1.passed && $(<"$logs/$1.passed") == "$now" ]]
    }

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

    # Waits until one of the jobs ends, and prints its output.
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

    # run_all NUMBER MODULE…: runs the modules, at most NUMBER in parallel.
    run_all() {
        local most=$1 module
        shift
        for module in "$@"; do
            if unchanged "$module"; then
                echo
                cat "$logs/$module.log"
                echo "e2e: $module has passed before with the same inputs (SALLYPORT_FRESH=1 runs it again)"
                continue
            fi
            while ((${#job_of[@]} >= most)); do reap; done
            # Each job has a process group, which an interrupt ends.
            set -m
            {
                begun=$EPOCHSECONDS status=0
                rm -f "$logs/$module.passed"
                (run "$module") >"$logs/$module.log" 2>&1 || status=$?
                # The last line of `times` is the processor time of all processes that the job has waited for.
                times >"$logs/$module.seconds"
                sed -i '1d; s/^/'"$((EPOCHSECONDS - begun))"' /' "$logs/$module.seconds"
                ((status)) || echo "$now" >"$logs/$module.passed"
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
for module in "${shared[@]}" "${alone[@]}"; do cat "$logs/$module.skipped"; done | sort -u | sed 's/^/skipped: /'
for module in "${failed[@]}"; do echo "e2e: failed: $module (alone: tests/run-e2e.sh --test $module)" >&2; done
((${#failed[@]} == 0))
exit
}
