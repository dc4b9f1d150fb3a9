#!/usr/bin/env bash
# Cargo's runner for the end-to-end tests: runs "$@" (a test binary) in its own network, mount and process namespaces,
# without the machine's network. When the test binary ends, all processes that it has started end. Called by
# tests/run-e2e.sh. Exit code: that of "$@".
set -euo pipefail

# Searches all files of the gateway, its Envoy and the sandboxes below $1, and the gateway's responses (`answers`, from
# tests/support/src/kept.rs). They must have no fixture secret, raw (which is also its URL-encoded form), in base64 of
# any alignment, in hexadecimal or in UTF-16; no private key in a response; no core file. `keys*` is where tests keep
# the secrets that the gateway reads, and `tokens` where it keeps logins.
search() {
    local secret='fixture_|Zml4dHVyZV|ZpeHR1cmVf|maXh0dXJlX|(?i:666978747572655f)|f\x00i\x00x\x00t\x00u\x00r\x00e\x00_'
    local canary=$1/canary found
    # First check that the search itself finds a known text.
    printf 'f\0i\0x\0t\0u\0r\0e\0_' >"$canary"
    found=$(holds "$secret" "$1") || return 1
    rm "$canary"
    if [[ $found != "$canary" ]]; then
        echo "a fixture secret is in: $found" >&2
        return 1
    fi
    touch "$1/answers"
    if found=$(holds 'PRIVATE KEY' "$1/answers") && [[ -n $found ]]; then
        echo "a private key is in an answer" >&2
        return 1
    fi
    found=$(find "$1" -type f \( -name core -o -name 'core.*' \)) || return 1
    if [[ -n $found ]]; then
        echo "a core file was written: $found" >&2
        return 1
    fi
}

# Reads the output of each running gateway from outside, for the search. tests/support/src/gateway.rs reads gateways that
# a test ends; tests never end a shared gateway. A gateway that can't be read is a failure.
look() {
    local process
    for process in /proc/[0-9]*; do
        if ! look_at "$process" && ! ends "$process"; then
            echo "process ${process#/proc/}, a gateway or its Envoy, still runs and can't be looked at" >&2
            return 1
        fi
    done
}

# Keeps the visible data of $1, a directory of /proc, if it is `sallyport up`, `sallyport serve` or Envoy.
look_at() {
    local process=$1 name command admin token path
    name=$(cat "$process/comm") || return
    mapfile -d '' -t command <"$process/cmdline" || return
    case $name:${command[1]:-} in
    sallyport:up | sallyport:serve)
        admin=$(sed -n 's/^  admin: //p' "$(after --config "${command[@]}")") || return
        token=$(cat "$(after --state-dir "${command[@]}")/admin-token") || return
        # In a file, so that the token is in no output.
        printf 'authorization: Bearer %s\n' "$token" >"$SALLYPORT_SCRATCH/bearer"
        for path in /metrics /internal/containers /readyz /healthz / /ca.pem; do
            ask --header "@$SALLYPORT_SCRATCH/bearer" "http://$admin$path" || return
        done
        # Its environment is the choice of the program that started it, so it is not read.
        ;;
    envoy:*)
        for path in '/config_dump?resource='{bootstrap,static_clusters,dynamic_{listeners,route_configs,active_clusters,active_secrets}} \
            /certs /clusters /stats; do
            ask --unix-socket "$process/cwd/run/envoy-admin.sock" "http://envoy$path" || return
        done
        cat "$process/environ" >>"$SALLYPORT_SCRATCH/answers" || return
        ;;
    *) return 0 ;;
    esac
    printf '\n%s\n' "--- $process" "${command[@]}" >>"$SALLYPORT_SCRATCH/answers"
} 2>/dev/null

# Prints the argument after $1.
after() {
    local option=$1
    shift
    while [[ $1 != "$option" ]]; do shift; done
    echo "$2"
}

# Keeps the answer to a GET, by curl with these arguments.
ask() {
    printf '\n--- %s\n' "$*" >>"$SALLYPORT_SCRATCH/answers"
    curl -q --silent --include --noproxy '*' --max-time 30 "$@" >>"$SALLYPORT_SCRATCH/answers"
}

# Whether the process $1 ends within ten seconds. The Envoy of a gateway that was killed a moment ago may still be
# exiting.
ends() {
    local tries state
    for ((tries = 0; tries < 100; tries++)); do
        # The fields after the name, which is in brackets and may contain any bytes (proc_pid_stat(5)).
        state=$(sed 's/.*) //' "$1/stat" 2>/dev/null) || return 0
        [[ $state != Z* ]] || return 0
        sleep 0.1
    done
    return 1
}

# Prints the files below $2 with a match of $1. Fails only if grep fails.
holds() {
    local status=0
    env LC_ALL=C grep -rlaP --exclude-dir='keys*' --exclude-dir=tokens -- "$1" "$2" || status=$?
    [[ $status -lt 2 ]]
}

if [[ "${1:-}" == --inside ]]; then
    shift
    ip link set lo up
    # `ip netns` keeps its names there. On a tmpfs, the machine never has a name of the tests.
    if [[ -d /run/netns ]]; then mount -t tmpfs tmpfs /run/netns; else mount -t tmpfs tmpfs /run && mkdir /run/netns; fi
    # The host side of the little internet must not forward for the sandboxes.
    echo 0 2>/dev/null >/proc/sys/net/ipv4/ip_forward || true
    # No exec: this shell is process 1 here, reaps orphans, and ends all other processes when it ends.
    status=0
    SALLYPORT_NETNS=1 "$@" || status=$?
    # Search here, while the disks that a test has made are still mounted.
    [[ $status != 0 ]] || { look && search "$SALLYPORT_SCRATCH"; } || status=1
    exit "$status"
fi

isolate=(unshare --net --mount --pid --fork --kill-child --mount-proc)
[[ $(id -u) == 0 ]] || isolate+=(--map-root-user)

# Short, and outside the checkout: paths of Unix sockets are at most 107 bytes long.
scratch=$(mktemp -d /tmp/sp-e2e.XXXXXX)
status=0
SALLYPORT_SCRATCH=$scratch "${isolate[@]}" "$0" --inside "$@" || status=$?
if [[ $status == 0 && -z "${SALLYPORT_KEEP:-}" ]]; then
    rm -rf "$scratch"
else
    echo "logs and state are kept in $scratch" >&2
fi
exit "$status"
