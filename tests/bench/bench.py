"""The cost of a request through the gateway, beside the same Envoy without the gateway's stages.

Measured: requests/s, p50 and p99 of `GET` with a 1 KiB response over persistent HTTP/1.1 connections. TLS inside
CONNECT ends at the gateway with a minted leaf, and TLS starts again to an upstream on loopback. The variants are
  - `bare`: the same listeners, clusters, routes and interception; no filter, no ext_authz, no audit log;
  - `sallyport, nothing injected`: the shipped binary, an allowed host without a credential;
  - `sallyport, credential injected`: the shipped binary, api.github.com, ext_authz adds the token.
Also measured: the CPU seconds of Envoy and of the control plane per request, while the chain grows from bare stage by
stage.

Everything comes from one run of `sallyport up`. Its own Envoy serves the last two variants. Bare and the stages between
are further Envoys: their configuration is that of its Envoy without some stages, and they get leaves, routes and
filters from the same control plane. The product has no switch that turns a stage off.
Cells are interleaved over all variants, and a ratio is taken within its round, so a slow minute affects all alike.

Not measured: an idle network, real upstreams, HTTP/2 clients, connection set-up (it is before the window in which
requests are timed; CPU includes it). Client, gateway and upstream share the machine's cores, so only ratios travel,
and CPU per request is the steadier figure. Clients wait for each response, so p99 is that of a saturated gateway.

Never used: the network outside this machine, and credentials of the environment. A result fails if one response was not
the upstream's own 200, or if one variant does not match its name. Called by run.sh, whose head lists the variables.
"""

import json
import http.client
import os
import platform
import resource
import signal
import sqlite3
import ssl
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rig import (
    BODY, CREDENTIALED, DEADLINE, ECHO, ENVOY, INJECTED, PLAIN, SALLYPORT, SCRATCH, STATE, WORKERS, Chain, Failed,
    Processes, ask, eventually, free_port, make_certificates, start_gateway, upstream_configuration,
)

# Seconds before the window, in which connections are opened. Longer if they need more.
SET_UP = 1.0
# The audit is flushed every 100 ms.
SETTLE = 0.3
# oha's error for requests that are open at its end; this error is expected.
ABORTED_AT_THE_END = "aborted due to deadline"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SECONDS = float(os.environ.get("BENCH_SECONDS") or 5)
ROUNDS = int(os.environ.get("BENCH_ROUNDS") or 3)
CONNECTIONS = [int(n) for n in (os.environ.get("BENCH_CONNECTIONS") or "1 16 256").replace(",", " ").split()]
# The stages' CPU is measured with this load: the gateway is busy, and no request queues for long.
STAGE_CONNECTIONS = 16 if 16 in CONNECTIONS else sorted(CONNECTIONS)[len(CONNECTIONS) // 2]
RESULTS = Path(os.environ["BENCH_RESULTS"])


@dataclass
class Variant:
    """One way through a gateway: the Envoy and the request."""

    name: str
    stages: list
    port: int
    envoy: int
    target: tuple
    audited: bool
    identified: bool
    injected: bool


# --- variants ---------------------------------------------------------------------------------------------------------


def make_variants(processes, chain, gateway):
    """The three variants of the table, then the stages between the first and the last."""
    _, envoy, proxy = gateway

    def reduced(label, name, stages, audited):
        port = free_port()
        process = processes.start_envoy(f"envoy-{label}", chain.with_stages(label, stages, audited, port))
        identified, injected = "identity" in stages, "credentials" in stages
        return Variant(name, stages, port, process.pid, CREDENTIALED, audited, identified, injected)

    whole = chain.stages
    if whole[:1] != ["identity"] or "credentials" not in whole:
        raise Failed(f"the chain is expected to begin with identity and to have credentials, and is {whole}")
    table = [
        reduced("bare", "bare", [], False),
        Variant("sallyport, nothing injected", whole, proxy, envoy, PLAIN, True, True, False),
        Variant("sallyport, credential injected", whole, proxy, envoy, CREDENTIALED, True, True, True),
    ]
    between = [reduced("audit", "+ audit log", [], True)]
    for count in range(1, len(whole)):
        between.append(reduced(whole[count - 1], f"+ {whole[count - 1]}", whole[:count], True))
    return table, between


def audit_lines():
    return (STATE / "audit.jsonl").read_bytes().count(b"\n")


def prove(variant, trust, processes):
    """Checks the variant: the upstream's own response, the credential, the audit line, and the container in it."""

    # A new Envoy has no registry yet and returns 503.
    up = lambda: get_through(variant, trust, {ECHO: "1"})[0].status != 503
    eventually(f"{variant.name}: an answer", up, processes)
    time.sleep(SETTLE)
    before = audit_lines()
    response, body = get_through(variant, trust, {ECHO: "1", "authorization": "Bearer placeholder"})
    if (response.status, body) != (200, BODY):
        raise Failed(f"{variant.name}: not the upstream's answer but {response.status} {body[:200]}")
    arrived = response.getheader(ECHO, "")
    if (arrived == INJECTED) != variant.injected:
        raise Failed(f"{variant.name}: the upstream got the authorization {arrived}")
    if variant.audited:
        eventually(f"{variant.name}: an audit line", lambda: audit_lines() > before, processes)
    else:
        time.sleep(SETTLE)
    lines = (STATE / "audit.jsonl").read_text().splitlines()[before:]
    if len(lines) != variant.audited:
        raise Failed(f"{variant.name}: {len(lines)} audit lines for one request")
    # Without the identity filter no stage has decided, and the line shows this.
    if variant.audited and (json.loads(lines[0])["verdict"] == "allow") != variant.identified:
        raise Failed(f"{variant.name}: the audit says something else than was measured: {lines[0]}")


def get_through(variant, trust, headers):
    """One GET, as a sandbox sends it."""
    host, path = variant.target
    connection = http.client.HTTPSConnection("127.0.0.1", variant.port, timeout=10, context=trust)
    connection.set_tunnel(host, 443)
    return ask(connection, "GET", path, headers=headers)


# --- measuring -------------------------------------------------------------------------------------------------------


def cpu_seconds(pid):
    """User and system time of a process, its ended children not included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise Failed(f"a process that is measured has ended: {error}") from None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds():
    """The CPU time of all processes of the machine, other tenants' included."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds(processes):
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) + sum(cpu_seconds(pid) for pid in processes)


def load(variant, connections, seconds):
    """Runs oha. Returns its summary, and start, end, status and length of each request."""
    host, path = variant.target
    database = SCRATCH / "requests.sqlite"
    database.unlink(missing_ok=True)
    command = ["oha", "--no-tui", "--no-pre-lookup", "--output-format", "json", "--db-url", str(database)]
    command += ["-z", f"{seconds}s", "-c", str(connections), "--http-version", "1.1", "--connect-timeout", "30s"]
    command += ["-x", f"http://127.0.0.1:{variant.port}", "--cacert", str(SCRATCH / "gateway-ca.pem")]
    command += [f"https://{host}{path}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + DEADLINE)
    except subprocess.TimeoutExpired:
        raise Failed(f"{variant.name}, {connections} connections: oha did not end") from None
    if done.returncode != 0:
        raise Failed(f"oha: {done.stderr.strip() or done.stdout.strip()}")
    connection = sqlite3.connect(database)
    try:
        requests = connection.execute("SELECT start, end, status, len_bytes FROM oha").fetchall()
    except sqlite3.OperationalError:
        requests = []
    finally:
        connection.close()
    summary = json.loads(done.stdout)
    errors = {text: n for text, n in summary["errorDistribution"].items() if text != ABORTED_AT_THE_END}
    statuses = summary["statusCodeDistribution"]
    if errors or set(statuses) != {"200"}:
        raise Failed(f"{variant.name}, {connections} connections: statuses {statuses}, errors {errors}")
    if any((status, length) != (200, len(BODY)) for _, _, status, length in requests):
        raise Failed(f"{variant.name}, {connections} connections: not all answers are the upstream's")
    return summary, requests


def percentile(ordered, share):
    """The smallest value that `share` of them do not exceed."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def measure(variant, connections, processes, control_plane, everyone):
    """One cell of one round."""
    machine, own = machine_cpu_seconds(), own_cpu_seconds(everyone)
    envoy_before, control_before = cpu_seconds(variant.envoy), cpu_seconds(control_plane)
    began = time.monotonic()
    summary, requests = load(variant, connections, SET_UP + SECONDS)
    time.sleep(SETTLE)
    elapsed = time.monotonic() - began
    envoy, control = cpu_seconds(variant.envoy) - envoy_before, cpu_seconds(control_plane) - control_before
    others = machine_cpu_seconds() - machine - (own_cpu_seconds(everyone) - own)
    processes.all_alive()

    # oha counts the connection set-up into the first request of a connection, so first requests are left out.
    begin, end = max(SET_UP, summary["details"]["DNSDialup"]["slowest"] + 0.1), SET_UP + SECONDS
    if end - begin < SECONDS / 2:
        raise Failed(f"{variant.name}: opening {connections} connections took most of the time; raise BENCH_SECONDS")
    answered = sum(begin <= finish <= end for _, finish, _, _ in requests)
    durations = sorted(finish - start for start, finish, _, _ in requests if start >= begin)
    if not durations:
        raise Failed(f"{variant.name}, {connections} connections: no request was answered in time")
    return {
        "requests": len(requests),
        "requests_per_second": round(answered / (end - begin), 1),
        "p50_ms": round(percentile(durations, 50) * 1000, 3),
        "p99_ms": round(percentile(durations, 99) * 1000, 3),
        "envoy_cpu_us": round(envoy / len(requests) * 1e6, 1),
        "control_plane_cpu_us": round(control / len(requests) * 1e6, 1),
        "cpu_us": round((envoy + control) / len(requests) * 1e6, 1),
        "cpu_of_others": round(max(0.0, others) / elapsed / os.cpu_count(), 3),
    }


def run_rounds(table, between, processes, control_plane, everyone):
    """All cells, each round through all of them: {(variant, connections): [one for each round]}."""
    cells = {}
    for round_number in range(1, ROUNDS + 1):
        for connections in CONNECTIONS:
            variants = table + (between if connections == STAGE_CONNECTIONS else [])
            for variant in variants:
                cell = measure(variant, connections, processes, control_plane, everyone)
                cells.setdefault((variant.name, connections), []).append(cell)
                print(
                    f"bench: round {round_number} of {ROUNDS}, {connections:>3} connections, {variant.name}: "
                    f"{cell['requests_per_second']:.0f}/s",
                    file=sys.stderr,
                )
    return cells


# --- reporting -------------------------------------------------------------------------------------------------------


def median_of(rounds):
    return {key: statistics.median(cell[key] for cell in rounds) for key in rounds[0]}


def ratio_of(rounds, reference):
    """The median of the ratios, each to the same round of `reference`."""
    keys = ("requests_per_second", "p50_ms", "p99_ms", "cpu_us")
    pairs = list(zip(rounds, reference))
    return {key: round(statistics.median(a[key] / b[key] for a, b in pairs if b[key]), 3) for key in keys}


def report(table, between, cells):
    described = []
    for variant in table + between:
        for connections in CONNECTIONS:
            if rounds := cells.get((variant.name, connections)):
                described.append({
                    "variant": variant.name,
                    "stages": variant.stages,
                    "audited": variant.audited,
                    "connections": connections,
                    "rounds": rounds,
                    "median": median_of(rounds),
                    "ratio_to_bare": ratio_of(rounds, cells["bare", connections]),
                })
    grown = []
    chain = [(table[0].name, table[0]), *((v.name, v) for v in between), (f"+ {table[2].stages[-1]}", table[2])]
    for number, (stage, variant) in enumerate(chain):
        rounds = cells[variant.name, STAGE_CONNECTIONS]
        before = cells[chain[number - 1][1].name, STAGE_CONNECTIONS] if number else None
        added = statistics.median(a["cpu_us"] - b["cpu_us"] for a, b in zip(rounds, before)) if before else 0.0
        middle = {key: median_of(rounds)[key] for key in ("envoy_cpu_us", "control_plane_cpu_us", "cpu_us")}
        grown.append({"stage": stage, "connections": STAGE_CONNECTIONS, **middle, "added_cpu_us": round(added, 1)})
    everything = [cell for rounds in cells.values() for cell in rounds]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {"seconds": SECONDS, "rounds": ROUNDS, "connections": CONNECTIONS, "envoy_workers": WORKERS},
        "cpu_of_others": round(statistics.mean(cell["cpu_of_others"] for cell in everything), 3),
        "cells": described,
        "cpu_per_request_by_stage": grown,
    }


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    kilobytes = next(int(l.split()[1]) for l in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in l)
    model = models[0] if models else platform.machine()
    return {"cpu": model, "cores": WORKERS, "memory_gib": round(kilobytes / 2**20, 1), "kernel": platform.release()}


def versions():
    def said(*command):
        return subprocess.run(command, capture_output=True, text=True, env=os.environ).stdout.strip()

    envoy = said(ENVOY, "--version").partition("version:")[2].strip()
    return {
        "sallyport": said(SALLYPORT, "--version").rpartition(" ")[2],
        "commit": os.environ.get("BENCH_COMMIT", "unknown"),
        "envoy": envoy.split("/")[1] if "/" in envoy else envoy,
        "oha": said("oha", "--version").rpartition(" ")[2],
        "python": platform.python_version(),
    }


def print_table(results):
    settings, here, version = results["settings"], results["machine"], results["versions"]
    cells = {(c["variant"], c["connections"]): c for c in results["cells"]}
    names = list(dict.fromkeys(c["variant"] for c in results["cells"]))[:3]
    print(f"\nGET of {len(BODY)} bytes, HTTP/1.1 in TLS in CONNECT; medians of {ROUNDS} round(s) of {SECONDS:g} s")
    print(f"{here['cores']} cores of {here['cpu']}, shared by client, gateway and upstream")
    print(f"sallyport {version['sallyport']} ({version['commit']}), Envoy {version['envoy']} with "
          f"{settings['envoy_workers']} workers, oha {version['oha']}; CPU is that of Envoy and control plane\n")
    columns = ("requests/s", "of bare", "p50 ms", "p99 ms", "CPU µs/request")
    print(f"{'connections':>11}  {'':<31}" + "".join(f"{column:>15}" for column in columns))
    for connections in CONNECTIONS:
        for name in names:
            cell = cells[name, connections]
            middle, share = cell["median"], cell["ratio_to_bare"]["requests_per_second"]
            figures = (f"{middle['requests_per_second']:,.0f}", f"{share:.2f}", f"{middle['p50_ms']:.2f}")
            figures += (f"{middle['p99_ms']:.2f}", f"{middle['cpu_us']:,.0f}")
            label = connections if name == names[0] else ""
            print(f"{label:>11}  {name:<31}" + "".join(f"{figure:>15}" for figure in figures))
    print(f"\nCPU µs/request by stage, {STAGE_CONNECTIONS} connections")
    columns = ("Envoy", "control plane", "together", "added")
    print(f"{'':>11}  {'':<31}" + "".join(f"{column:>15}" for column in columns))
    for stage in results["cpu_per_request_by_stage"]:
        keys = ("envoy_cpu_us", "control_plane_cpu_us", "cpu_us", "added_cpu_us")
        print(f"{'':>11}  {stage['stage']:<31}" + "".join(f"{stage[key]:>15,.0f}" for key in keys))
    others = results["cpu_of_others"]
    remark = "; this was not a quiet machine, so look at the ratios only" if others > 0.05 else ""
    print(f"\nOther processes took {others:.0%} of the machine's CPU meanwhile{remark}.")


def benchmark(processes):
    make_certificates()
    upstream_port = free_port()
    upstream = processes.start_envoy("upstream", upstream_configuration(upstream_port))
    gateway = start_gateway(processes, upstream_port)
    control_plane, envoy, _ = gateway
    table, between = make_variants(processes, Chain(processes), gateway)
    everyone = [upstream.pid, control_plane, envoy, *(v.envoy for v in [table[0], *between])]

    trust = ssl.create_default_context(cafile=str(SCRATCH / "gateway-ca.pem"))
    for variant in table + between:
        prove(variant, trust, processes)
        # Connections to the upstream, compiled filters, warm caches.
        load(variant, STAGE_CONNECTIONS, 1)
    cells = run_rounds(table, between, processes, control_plane, everyone)
    for variant in table + between:
        prove(variant, trust, processes)
    return report(table, between, cells)


def main():
    def stop(number, _frame):
        raise Failed(f"stopped by signal {number}")

    for number in STOPPING:
        signal.signal(number, stop)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    STATE.mkdir(mode=0o700)
    processes = Processes()
    try:
        if SECONDS < 1 or ROUNDS < 1 or min(CONNECTIONS) < 1:
            raise Failed("BENCH_SECONDS, BENCH_ROUNDS and each of BENCH_CONNECTIONS must be at least 1")
        results = benchmark(processes)
    except Failed as why:
        print(f"bench: {why}", file=sys.stderr)
        return 1
    finally:
        # A second Ctrl-C must not leave anything running.
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        processes.end()
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print_table(results)
    print(f"All results by round: {RESULTS.name} in target/bench.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
