"""The alerts of `istio/observability` fire on the first event and resolve, on series that real proxies made.

Two proxies are scraped while everything that an alert is about happens to them. Each scrape counts as one minute, so
the alerts with their waits take seconds. `promtool` runs the rules on the recorded series. What they depend on in time
is in the rules alone, so nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from harness.client import get
from harness.config import Config
from harness.docs import anchors
from harness.envoy import PROJECT, Envoy
from harness.load import Request, drive
from harness.prometheus import program
from harness.wait import until, until_all
from observability.rules import FILE, SOURCE, resource, with_runbooks
from observability.shop import USERS, Shop, metrics, policy, requests

MODULE = "target/graygate-faults.wasm"
# Envoy's names of the series that the rules read. Others would only make the file larger.
READ = quote(r"^wasmcustom\.graygate_|^server\.live$|^http\..*\.downstream_rq_total$")
FIRING = 'max by (alertname) (ALERTS{alertstate="firing"})'
UPSTREAM = {"GraygateUpstreamNotReady", "GraygateUpstreamNotReadyAnywhere"}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(SOURCE.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@dataclass
class Record:
    """The samples of all proxies, and which alerts fire at which minute."""

    samples: dict[str, dict[int, float]] = field(default_factory=dict)
    minute: int = -1
    expected: dict[int, set[str]] = field(default_factory=dict)

    def scrape(self, proxies: dict[str, Envoy]) -> None:
        self.minute += 1
        for instance, envoy in proxies.items():
            for name, value in metrics(envoy.admin(f"/stats/prometheus?filter={READ}")).items():
                self.samples.setdefault(labelled(name, instance), {})[self.minute] = value

    def expect(self, *alerts: str) -> None:
        """Exactly these alerts fire now."""
        self.expected[self.minute] = set(alerts)

    def series(self) -> list[dict[str, str]]:
        return [{"series": name, "values": self.values(points)} for name, points in self.samples.items()]

    def values(self, points: dict[int, float]) -> str:
        """Returns the values in the notation of promtool. Like Prometheus, it marks the end of a series that leaves."""
        shown = list[str]()
        for minute in range(self.minute + 1):
            before = minute - 1 in points
            shown.append(f"{points[minute]:.17g}" if minute in points else "stale" if before else "_")
        return " ".join(shown)

    def tests(self) -> dict[str, Any]:
        asked = []
        for minute, names in self.expected.items():
            found = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)]
            asked.append({"expr": FIRING, "eval_time": f"{minute}m", "exp_samples": found})
        return {
            "rule_files": [str(SOURCE)],
            "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": self.series(), "promql_expr_test": asked}],
        }


def labelled(name: str, instance: str) -> str:
    """Adds the labels that Prometheus adds to a series that it scrapes."""
    bare, _, labels = name.partition("{")
    given = labels.rstrip("}")
    return f'{bare}{{{given}{"," if given else ""}instance="{instance}",job="envoy"}}'


class Play:
    """Lets things happen in a shop, one scrape each minute."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.record = Record()
        self.proxies = dict(shop.proxies)
        self.requests = requests()

    def pass_minutes(self, minutes: int = 1, *, traffic: bool = True) -> None:
        for _ in range(minutes):
            if traffic:
                for envoy in self.shop.proxies.values():
                    drive(envoy.port(), self.requests)
            self.record.scrape(self.proxies)

    def run(self) -> Record:
        for scene in (
            self.all_is_well,
            self.one_cart_is_down,
            self.carts_are_down_then_all_gates_fail_open,
            self.v2_fails,
            self.v2_is_slow,
            self.a_policy_is_refused,
            self.v2_is_rolled_back,
            self.v2_is_misrouted,
            self.checks_are_unsent,
            self.a_proxy_has_an_older_document,
            self.a_proxy_has_no_module,
            self.a_vm_dies,
            self.a_proxy_drains,
            self.a_cart_flaps,
        ):
            scene()
        return self.record

    def resolve(self, minutes: int = 6) -> None:
        """Lets the windows of all alerts on events pass."""
        self.pass_minutes(minutes, traffic=False)
        self.record.expect()

    def all_is_well(self) -> None:
        self.pass_minutes(8)
        self.record.expect()

    def one_cart_is_down(self) -> None:
        self.shop.sick(self.shop.carts["b"])
        self.shop.until_ready("cart", ready=False, names=("b",))
        # Without requests to the cart, as a gate that blocks many of them is another alert.
        self.requests = requests(cart=0)
        self.pass_minutes(3)
        self.record.expect("GraygateUpstreamNotReady")
        self.shop.well()
        self.shop.until_ready("cart", ready=True)
        self.pass_minutes()
        self.record.expect()
        self.requests = requests()
        self.resolve()

    def carts_are_down_then_all_gates_fail_open(self) -> None:
        self.shop.sick(*self.shop.carts.values())
        self.shop.until_ready("cart", ready=False)
        self.pass_minutes(5)
        self.record.expect(*UPSTREAM, "GraygateGatedShareHigh")
        self.shop.sick(self.shop.upstreams["search"])
        self.shop.until_ready("search", ready=False)
        self.pass_minutes()
        assert "GraygateGateFailsOpen" in {alert["alert"] for alert in alerts() if "for" not in alert}
        self.record.expect(*UPSTREAM, "GraygateGatedShareHigh", "GraygateGateFailsOpen")
        self.shop.well()
        for upstream in ("cart", "search"):
            self.shop.until_ready(upstream, ready=True)
        self.resolve(7)

    def v2_fails(self) -> None:
        self.shop.upstreams["v2"].answer(500, path="/")
        self.pass_minutes(5)
        self.record.expect("GraygateVersionFails")
        self.shop.well()
        self.pass_minutes(3)
        self.resolve(5)

    def v2_is_slow(self) -> None:
        self.shop.upstreams["v2"].slow(1.1, path="/")
        slow = [Request("/", {"x-user-id": user}) for user in USERS]
        for _ in range(5):
            for envoy in self.shop.proxies.values():
                drive(envoy.port(), slow, connections=len(slow))
            self.pass_minutes(traffic=False)
        self.record.expect("GraygateVersionSlow")
        self.shop.well()
        self.resolve(7)

    def v2_is_rolled_back(self) -> None:
        self.shop.publish(policy(minimumRequests=20, window="10s"))
        self.pass_minutes(11)
        self.record.expect()
        self.shop.upstreams["v2"].answer(500, path="/")

        def rolled_back() -> bool:
            drive(self.shop.proxies["a"].port(), self.requests)
            return self.shop.proxies["a"].counter("graygate_rollbacks_total", version="v2") > 0

        until(rolled_back, 20, "the rollback of v2")
        self.shop.well()
        self.pass_minutes()
        self.record.expect("GraygateVersionRolledBack")
        self.shop.publish(policy())
        self.resolve(16)

    def v2_is_misrouted(self) -> None:
        changed = policy()
        changed["upstreams"]["v2"] = {"cluster": "v2-misspelt"}
        self.shop.publish(changed)
        self.pass_minutes()
        self.record.expect("GraygateVersionMisrouted")
        self.shop.publish(policy())
        self.resolve()

    def checks_are_unsent(self) -> None:
        changed = policy()
        changed["upstreams"]["audit"] = {**changed["upstreams"]["cart"], "cluster": "no-such-cluster"}
        self.shop.publish(changed)
        for _ in range(3):
            for envoy in self.shop.proxies.values():
                seen = unsent(envoy)
                until(lambda: unsent(envoy) > seen, 10, "an unsent check")
            self.pass_minutes()
        self.record.expect("GraygateChecksUnsent")
        self.shop.publish(policy())
        self.resolve(7)

    def a_policy_is_refused(self) -> None:
        """The policy before must have been in use for 5 seconds. The slow responses of the scene before take longer."""
        assert self.shop.proxies["b"].publish({**policy(), "mode": "wrong"}) != ""
        self.pass_minutes()
        self.record.expect("GraygatePolicyRefused")
        # Envoy does not hand over the document that is in use, so the way back is another one.
        self.shop.publish(policy(45))
        until(lambda: self.shop.proxies["b"].counter("graygate_policy_refused") == 0, 10, "the good policy")
        self.resolve()

    def a_proxy_has_an_older_document(self) -> None:
        self.shop.publish(policy(40), "a")
        self.pass_minutes(12, traffic=False)
        self.record.expect("GraygatePolicyDiffers")
        self.shop.publish(policy(40), "b")
        self.pass_minutes()
        self.record.expect()

    def a_proxy_has_no_module(self) -> None:
        with Envoy(without_module(self.shop.config("a"))) as envoy:
            self.proxies["c"] = envoy
            self.pass_minutes(7, traffic=False)
            self.record.expect("GraygateModuleNotLoaded")
            del self.proxies["c"]
            self.pass_minutes()
            self.record.expect()

    def a_vm_dies(self) -> None:
        envoy = self.shop.proxies["b"]
        assert get(envoy.port(), "/", {"x-graygate-fault": "here"}).status == 503
        until_all(lambda: get(envoy.port(), "/livez").status == 200, 10, "a new VM")
        until(lambda: envoy.counter("graygate_vm_deaths_total") == 1, 60, "the death counted")
        self.pass_minutes()
        self.record.expect("GraygateVmDied")
        self.resolve()

    def a_proxy_drains(self) -> None:
        self.shop.order("b", "POST")
        until(lambda: self.shop.proxies["b"].counter("graygate_draining") == 1, 10, "the gauge")
        self.pass_minutes(14, traffic=False)
        self.record.expect()
        self.pass_minutes(3, traffic=False)
        self.record.expect("GraygateDrainTooLong")
        self.shop.order("b", "DELETE")
        until(lambda: self.shop.proxies["b"].counter("graygate_draining") == 0, 10, "the gauge")
        self.pass_minutes()
        self.record.expect()

    def a_cart_flaps(self) -> None:
        for _ in range(4):
            self.shop.sick(self.shop.carts["a"])
            self.shop.until_ready("cart", ready=False, names=("a",))
            self.shop.well()
            self.shop.until_ready("cart", ready=True, names=("a",))
            self.pass_minutes()
        self.record.expect("GraygateUpstreamFlaps")
        self.resolve(31)


def unsent(envoy: Envoy) -> int:
    return envoy.counter("graygate_checks_total", upstream="audit", result="error")


def without_module(config: Config) -> dict[str, Any]:
    """Returns the bootstrap of a proxy whose listener has lost the filter."""
    document = config.document()
    text = json.dumps(document)
    assert "config_discovery" in text
    for listener in document["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != "graygate"]
    return document


@pytest.fixture(scope="module")
def recorded():
    with Shop("a", "b", module=MODULE) as shop:
        yield Play(shop).run()


def promtool(*arguments):
    return subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)


def test_each_alert_fires_on_what_real_proxies_show_and_resolves_and_none_fires_while_all_is_well(recorded, tmp_path):
    file = tmp_path / "recorded.json"
    file.write_text(json.dumps(recorded.tests()))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
    fired = set().union(*recorded.expected.values())
    # Only Istio's build of Envoy has the histogram that this one reads.
    assert fired == {rule["alert"] for rule in alerts()} - {"GraygateIstioVersionSlow"}
    assert recorded.expected[max(recorded.expected)] == set(), "all have resolved"


def test_the_rules_are_valid():
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", SOURCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shipped_unit_tests_of_the_rules_pass():
    done = promtool("test", "rules", SOURCE.with_name("rules-test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_of_the_operator_are_the_plain_ones(tmp_path):
    made = yaml.safe_load(FILE.read_text())
    assert made == resource(yaml.safe_load(SOURCE.read_text()))
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    # The rules of the resource, as a Prometheus reads them.
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.dump(made["spec"]))
    assert promtool("check", "rules", file).returncode == 0


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_is_wrong_what_to_do_and_where_it_is_explained(rule):
    assert rule["labels"]["severity"] in {"warning", "critical"}
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    for text in (annotations["summary"], annotations["description"]):
        assert text.endswith(".")
    path, _, anchor = annotations["runbook_url"].partition("#")
    assert anchor in anchors(PROJECT / path)


def test_each_alert_is_in_the_table_of_the_page():
    page = (PROJECT / "docs/operate/alerts-and-dashboards.md").read_text()
    listed = re.findall(r"^\| `(Graygate\w+)` \| (warning|critical) \|", page, re.MULTILINE)
    assert sorted(listed) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in alerts())


def test_an_address_can_be_put_before_the_links():
    rules = with_runbooks(yaml.safe_load(SOURCE.read_text()), "https://example.com/graygate/")
    links = [
        rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert links
    assert all(link.startswith("https://example.com/graygate/docs/operate/") for link in links)


def test_names_of_rules_are_unique():
    names = [rule["alert"] for rule in alerts()]
    assert [name for name, same in itertools.groupby(sorted(names)) if len(list(same)) > 1] == []
