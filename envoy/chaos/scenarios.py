"""What happens under load. Each scenario returns its requests, and what was right for them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from harness.client import get
from harness.config import MODULE, Config, Delivery, Tree, cluster, values_of
from harness.envoy import PROJECT, Envoy
from harness.upstream import Upstream
from harness.wait import until, until_all

from . import servers
from .count import Trial
from .generations import Generations
from .service import Service
from .site import AROUND, Run, alive, config, policy

OUTAGE_SECONDS = 3.0
FAULTS = "target/graygate-faults.wasm"
Start = Callable[[Config], Envoy]


@contextmanager
def services(*, own_v1: bool = True) -> Iterator[tuple[Service | Upstream, dict[str, int]]]:
    """Gives the first version, and the ports of both."""
    with Service("v1") if own_v1 else Upstream("v1") as v1, Service("v2") as v2:
        yield v1, {"v1": v1.port, "v2": v2.port}


@contextmanager
def running(begin: Tree, start: Start = Envoy, **options: object) -> Iterator[Run]:
    """Starts an Envoy whose policy can be replaced, if `start` allows it, and the load."""
    with ExitStack() as stack:
        _, ports = stack.enter_context(services())
        envoy = stack.enter_context(start(config(begin, ports, **options)))
        run = Run(envoy, begin)
        stack.enter_context(run.load())
        yield run


def publish(run: Run, changed: Tree) -> None:
    refusal = run.envoy.publish(changed)
    if refusal:
        raise AssertionError(f"a policy was refused: {refusal}")


# -- upstreams ----------------------------------------------------------------------


def upstream_killed() -> Trial:
    return process_fails(Service.kill, Service.start)


def upstream_stopped() -> Trial:
    return process_fails(Service.stop, Service.resume)


def process_fails(fail: Callable[[Service], None], heal: Callable[[Service], None]) -> Trial:
    with services() as (v1, ports), Envoy(config(policy(), ports)) as envoy:
        assert isinstance(v1, Service)
        run = Run(envoy, policy())
        with run.load():
            run.outage("v1", OUTAGE_SECONDS, partial(fail, v1), partial(heal, v1))
    return run.trial()


def upstream_hangs() -> Trial:
    with services(own_v1=False) as (v1, ports), Envoy(config(policy(), ports)) as envoy:
        assert isinstance(v1, Upstream)

        def heal() -> None:
            v1.answer()
            v1.release()

        run = Run(envoy, policy())
        with run.load():
            run.outage("v1", OUTAGE_SECONDS, v1.hang, heal)
    return run.trial()


# -- Envoy --------------------------------------------------------------------------


def hot_restart() -> Trial:
    with running(policy(), Generations) as run:
        assert isinstance(run.envoy, Generations)
        for _ in range(2):
            run.envoy.hot_restart()
            run.served(150)
    return run.trial()


def drain() -> Trial:
    """Envoy drains by its health check, takes that back, drains its listeners, quits, and is started again."""
    with running(policy(), Generations) as run:
        assert isinstance(run.envoy, Generations)
        run.envoy.admin("/healthcheck/fail", "POST")
        run.served(150)
        run.envoy.admin("/healthcheck/ok", "POST")
        run.served(150)
        port = run.envoy.port()
        run.envoy.admin("/drain_listeners?graceful", "POST")
        until(lambda: not accepts(port), what="the listeners closed")
        come_back(run.envoy)
    return run.trial()


def quit_at_once() -> Trial:
    with running(policy(), Generations) as run:
        assert isinstance(run.envoy, Generations)
        come_back(run.envoy)
    return run.trial()


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def come_back(envoy: Generations) -> None:
    envoy.quit()
    envoy.start_again()
    until_all(partial(alive, envoy), 30, "all workers with the policy")


# -- updates ------------------------------------------------------------------------

POLICIES, MODULES = 200, 20


def policies(workers: int) -> Trial:
    """Each policy gives v2 a few users more, from a fifth of them to four fifths."""
    with running(policy(20), partial(Envoy, concurrency=workers), delivery="ecds") as run:
        run.now_also(policy(80))
        for number in range(1, POLICIES + 1):
            publish(run, policy(20 + 60 * number / POLICIES))
        run.until_in_use()
    return run.trial()


def modules() -> Trial:
    """Each module has other bytes, so it has VMs of its own."""
    with running(policy(), delivery="ecds") as run:
        envoy = run.envoy
        for number in range(MODULES):
            file = f"module-{number}.wasm"
            (envoy.directory / file).write_bytes(servers.another(module(), number))
            made = vms(envoy, "created")
            assert isinstance(envoy.config, Config)
            envoy.config = replace(envoy.config, module=file)
            publish(run, policy())
            until(lambda: vms(envoy, "created") > made + 2, 20, "VMs of the new module")
        until(lambda: vms(envoy, "active") < 8, 20, "the end of the VMs of older modules")
    return run.trial()


def module() -> bytes:
    return (PROJECT / MODULE).read_bytes()


def vms(envoy: Envoy, which: str) -> int:
    name = f"wasm.envoy.wasm.runtime.v8.{which}"
    return int(envoy.stats(name).get(name, 0))


# -- a VM that dies -----------------------------------------------------------------


def end_vm(envoy: Envoy) -> None:
    before = envoy.logs().count("ended on request")
    get(envoy.port(), "/", {"x-graygate-fault": "here"})
    until(lambda: envoy.logs().count("ended on request") > before, what="the end of a VM")


def changed_reply() -> Tree:
    """Returns a policy that is another document, and the same for users."""
    changed = policy()
    changed["gates"][0]["reply"] = {"retryAfterSeconds": 9}
    return changed


def vm_dies_and_reloads() -> Trial:
    failure = {"failure_policy": "FAIL_RELOAD", "reload_config": {"backoff": {"base_interval": "0.2s"}}}
    with running(policy(), delivery="ecds", module=FAULTS, failure=failure) as run:
        for _ in range(3):
            with run.tolerate("failed", why="a VM is reloaded", after=0.5, wanted=False):
                end_vm(run.envoy)
            time.sleep(2 * AROUND)
    return run.trial()


def vm_dies_closed() -> Trial:
    with running(policy(), delivery="ecds", module=FAULTS, failure={"failure_policy": "FAIL_CLOSED"}) as run:
        with run.tolerate("failed", why="FAIL_CLOSED answers 503", after=0.2):
            end_vm(run.envoy)
            time.sleep(2 * AROUND)
            # Only another document brings the VM back.
            publish(run, changed_reply())
        time.sleep(AROUND)
    return run.trial()


def vm_dies_open() -> Trial:
    with running(policy(), delivery="ecds", module=FAULTS, failure={"failure_policy": "FAIL_OPEN"}) as run:
        with run.tolerate("wrong version", "wrong gate", why="FAIL_OPEN leaves the filter out", after=0.2):
            with run.tolerate("failed", why="the VM ends with its requests under way", wanted=False):
                end_vm(run.envoy)
            time.sleep(2 * AROUND)
            # Only another document brings the VM back.
            publish(run, changed_reply())
        time.sleep(AROUND)
    return run.trial()


# -- the clock ----------------------------------------------------------------------


def clock() -> Trial:
    """The clock is set an hour forward and back, with a step of the schedule a minute ago, which stays taken."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    stepped = policy(20, schedule=[{"at": moment, "weights": {"v1": 50, "v2": 50}}])
    with running(stepped, partial(Envoy, own_clock=True)) as run:
        for seconds in (3600, -3600, 0):
            run.envoy.set_clock(seconds)
            run.served(300)
    return run.trial()


# -- what configures Envoy ----------------------------------------------------------


@dataclass(frozen=True)
class Fetched(Config):
    """The filter's module comes from a registry."""

    registry: int = 0
    fetched: bytes = b""

    def discovery(self, version: str) -> Tree:
        tree = super().discovery(version)
        for vm in values_of(tree, "vm_config"):
            vm["code"] = servers.remote(self.registry, self.fetched)
        return tree


@contextmanager
def registry_gone(delivery: Delivery) -> Iterator[tuple[Run, servers.Server]]:
    with ExitStack() as stack:
        _, ports = stack.enter_context(services())
        server = stack.enter_context(servers.Server(module()))
        given = config(policy(), ports, delivery=delivery, clusters=[cluster("registry", server.port)])
        envoy = stack.enter_context(Envoy(Fetched(**vars(given), registry=server.port, fetched=module())))
        run = Run(envoy, policy())
        with run.load():
            assert server.asked, "Envoy has not fetched the module"
            server.stop()
            yield run, server


def policy_without_registry(delivery: Delivery) -> Trial:
    """Envoy still has the module, so it needs no registry for another policy."""
    with registry_gone(delivery) as (run, _):
        run.now_also(policy(60))
        publish(run, policy(60))
        run.until_in_use()
        run.served(150)
    return run.trial()


def module_without_registry_by_lds() -> Trial:
    """Envoy drops the old listener before it has the new module. It asks for it again only with another listener."""
    other = servers.another(module(), 1)
    with registry_gone("lds") as (run, server):
        with run.tolerate("failed", why="Envoy has no module", after=0.5):
            fetch(run, other, policy())
            run.served(150)
            server.body = other
            server.start()
            fetch(run, other, changed_reply())
        run.served(150)
    return run.trial()


def remote_module_by_ecds() -> Trial:
    """Envoy fetches no module for a filter that it discovers while it runs, though the registry is there again."""
    other = servers.another(module(), 1)
    with registry_gone("ecds") as (run, server):
        server.body = other
        server.start()
        asked = server.asked
        with run.tolerate("wrong version", "wrong gate", why="Envoy leaves the filter out", after=0.5):
            fetch(run, other, policy())
            run.served(300)
            assert server.asked == asked, "Envoy now fetches such a module: mend this scenario and the document"
            fetch(run, module(), policy())
        run.served(150)
    return run.trial()


def fetch(run: Run, module: bytes, policy: Tree) -> None:
    assert isinstance(run.envoy.config, Fetched)
    run.envoy.config = replace(run.envoy.config, fetched=module)
    publish(run, policy)


class Controlled(Config):
    """The filter's configuration comes from a control plane."""

    def source(self) -> Tree:
        return servers.source()


def control_plane() -> Trial:
    with ExitStack() as stack:
        _, ports = stack.enter_context(services())
        server = stack.enter_context(servers.Server())
        given = config(policy(), ports, delivery="ecds", clusters=[cluster("control-plane", server.port)])
        controlled = Controlled(**vars(given))
        server.body = servers.response(controlled.discovery("1"))
        envoy = stack.enter_context(Envoy(controlled))
        run = Run(envoy, policy())
        with run.load():
            refused = envoy.refusals()
            server.stop()
            until(lambda: envoy.refusals() > refused + 2, what="Envoy without its control plane")
            run.served(300)
            run.now_also(policy(60))
            server.body = servers.response(controlled.with_policy(policy(60)).discovery("2"))
            server.start()
            run.until_in_use()
            run.served(150)
    return run.trial()


@dataclass(frozen=True)
class Scenario:
    """`tolerates` says what the filter's listener may lose, for the table."""

    run: Callable[[], Trial]
    tolerates: str = "nothing"


SCENARIOS = {
    "upstream killed": Scenario(upstream_killed),
    "upstream stopped": Scenario(upstream_stopped),
    "upstream hangs": Scenario(upstream_hangs),
    "hot restart": Scenario(hot_restart),
    "drain and quit": Scenario(drain),
    "quit at once": Scenario(quit_at_once),
    "200 policies, 2 workers": Scenario(partial(policies, 2)),
    "200 policies, 8 workers": Scenario(partial(policies, 8)),
    "20 modules": Scenario(modules),
    "VM dies, FAIL_RELOAD": Scenario(vm_dies_and_reloads, "503 of one worker for half a second"),
    "VM dies, FAIL_CLOSED": Scenario(vm_dies_closed, "503 of one worker until the next policy"),
    "VM dies, FAIL_OPEN": Scenario(vm_dies_open, "no filter in one worker until the next policy"),
    "clock set": Scenario(clock),
    "no registry, policy, LDS": Scenario(partial(policy_without_registry, "lds")),
    "no registry, policy, ECDS": Scenario(partial(policy_without_registry, "ecds")),
    "no registry, module, LDS": Scenario(module_without_registry_by_lds, "503 until Envoy can fetch the module"),
    "remote module, ECDS": Scenario(remote_module_by_ecds, "no filter: Envoy does not fetch the module"),
    "control plane gone": Scenario(control_plane),
}
