"""The schedule: what happens while the load goes on. It repeats until the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from chaos import servers
from chaos.scenarios import FAULTS, module
from harness.config import MODULE, Config
from harness.wait import until

from .memory import ACTIVE, CREATED
from .run import HALF, Run
from .service import Told

ROLLOUT = (0, 5, 25, 50, 75, 100)
POLICIES = 20
DEATHS = 3


def rollout(run: Run) -> None:
    """v2 goes from no user to all of them in steps, and then back to half of them."""
    hold = max(run.pace / (2 * len(ROLLOUT)), 0.3)
    for share in ROLLOUT:
        run.publish(share)
        time.sleep(hold)
    run.publish(HALF)


def policies(run: Run) -> None:
    """Policies in a row, each with a few users more on v2 and another reply of a gate."""
    for number in range(POLICIES):
        run.publish(HALF + 40 * number / POLICIES, wait=False)
    run.publish(100)
    run.publish(HALF)


def wrong_policy(run: Run) -> None:
    run.refused()


def drain(run: Run) -> None:
    """Readiness fails while the order stands. Users notice nothing."""
    run.order("POST")
    until(lambda: run.probe("readiness").code == 503, 30, what="readiness fails")
    time.sleep(run.outage_seconds / 2)
    run.order("DELETE")
    until(lambda: run.probe("readiness").code == 200, 30, what="readiness passes")


def killed(version: str, run: Run) -> None:
    run.outage(version, Told.kill, Told.start)


def stopped(version: str, run: Run) -> None:
    run.outage(version, Told.stop, Told.resume)


def told(order: str, version: str, run: Run) -> None:
    run.outage(version, lambda service: service.tell(order), lambda service: service.tell("well"))


def vm_dies(run: Run) -> None:
    """A module for tests takes the place of the shipped one, and its VMs end. FAIL_RELOAD brings them back."""
    use(run, FAULTS)
    for _ in range(DEATHS):
        run.end_vm()
        time.sleep(1)
    use(run, MODULE)


def new_module(run: Run) -> None:
    """Another module takes the place of this one: it does the same, and has other bytes."""
    file = run.envoy.directory / "another.wasm"
    file.write_bytes(servers.another(module(), 1))
    use(run, file.name)


def use(run: Run, file: str) -> None:
    """Lets Envoy load another module. Returns when the VMs of the one before have ended."""
    envoy = run.envoy
    made = envoy.stats(CREATED)[CREATED]
    assert isinstance(envoy.config, Config)
    envoy.config = replace(envoy.config, module=file)
    run.publish(HALF)
    until(lambda: envoy.stats(CREATED)[CREATED] > made + 2, 60, "VMs of the new module")
    until(lambda: envoy.stats(ACTIVE)[ACTIVE] == run.vms, 60, "the end of the VMs of the module before")


@dataclass(frozen=True)
class Event:
    name: str
    run: Callable[[Run], None]


SCHEDULE = (
    Event("rollout", rollout),
    Event("v1 killed", partial(killed, "v1")),
    Event("v2 answers 500", partial(told, "500", "v2")),
    Event("wrong policy", wrong_policy),
    Event("v1 hangs", partial(told, "hang", "v1")),
    Event("20 policies", policies),
    Event("v2 killed", partial(killed, "v2")),
    Event("drain order", drain),
    Event("v1 answers 500", partial(told, "500", "v1")),
    Event("v2 stopped", partial(stopped, "v2")),
)
# After the last round and its sums. The VMs of the whole run must end, and Envoy may forget what they have counted.
LAST = (Event("VMs die", vm_dies), Event("new module", new_module))
