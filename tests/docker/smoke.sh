#!/usr/bin/env bash
# Starts the shipped docker-compose.yml with the output of `make build` and real Envoy, and tests it from a registered
# sandbox, an unregistered one, the host and the upstream.
#
# No image is pulled: the base image is made of Debian's packages with mmdebstrap or debootstrap, once, and kept as
# target/docker/base.tar. All other objects have a name of this run, and the run removes them at its end, also on
# failure. No packet leaves the test's networks, except to fetch Debian's packages.
#
#   tests/docker/smoke.sh
#
# ENVOY_BIN         Envoy; by default the path that envoy/install.sh prints
# SALLYPORT_KEEP=1  keep all objects running, and print how to remove them
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

readonly packages=ca-certificates,curl,git
readonly mirror=http://deb.debian.org/debian
readonly base_tar=target/docker/base.tar
# For a name with another ending, mmdebstrap makes a directory.
readonly partial_tar=target/docker/base.$$.tar
# The age from which the base image is made anew.
readonly max_age_days=30
# stand-in.yaml has the same token.
readonly token=smoke-fixture-token
readonly deadline=60

skip() {
    echo "skipped: docker smoke test: $1"
    # In CI, a machine that cannot run the test is a failure.
    [[ ${CI:-} != true ]] || exit 1
    exit 0
}
die() { echo "docker smoke test: $*" >&2; exit 1; }
step() { echo "docker smoke test: $*, at ${SECONDS}s"; }

command -v docker >/dev/null || skip "there is no 'docker' command"
why=$(timeout 30 docker version --format '{{.Server.Version}}' 2>&1) || skip "the Docker engine does not respond (${why##*$'\n'})"
if docker compose version >/dev/null 2>&1; then compose=(docker compose)
elif command -v docker-compose >/dev/null; then compose=(docker-compose)
else skip "there is neither 'docker compose' nor 'docker-compose'"; fi
# Without the plug-in, only the old builder exists.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
for tool in openssl curl ip; do command -v "$tool" >/dev/null || skip "'$tool' is not installed"; done
for file in target/release/sallyport target/filters/sallyport.wasm; do
    [[ -e $file ]] || die "$file is missing: run 'make build' first"
done
envoy=${ENVOY_BIN:-$(envoy/install.sh)}

make_base() {
    [[ -z $(find "$base_tar" -mtime "-$max_age_days" 2>/dev/null) ]] || return 0
    mkdir -p target/docker
    step "making a base image of Debian's packages"
    local log=target/docker/base.log
    if command -v mmdebstrap >/dev/null; then
        mmdebstrap --quiet --variant=minbase --include="$packages" --dpkgopt='path-exclude=/usr/share/doc/*' \
            --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$partial_tar" "$mirror" >"$log" 2>&1 ||
            die "mmdebstrap failed: $(tail -n 1 "$log")"
    elif command -v debootstrap >/dev/null && [[ $(id -u) == 0 ]]; then
        rm -rf target/docker/base
        debootstrap --variant=minbase --include="$packages" bookworm target/docker/base "$mirror" >"$log" 2>&1 ||
            die "debootstrap failed: $(tail -n 1 "$log")"
        tar -C target/docker/base --numeric-owner --exclude='./dev/*' --exclude='./var/cache/apt/archives/*' \
            -cf "$partial_tar" .
        rm -rf target/docker/base
    else
        skip "no base image: neither mmdebstrap nor (as root) debootstrap is installed"
    fi
    mv -f "$partial_tar" "$base_tar"
}

readonly project=sallyport-smoke-$$
dir=$(mktemp -d)
readonly dir
failed=0 passed=0

tear_down() {
    local status=$?
    trap - EXIT
    if ((failed || status)); then
        echo "--- the ends of the containers' logs"
        "${composed[@]}" ps || true
        "${composed[@]}" logs --no-color --tail=30 || true
        echo "---"
    fi
    if [[ ${SALLYPORT_KEEP:-} == 1 ]]; then
        echo "kept: project $project, images $project-*, files in $dir"
        exit "$status"
    fi
    step "removing everything"
    "${composed[@]}" down --volumes --remove-orphans --timeout 5 >"$dir/down.log" 2>&1 || cat "$dir/down.log" >&2
    docker image rm "$project-control" "$project-envoy" "$project-base" >/dev/null 2>&1 || true
    left=$(docker ps -aq --filter "label=com.docker.compose.project=$project"
        docker network ls -q --filter "name=$project"; docker volume ls -q --filter "name=$project"
        docker image ls -q "$project-*")
    if [[ -n $left ]]; then
        echo "docker smoke test: left behind: $left" >&2
        status=1
    fi
    rm -rf "$dir"
    step "done"
    exit "$status"
}

# Three networks without a route from this machine.
for ((net = 208; ; net += 4)); do
    ((net < 252)) || die "no free networks in 172.31.208.0/20"
    if ! ip route | grep -Eq "172\.31\.($net|$((net + 1))|$((net + 2)))\."; then break; fi
done

export COMPOSE_PROJECT_NAME=$project SMOKE_DIR=$dir
export SALLYPORT_BUILD=prebuilt SALLYPORT_RUN_IMAGE=$project-base SALLYPORT_IMAGE=$project-control
export SALLYPORT_ENVOY_IMAGE=$project-envoy SALLYPORT_SANDBOX_IMAGE=$project-base
export SALLYPORT_CONFIG_DIR=$dir/config SALLYPORT_CA_BUNDLE=$dir/ca-bundle.pem
export SALLYPORT_SANDBOX_NETWORK=$project-sandbox
export SALLYPORT_SANDBOX_SUBNET=172.31.$net.0/24 SALLYPORT_SANDBOX_RANGE=172.31.$net.128/25
export SALLYPORT_GATEWAY_IP=172.31.$net.2 SALLYPORT_SANDBOX_IP=172.31.$net.10 SMOKE_STRANGER=172.31.$net.11
export SMOKE_EGRESS_SUBNET=172.31.$((net + 1)).0/24 SMOKE_STAND_IN=172.31.$((net + 1)).9
export SMOKE_CONTROL_SUBNET=172.31.$((net + 2)).0/24
# Docker chooses a free port; the test checks the default port in the file.
export SALLYPORT_ADMIN_PORT=0
export GITHUB_TOKEN=$token
unset GH_TOKEN ANTHROPIC_API_KEY CLAUDE_CODE_OAUTH_TOKEN OPENAI_API_KEY GEMINI_API_KEY GOOGLE_API_KEY
# Without the operator's .env: its settings are not for the test.
composed=("${compose[@]}" --env-file "$dir/none.env" -f docker-compose.yml -f tests/docker/smoke.compose.yaml --profile example)

make_base
: >"$dir/none.env"
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "importing the base image"
docker import "$base_tar" "$project-base" >/dev/null
# A daemon without the right to raise the limit of files gives its own to containers.
files=$(docker run --rm --network none "$project-base" bash -c 'ulimit -Hn')
if [[ $files != unlimited ]] && ((files < 150000)); then export SALLYPORT_FILES=$files; fi
mkdir "$dir/envoy-image" "$dir/config" "$dir/stand-in"
cp "$envoy" "$dir/envoy-image/envoy"
printf 'FROM %s\nCOPY envoy /usr/local/bin/envoy\n' "$project-base" >"$dir/envoy-image/Dockerfile"
step "building Envoy's image"
docker build -q -t "$project-envoy" "$dir/envoy-image" >"$dir/build.log" 2>&1 || die "$(cat "$dir/build.log")"
step "building the control plane's image"
"${composed[@]}" build control-plane >"$dir/build.log" 2>&1 || die "$(cat "$dir/build.log")"

# The shipped configuration, with the stand-in in place of GitHub.
cp tests/docker/stand-in.yaml "$dir/stand-in/"
cp config/compose.yaml config/policy.yaml "$dir/config/"
printf '\nupstreams:\n  api.github.com: { address: %s, port: 443, ca: stand-in-ca.pem }\n' "$SMOKE_STAND_IN" \
    >>"$dir/config/compose.yaml"
(
    cd "$dir/stand-in"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=smoke test CA' \
        -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=stand-in' -keyout leaf.key -out leaf.csr
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out leaf.pem \
        -extfile <(echo 'subjectAltName=DNS:api.github.com')
) >"$dir/openssl.log" 2>&1 || die "$(cat "$dir/openssl.log")"
rm "$dir/stand-in/ca.key"
mv "$dir/stand-in/ca.pem" "$dir/config/stand-in-ca.pem"
# The containers' user does not exist on this machine, and only the owner may read the directory of mktemp.
chmod -R a+rX "$dir"

check() {
    local name=$1
    shift
    if "$@" >"$dir/check.log" 2>&1; then
        passed=$((passed + 1))
        echo "test docker::$name ... ok"
    else
        failed=$((failed + 1))
        echo "test docker::$name ... FAILED"
        sed 's/^/    /' "$dir/check.log"
    fi
}
# within SECONDS COMMAND…: retries the command until it succeeds, for at most SECONDS.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}
not() { ! "$@"; }
declare -A ids
know() { for service in "$@"; do ids[$service]=$("${composed[@]}" ps -q "$service"); done; }
id_of() { echo "${ids[$1]}"; }
# `compose exec` would take a second to begin.
in_() { docker exec -i "${ids[$1]}" "${@:2}" </dev/null; }
inspect() { docker inspect --format "$1" "${@:2}"; }
healthy() { [[ $(inspect '{{.State.Health.Status}}' "$(id_of "$1")") == healthy ]]; }
connects() { in_ "$1" timeout 3 bash -c "</dev/tcp/$2/$3"; }
# A name without an address fails at once, too.
resolves() { in_ "$1" timeout 10 getent hosts "$2"; }
address_on() { inspect "{{(index .NetworkSettings.Networks \"$2\").IPAddress}}" "$(id_of "$1")"; }
get() { in_ "$1" curl -sS --max-time 20 -i -H 'authorization: Bearer held-by-the-gateway' "$2"; }
arrived() { docker logs "$(id_of stand-in)" 2>&1 | grep -F "arrived: GET /repos/acme/app/commits/$1"; }

step "starting control plane, Envoy and stand-in"
"${composed[@]}" up -d --no-build envoy stand-in >"$dir/up.log" 2>&1 || die "$(cat "$dir/up.log")"
know control-plane envoy stand-in
check envoy_becomes_healthy within $deadline healthy envoy
step "the gateway is there"
in_ control-plane sallyport ca export --bundle >"$SALLYPORT_CA_BUNDLE"
chmod a+r "$SALLYPORT_CA_BUNDLE"
"${composed[@]}" up -d --no-build sandbox stranger >"$dir/up.log" 2>&1 || die "$(cat "$dir/up.log")"
know sandbox stranger
step "the sandboxes are there"

confined() {
    local status
    status=$(in_ "$1" sh -c 'cat /proc/1/status; touch /anything 2>&1; true') || return 1
    echo "$status"
    grep -Pq '^Uid:\t10001\t10001' <<<"$status" && grep -Pq '^CapEff:\t0+$' <<<"$status" &&
        grep -Pq '^CapBnd:\t0+$' <<<"$status" && grep -Pq '^NoNewPrivs:\t1$' <<<"$status" &&
        grep -q 'Read-only file system' <<<"$status" &&
        [[ $(inspect '{{.HostConfig.Memory}}' "$(id_of "$1")") -gt 0 ]] &&
        [[ $(inspect '{{.HostConfig.PidsLimit}}' "$(id_of "$1")") == 512 ]]
}
check control_plane_is_confined confined control-plane
check envoy_is_confined confined envoy

sees_only_sockets() {
    local seen
    seen=$(in_ envoy sh -c 'ls -A /var/lib/sallyport; find run ! -type d ! -type s') && echo "$seen" && [[ $seen == run ]] &&
        in_ envoy test -S run/xds.sock
}
check envoy_sees_the_sockets_and_nothing_else_of_the_state sees_only_sockets
no_router() {
    [[ $(in_ envoy cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter) == $'0\n1' ]]
}
check envoy_is_no_router no_router

networks() { inspect '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' "$(id_of "$1")"; }
stands_on() { echo "$1: $(networks "$1")"; [[ $(networks "$1") == "$2" ]]; }
check the_control_plane_stands_on_its_own_network_only stands_on control-plane "${project}_control "
check envoy_stands_on_two_networks stands_on envoy "$project-sandbox ${project}_egress "
check a_sandbox_stands_on_one_network stands_on sandbox "$project-sandbox "

published() {
    local all
    all=$(inspect '{{range $port, $bound := .HostConfig.PortBindings}}{{range $bound}}{{.HostIp}} {{$port}};{{end}}{{end}}' \
        "$(id_of control-plane)" "$(id_of envoy)" "$(id_of sandbox)")
    echo "$all"
    [[ $(tr -d '\n' <<<"$all") == "127.0.0.1 8081/tcp;" ]] && grep -Fq '"127.0.0.1:${SALLYPORT_ADMIN_PORT:-8081}:8081"' docker-compose.yml
}
check only_the_admin_port_is_published_on_loopback_only published

# The example contains the output of `sallyport env`.
env_is_shipped() {
    local have line
    have=$(inspect '{{range .Config.Env}}{{println .}}{{end}}' "$(id_of sandbox)")
    in_ control-plane sallyport env --gateway http://gateway:8080 --ca-bundle /etc/sallyport/ca-bundle.pem >"$dir/env" || return 1
    while read -r line; do
        line=$(sed "s/^export //; s/'//g" <<<"$line")
        grep -Fxq -- "$line" <<<"$have" || { echo "the example has no $line"; return 1; }
    done <"$dir/env"
    [[ -s $dir/env ]]
}
check the_example_has_what_sallyport_env_prints env_is_shipped

stranger_is_refused() {
    get stranger https://api.github.com/repos/acme/app/commits/stranger >"$dir/answer" || return 1
    cat "$dir/answer"
    grep -q '^HTTP/2 403' "$dir/answer" && grep -q 'identity.unknown' "$dir/answer"
}
check an_unregistered_sandbox_is_refused_and_told_so stranger_is_refused

check registering_by_exec in_ control-plane sallyport container add --ip "$SALLYPORT_SANDBOX_IP" --repo acme/app
served() {
    get sandbox "https://api.github.com/repos/acme/app/commits/$1" >"$dir/answer" || return 1
    cat "$dir/answer"
    # The stand-in returns 200 only for the credential. Its response repeats the credential, and the gateway removes it.
    grep -q '^HTTP/2 200' "$dir/answer" && not grep -q "$token" "$dir/answer"
}
check a_registered_sandbox_gets_200_with_the_credential_added served first
check the_other_one_is_still_refused stranger_is_refused
audited() {
    in_ control-plane grep -F "\"container_ip\":\"$SMOKE_STRANGER\"" /var/lib/sallyport/audit.jsonl >"$dir/audit" &&
        grep -q 'identity.unknown' "$dir/audit" && not grep -q "$token" "$dir/audit"
}
check the_audit_names_the_stranger_s_address within 10 audited

control=$(address_on control-plane "${project}_control")
gateway_outside=$(address_on envoy "${project}_egress")
# Controls: each address is reachable from some container. Otherwise the tests that follow would prove nothing.
check control_envoy_reaches_the_upstream connects envoy "$SMOKE_STAND_IN" 443
check control_a_sandbox_reaches_the_proxy connects sandbox gateway 8080
check no_sandbox_reaches_the_upstream_directly not connects sandbox "$SMOKE_STAND_IN" 443
check no_sandbox_reaches_the_gateway_from_outside not connects sandbox "$gateway_outside" 8080
check no_sandbox_reaches_the_control_plane not connects sandbox "$control" 8081
check no_sandbox_finds_the_admin_port_at_the_gateway not connects sandbox gateway 8081
check no_sandbox_resolves_the_control_plane not resolves sandbox control-plane
check no_sandbox_resolves_a_name_of_the_internet not resolves sandbox api.github.com
# 192.0.2.0/24 is reserved (RFC 5737); the source address of the route to it is the host's own.
host=$(ip -4 -o route get 192.0.2.1 | sed -n 's/.* src \([0-9.]*\).*/\1/p')
admin_port=$(docker port "$(id_of control-plane)" 8081/tcp | sed 's/.*://')
check no_sandbox_reaches_the_published_port_by_way_of_the_host not connects sandbox "$host" "$admin_port"
is_internal() { [[ $(docker network inspect --format '{{.Internal}}' "$project-sandbox") == true ]]; }
check the_sandboxes_network_is_internal is_internal
no_bridge_address() {
    local bridge
    bridge=br-$(docker network inspect --format '{{.Id}}' "$project-sandbox" | cut -c 1-12)
    ip addr show dev "$bridge" && [[ -z $(ip -4 -o addr show dev "$bridge") ]]
}
check the_host_has_no_address_on_the_sandboxes_network no_bridge_address

# socket(AF_PACKET, SOCK_RAW), socket(AF_INET, SOCK_RAW, IPPROTO_RAW), IP_TRANSPARENT, and IP_FREEBIND with a connect.
readonly spoof='use Socket; my ($how, $as, $to) = @ARGV;
    if ($how eq "packet") { socket(my $s, 17, SOCK_RAW, 0) or die "$!\n" }
    elsif ($how eq "raw") { socket(my $s, AF_INET, SOCK_RAW, 255) or die "$!\n" }
    else {
        socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
        setsockopt($s, 0, $how eq "transparent" ? 19 : 15, pack("i", 1)) or die "setsockopt: $!\n";
        bind($s, sockaddr_in(0, inet_aton($as))) or die "bind: $!\n";
        alarm 5; connect($s, sockaddr_in(8080, inet_aton($to))) or die "connect: $!\n";
    }'
spoofs() { in_ stranger perl -e "$spoof" "$1" "${2:-$SALLYPORT_SANDBOX_IP}" "$SALLYPORT_GATEWAY_IP"; }
for how in packet raw transparent freebind; do
    check "a_sandbox_cannot_take_another_address_by_$how" not spoofs $how
done
check control_its_own_address_can_be_bound spoofs freebind "$SMOKE_STRANGER"
check control_with_net_raw_the_packet_socket_opens docker run --rm --network none "$project-base" perl -e "$spoof" packet

envoy_started() { inspect '{{.State.StartedAt}} {{.RestartCount}}' "$(id_of envoy)"; }
before=$(envoy_started)
step "restarting the control plane"
"${composed[@]}" restart --timeout 5 control-plane >"$dir/restart.log" 2>&1 || die "$(cat "$dir/restart.log")"
check the_control_plane_is_healthy_again within $deadline healthy control-plane
still_listed() { in_ control-plane sallyport container ls | grep -F "$SALLYPORT_SANDBOX_IP"; }
check the_registration_is_still_there still_listed
check the_registered_sandbox_is_served_again within 20 served again
check the_other_one_is_refused_again within 20 stranger_is_refused
same_envoy() { [[ $(envoy_started) == "$before" ]]; }
check envoy_was_not_restarted_for_it same_envoy

# As editors do: a new file replaces the old file.
printf 'egress: []\n' >"$dir/config/policy.new"
mv "$dir/config/policy.new" "$dir/config/policy.yaml"
policy_applies() {
    get sandbox https://api.github.com/repos/acme/app/commits/late >"$dir/answer" && grep -q 'egress.host' "$dir/answer"
}
check a_change_of_the_mounted_policy_is_applied within 10 policy_applies

# The stand-in logs in order: after the last served request is in the log, all earlier requests are.
check control_what_was_served_arrived within 5 arrived again
check nothing_of_the_refused_arrived not arrived stranger

if grep -q '^ *admin_token: *required' config/compose.yaml; then
    # Since the restart, Docker may publish another port.
    api=http://127.0.0.1:$(docker port "$(id_of control-plane)" 8081/tcp | sed 's/.*://')/internal/containers
    no_token() { [[ $(curl -s --noproxy '*' -o /dev/null -w '%{http_code}' "$api") == 401 ]]; }
    with_token() {
        curl -sS --noproxy '*' --fail -H "authorization: Bearer $(in_ control-plane cat /var/lib/sallyport/admin-token)" \
            "$api" | grep -F "$SALLYPORT_SANDBOX_IP"
    }
    check the_admin_api_on_the_host_asks_for_the_token no_token
    check the_admin_api_on_the_host_answers_with_the_token with_token
else
    echo "skipped: docker smoke test, the published admin API: config/compose.yaml has no 'admin_token: required' yet"
fi

secret_in_logs() { "${composed[@]}" logs --no-color 2>&1 | grep -F "$token"; }
check no_log_holds_the_token not secret_in_logs

echo
if ((failed)); then verdict=FAILED; else verdict=ok; fi
echo "test result: $verdict. $passed passed; $failed failed; 0 ignored; 0 measured; 0 filtered out"
((failed == 0))
