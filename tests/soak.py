"""A million requests and a hundred new policies through one Envoy, and its memory.

Any leak in a VM or of an old policy must eventually show in the memory of the process. The resident memory at the end
may be at most `SLACK` above what it was after the warm-up, a tenth of the requests. Each policy is a new listener in
place of the old one. The old listener ends with its policy once it has drained, after a second.

The test ends after `MOST_ROUNDS` rounds of load, whatever the number of requests.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from harness.config import Tree, cluster, listener, plugin, route, socket_address
from harness.envoy import PROJECT, Envoy
from harness.ports import free_port

REQUESTS, POLICIES = 1_000_000, 100
ROUND_SECONDS, MOST_ROUNDS = 6, 20
POLICIES_A_ROUND = 10
CONNECTIONS = 64
# In KiB: some five bytes for each request after the warm-up.
SLACK = 4 * 1024
DISCOVERY = "./lds.json"
CLUSTERS = ("app", "reviews-v1", "reviews-v2")


def policy(number: int) -> Tree:
    """Returns different policies with the same metric names, because a proxy keeps metrics permanently."""
    check = {"httpGet": {"path": "/healthz"}, "periodSeconds": 0.5}
    upstreams: Tree = {name: {"cluster": name, "readinessProbe": check} for name in CLUSTERS}
    upstreams["app"]["circuitBreaker"] = {"consecutiveFailures": 4 + number % 3, "slowPercent": 80, "slowerThan": "1s"}
    upstreams["closed"] = {"cluster": "app", "force": "notReady"}
    share = number % 100
    versions = [
        {"name": "v1", "upstream": "reviews-v1", "weight": 100 - share, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": share},
    ]
    hash_on = [{"httpHeaderName": "x-user"}, {"httpCookie": {"name": "gray-id", "ttl": "24h"}}]
    releases: list[Tree] = [
        {
            "name": name,
            "match": [{"uri": {"prefix": f"/{name}"}}],
            "steer": {"header": "x-gray-version"},
            "hashOn": hash_on,
            "versions": versions,
        }
        for name in ("reviews", "orders")
    ]
    releases[1]["rollback"] = {"failurePercent": 50}
    return {
        "name": "soak",
        "upstreams": upstreams,
        "probes": {"liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}},
        "releases": releases,
        "gates": [
            {"match": [{"uri": {"prefix": "/app"}}], "upstream": "app"},
            {"match": [{"uri": {"prefix": "/closed"}}], "upstream": "closed"},
        ],
    }


def discovery(number: int) -> Tree:
    filters = [{"name": "graygate", "typed_config": plugin(policy(number))}]
    steered = [route(f"reviews-{version}", "5s", ("x-gray-version", version)) for version in ("v1", "v2")]
    # Most requests reach no upstream, so that the cores are available for the filter.
    answered = {"match": {"path": "/"}, "direct_response": {"status": 200}}
    routes = [answered, *steered, route("app", "5s")]
    tree = listener("graygate", filters, routes, {"access_log": []})
    resource = {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", **tree}
    return {"version_info": f"{number}", "resources": [resource]}


def bootstrap(port: int) -> Tree:
    """The upstreams are a listener of the same Envoy."""
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "well\n"}}}
    upstream = listener("upstream", (), [answer], {"access_log": []})
    upstream["address"] = socket_address(port)
    source = {"path_config_source": {"path": DISCOVERY}, "resource_api_version": "V3"}
    return {
        "node": {"id": "soak", "cluster": "soak"},
        "admin": {"address": socket_address()},
        "static_resources": {"listeners": [upstream], "clusters": [cluster(name, port) for name in CLUSTERS]},
        "dynamic_resources": {"lds_config": source},
    }


def resident(pid: int) -> int:
    """Returns the memory in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


def load(port: int) -> subprocess.Popen[str]:
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{ROUND_SECONDS}s", "-s", str(PROJECT / "tests/soak.lua")]
    command = ["wrk", *options, f"http://127.0.0.1:{port}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


class Soak:
    def __init__(self, envoy: Envoy) -> None:
        self.envoy = envoy
        self.requests = 0
        self.policies = 1
        self.warm = 0

    def publish(self) -> None:
        self.policies += 1
        refusal = self.envoy.put(DISCOVERY, discovery(self.policies))
        if refusal:
            raise SystemExit(f"a policy was refused: {refusal}")

    def round(self) -> None:
        with load(self.envoy.port()) as wrk:
            begun = time.monotonic()
            for number in range(POLICIES_A_ROUND):
                pause = begun + ROUND_SECONDS * number / POLICIES_A_ROUND - time.monotonic()
                time.sleep(max(pause, 0))
                if self.policies < POLICIES:
                    self.publish()
            output = wrk.communicate(timeout=ROUND_SECONDS + 10)[0]
        done = re.search(r"(\d+) requests in", output)
        if not done:
            raise SystemExit(f"wrk told of no request:\n{output}")
        self.requests += int(done[1])

    def run(self) -> bool:
        for _ in range(MOST_ROUNDS):
            self.round()
            memory = resident(self.envoy.pid)
            print(f"{self.requests} requests, {self.policies} policies: resident {memory} KiB", flush=True)
            if not self.warm and self.requests >= REQUESTS / 10:
                self.warm = memory
            if self.requests >= REQUESTS and self.policies >= POLICIES:
                break
        reloads = self.envoy.stats("wasm.graygate.vm_reload")
        print(f"gated {self.envoy.counter('graygate_gated_requests_total')}, VMs that failed {sum(reloads.values())}")
        flat = memory <= self.warm + SLACK and not any(reloads.values())
        verdict = "flat" if flat else "NOT FLAT"
        print(f"{verdict}: {self.warm} KiB after the warm-up, {memory} KiB at the end; at most {SLACK} more")
        return flat


def main() -> int:
    for needed in (PROJECT / "dist/graygate.wasm", shutil.which("wrk")):
        if not needed or not Path(needed).exists():
            print(f"{needed or 'wrk'}: not there; `make soak` sees to it", file=sys.stderr)
            return 1
    # Handles SIGTERM like Ctrl-C, so that every process that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        envoy = stack.enter_context(Envoy(bootstrap(free_port()), concurrency=2, files={DISCOVERY: discovery(1)}))
        return 0 if Soak(envoy).run() else 1


if __name__ == "__main__":
    sys.exit(main())
