"""The rig of bench.py: the upstream, `sallyport up`, and Envoys that run less of its chain.

The product has no switch for this. The rig removes stages from the configuration that the gateway's Envoy reports.
Everything else, leaves, routes and filters too, comes from the same control plane.
"""

import copy
import http.client
import json
import os
import socket
import subprocess
import time
from pathlib import Path

CREDENTIALED = ("api.github.com", "/user")
PLAIN = ("files.example.net", "/octocat/Hello-World/master/README")
REPOSITORY = "octocat/Hello-World"
TOKEN = "bench-fixture-token"
BODY = "x" * 1024
# The upstream's response to a request with this header repeats the `authorization` that arrived.
# The name is a header that GitHub's API gets: unknown headers are removed on the way.
ECHO = "time-zone"
# The upstream's response to the gateway's own requests.
INJECTED = "the credential"
# Filters that forwarding requires; every other filter is a stage.
PLUMBING = ("upstream", "router")
DEADLINE = 60.0

WORKERS = len(os.sched_getaffinity(0))
ENVOY = os.environ["ENVOY_BIN"]
SALLYPORT = os.environ["SALLYPORT_BIN"]
# The load is one address's. An older gateway may not know this setting: SALLYPORT_SETTINGS replaces it.
SETTINGS = os.environ.get("SALLYPORT_SETTINGS", "limits: {requests_per_second: 1000000}")
SCRATCH = Path(os.environ["SALLYPORT_SCRATCH"])
STATE = SCRATCH / "state"


class Failed(Exception):
    """The benchmark can't be trusted or can't continue; the text has the reason."""


class Processes:
    """The processes that this run has started; ended by id, the last one first."""

    def __init__(self):
        self.started = []

    def start(self, name, command, environment=None):
        log = open(SCRATCH / f"{name}.log", "wb")
        # Paths in Envoy's configuration are relative to the state directory.
        process = subprocess.Popen(
            command, cwd=STATE, env=environment or {}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        self.started.append((name, process))
        return process

    def start_envoy(self, name, configuration):
        file = SCRATCH / f"{name}.json"
        file.write_text(json.dumps(configuration))
        arguments = ["--disable-hot-restart", "--log-level", "warning", "--concurrency", str(WORKERS)]
        return self.start(name, [ENVOY, "--config-path", str(file), *arguments])

    def all_alive(self):
        for name, process in self.started:
            if process.poll() is not None:
                raise Failed(f"{name} has ended by itself ({process.returncode}):\n{tail(name)}")

    def end(self):
        for _, process in reversed(self.started):
            process.terminate()
        for _, process in reversed(self.started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def tail(name):
    return "\n".join((SCRATCH / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def child_named(parent, name):
    """The id of the child of `parent` with this name, or None."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if int(rest.split()[1]) == parent and head.partition("(")[2] == name:
                return int(entry.name)
    return None


def eventually(what, attempt, processes):
    """Waits until `attempt` returns something true."""
    deadline, last = time.monotonic() + DEADLINE, None
    while time.monotonic() < deadline:
        processes.all_alive()
        try:
            result = attempt()
            if result:
                return result
        except (OSError, http.client.HTTPException) as error:
            last = error
        time.sleep(0.05)
    raise Failed(f"{what}: not within {DEADLINE:.0f} s ({last})")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(connection, method, path, body=None, headers=None):
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def admin(port, method, path, body=None):
    token = STATE / "admin-token"
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
    response, text = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=10), method, path, body, headers)
    return response.status, text


def make_certificates():
    """A CA for the upstream, and its certificate for both names."""

    def openssl(*arguments):
        done = subprocess.run(["openssl", *arguments], cwd=SCRATCH, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"openssl {arguments[0]}: {done.stderr.strip()}")

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=bench upstream CA")
    openssl("req", *key, "-keyout", "upstream.key", "-out", "upstream.csr", "-subj", "/CN=bench upstream")
    (SCRATCH / "upstream.ext").write_text(f"subjectAltName=DNS:{CREDENTIALED[0]},DNS:{PLAIN[0]}\n")
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "upstream.ext"]
    openssl("x509", "-req", "-in", "upstream.csr", *signer, "-out", "upstream.pem", "-days", "2")


def typed(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.{kind}", **fields}}


def upstream_configuration(port):
    """A TLS server that responds to every request with the same 1 KiB."""
    answer = {"status": 200, "body": {"inline_string": BODY}}
    echo = {"header": {"key": ECHO, "value": "[%REQ(authorization)%]"}}
    asked = {"prefix": "/", "headers": [{"name": ECHO, "present_match": True}]}
    # In words, since the gateway removes a repeated credential from a response.
    ours = {"name": "authorization", "string_match": {"exact": f"Bearer {TOKEN}"}}
    injected = {"prefix": "/", "headers": [*asked["headers"], ours]}
    told = {"header": {"key": ECHO, "value": INJECTED}}
    routes = [
        {"match": injected, "direct_response": answer, "response_headers_to_add": [told]},
        {"match": asked, "direct_response": answer, "response_headers_to_add": [echo]},
        {"match": {"prefix": "/"}, "direct_response": answer},
    ]
    manager = typed(
        "http",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="upstream",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[typed("router", "extensions.filters.http.router.v3.Router")],
    )
    certificate = {
        "certificate_chain": {"filename": str(SCRATCH / "upstream.pem")},
        "private_key": {"filename": str(SCRATCH / "upstream.key")},
    }
    tls = typed(
        "tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={"tls_certificates": [certificate], "alpn_protocols": ["h2", "http/1.1"]},
    )
    listener = {
        "name": "upstream",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"transport_socket": tls, "filters": [manager]}],
    }
    return {"static_resources": {"listeners": [listener]}}


def start_gateway(processes, upstream_port):
    """`sallyport up` with both names pinned to the upstream and 127.0.0.1 registered; its ports and its Envoy."""
    proxy, api = free_port(), free_port()
    pin = f"{{address: 127.0.0.1, port: {upstream_port}, ca: ca.pem}}"
    (SCRATCH / "sallyport.yaml").write_text(
        f"listen: {{proxy: '127.0.0.1:{proxy}', admin: '127.0.0.1:{api}'}}\n"
        f"{SETTINGS}\npolicy: policy.yaml\nupstream_roots: ca.pem\n"
        f"upstreams:\n  {CREDENTIALED[0]}: {pin}\n  {PLAIN[0]}: {pin}\n"
    )
    (SCRATCH / "policy.yaml").write_text(f"egress: [github, {PLAIN[0]}]\n")
    command = [SALLYPORT, "up", "--config", str(SCRATCH / "sallyport.yaml"), "--state-dir", str(STATE)]
    environment = {"HOME": str(SCRATCH), "GITHUB_TOKEN": TOKEN}
    environment |= {name: os.environ[name] for name in ("PATH", "ENVOY_BIN", "SALLYPORT_FILTERS")}
    process = processes.start("sallyport", [*command, "--envoy-concurrency", str(WORKERS)], environment)
    eventually("sallyport up is ready", lambda: admin(api, "GET", "/readyz")[0] == 200, processes)
    record = {"container_ip": "127.0.0.1", "container_id": "bench", "repos": [{"name": REPOSITORY, "id": 1, "default_branch": "main"}]}
    status, answer = admin(api, "POST", "/internal/containers", json.dumps(record))
    if status != 201:
        raise Failed(f"the sandbox could not be registered: {status} {answer}")
    (SCRATCH / "gateway-ca.pem").write_text(admin(api, "GET", "/ca.pem")[1])
    envoy = child_named(process.pid, "envoy")
    if envoy is None:
        raise Failed("sallyport up runs no Envoy")
    return process.pid, envoy, proxy


class Chain:
    """The configuration that the gateway's Envoy reports, and the same with fewer stages."""

    def __init__(self, processes):
        def dump():
            response, text = ask(UnixConnection(STATE / "run/envoy-admin.sock"), "GET", "/config_dump")
            return json.loads(text)["configs"] if response.status == 200 else None

        configs = eventually("Envoy tells its configuration", dump, processes)
        sections = {section["@type"].rpartition(".")[2]: section for section in configs}
        self.bootstrap = sections["BootstrapConfigDump"]["bootstrap"]
        clusters = sections["ClustersConfigDump"]["dynamic_active_clusters"]
        self.clusters = [untyped(entry["cluster"]) for entry in clusters]
        listeners = [e["active_state"]["listener"] for e in sections["ListenersConfigDump"]["dynamic_listeners"]]
        # There may be more listeners, for clients without proxy support; the rig sends no request there.
        self.listeners = [untyped(entry) for entry in listeners if entry["name"] in ("proxy", "tunnel")]
        found = [[f["name"] for f in manager["http_filters"]] for manager in managers(self.listeners)]
        if len(self.listeners) != 2 or not found or not all("router" in names for names in found):
            raise Failed(f"the gateway's listeners are not what this benchmark knows: {found}")
        longest = max(found, key=len)
        self.stages = [name for name in longest if name not in PLUMBING]

    def with_stages(self, name, stages, audited, port):
        """A bootstrap with only these filters. Leaves, routes and filters still come from the control plane."""
        bootstrap = copy.deepcopy(self.bootstrap)
        bootstrap["node"] = {"id": f"bench-{name}", "cluster": "bench"}
        bootstrap["admin"] = {"address": {"pipe": {"path": f"run/bench-{name}.sock", "mode": 0o600}}}
        for discovered in ("lds_config", "cds_config"):
            bootstrap["dynamic_resources"].pop(discovered)
        listeners = copy.deepcopy(self.listeners)
        for listener in listeners:
            if listener["name"] == "proxy":
                listener["address"]["socket_address"]["port_value"] = port
            if not audited:
                listener.pop("access_log", None)
        for manager in managers(listeners):
            kept = [f for f in manager["http_filters"] if f["name"] in PLUMBING or f["name"] in stages]
            manager["http_filters"] = kept
            if not audited:
                manager.pop("access_log", None)
        bootstrap["static_resources"]["listeners"] = listeners
        bootstrap["static_resources"]["clusters"] += copy.deepcopy(self.clusters)
        if "[redacted]" in json.dumps(bootstrap):
            raise Failed("Envoy's configuration holds a secret now, which its dump does not tell")
        return bootstrap


def untyped(resource_any):
    return {key: value for key, value in resource_any.items() if key != "@type"}


def managers(listeners):
    """Every HTTP connection manager in them."""
    for listener in listeners:
        chains = listener.get("filter_chains", []) + [listener.get("default_filter_chain") or {}]
        for chain in chains:
            for network_filter in chain.get("filters", []):
                # The filter of connections comes by ECDS, without a configuration here.
                manager = network_filter.get("typed_config", {})
                if "http_filters" in manager:
                    yield manager
