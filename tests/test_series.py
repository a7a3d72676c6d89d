"""Series that exist at 0 before anything happens, as a real Prometheus reads them from a real Envoy."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from harness.client import get
from harness.config import bootstrap
from harness.envoy import Envoy
from harness.tool import run
from harness.wait import until

SERIES = re.compile(r"(graygate_\w+)\{(.*)\} (\d+)")


def scrape(envoy: Envoy) -> dict[str, int]:
    """Returns the values of the filter's series as Prometheus gets them, by name and labels."""
    found = (SERIES.fullmatch(line) for line in envoy.prometheus().splitlines())
    return {f"{match[1]}{{{match[2]}}}": int(match[3]) for match in found if match}


def series(scraped: Mapping[str, int], name: str, **labels: str) -> list[str]:
    wanted = [f'{label.rstrip("_")}="{value}"' for label, value in labels.items()]
    return [key for key in scraped if key.startswith(f"{name}{{") and all(label in key for label in wanted)]


def rises(scrapes: Sequence[Mapping[str, int]], name: str, directory: Path) -> list[str]:
    """Returns the series of this name whose rise Prometheus sees in the scrapes, which are a minute apart."""
    names = sorted({key for scraped in scrapes for key in scraped if key.startswith(f"{name}{{")})
    values = [" ".join(str(scraped.get(key, "_")) for scraped in scrapes) for key in names]
    minutes = len(scrapes)
    expression = f"increase({name}[{minutes}m]) > 0"
    (directory / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "g", "rules": [{"alert": "Rise", "expr": expression}]}]})
    )
    seen = []
    for key in names:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', key))
        alert = {"eval_time": f"{minutes - 1}m", "alertname": "Rise", "exp_alerts": [{"exp_labels": labels}]}
        test = {
            "interval": "1m",
            "input_series": [{"series": key, "values": values[names.index(key)]}],
            "alert_rule_test": [alert],
        }
        file = directory / "test.yaml"
        file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
        done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            seen.append(key)
    return seen


def zeroes_of_a_gate(scraped: Mapping[str, int]) -> list[list[str]]:
    return [
        series(scraped, "graygate_transitions_total", upstream="reviews-v1", from_="ready", to="not-ready"),
        series(scraped, "graygate_gated_requests_total", upstream="reviews-v1", reason="check-failed"),
        series(scraped, "graygate_checks_total", upstream="reviews-v1", result="error"),
    ]


def test_prometheus_sees_the_first_outage_and_its_first_gated_request(start, policy, v1, tmp_path):
    envoy = start(policy)
    until(lambda: all(zeroes_of_a_gate(scrape(envoy))), what="series at 0")
    before = scrape(envoy)
    assert all(before[key] == 0 for keys in zeroes_of_a_gate(before) for key in keys)
    v1.answer(500, path="/healthz")
    until(lambda: envoy.transitions(upstream="reviews-v1", to="not-ready"), what="v1 not ready")
    until(lambda: get(envoy.port(), "/").status == 503, what="a gated request")
    after = scrape(envoy)
    [outage] = zeroes_of_a_gate(after)[0]
    assert outage in rises([before, after], "graygate_transitions_total", tmp_path)
    assert zeroes_of_a_gate(after)[1] == rises([before, after], "graygate_gated_requests_total", tmp_path)


@pytest.mark.parametrize("choice", ["refuse", "lastGood"])
def test_prometheus_sees_the_first_wrong_document_of_a_running_proxy(start, policy, tmp_path, choice):
    good = {**policy, "onWrongPolicy": choice}
    envoy = start(good, delivery="ecds", concurrency=1)
    until(lambda: series(scrape(envoy), "graygate_policies_refused_total"), what="the counter")
    before = scrape(envoy)
    envoy.publish({**good, "gatse": []})
    until(lambda: envoy.counter("graygate_policy_refused") == 1, what="the gauge at 1")
    # With `lastGood`, a VM counts once the counter has been at 0 for so long that a scrape has seen it.
    until(lambda: envoy.counter("graygate_policies_refused_total") > 0, timeout=120, what="the count")
    assert rises([before, scrape(envoy)], "graygate_policies_refused_total", tmp_path)


def test_prometheus_sees_a_wrong_document_that_is_a_proxys_first(start, policy, tmp_path):
    envoy = start({**policy, "onWrongPolicy": "lastGood", "gatse": []}, delivery="ecds")
    until(lambda: envoy.counter("graygate_policy_refused") == 1, what="the gauge at 1")
    before = scrape(envoy)
    assert [before[key] for key in series(before, "graygate_policies_refused_total", plugin="graygate")] == [0]
    until(lambda: envoy.counter("graygate_policies_refused_total") > 0, timeout=120, what="the count")
    assert rises([before, scrape(envoy)], "graygate_policies_refused_total", tmp_path)


def test_one_gauge_shows_the_build_of_the_module(start, policy):
    envoy = start(policy)
    until(lambda: envoy.counter("graygate_build_info") == 1, what="the gauge")
    [(key, value)] = [(key, value) for key, value in scrape(envoy).items() if key.startswith("graygate_build_info{")]
    assert value == 1
    assert re.fullmatch(r'graygate_build_info\{version="\d+\.\d+\.\d+",revision="[\w-]+"\}', key)


def test_with_the_printed_tags_all_labels_are_labels_in_prometheus(v1, v2, policy):
    policy["probes"].update(grpc={"services": [""]}, drain={"path": "/drainz"})
    policy["upstreams"]["reviews-v1"]["circuitBreaker"] = {"trial": {"rampOver": "10s"}}
    policy["gates"][0]["fallback"] = {"answer": {"body": "none"}}
    policy["releases"][0]["rollback"] = {"failurePercent": 5}
    policy["mode"] = "shadow"
    config = bootstrap(policy, {"reviews-v1": v1.port, "reviews-v2": v2.port})
    tags = yaml.safe_load(run("stats-tags").stdout)["stats_config"]["stats_tags"]
    labels = {tag["tag_name"] for tag in tags}
    assert len(labels) == len(tags)
    with Envoy(config) as envoy:
        until(lambda: series(scrape(envoy), "graygate_probe_answers_total", probe="readiness/reviews-v1"), what="all")
        text = envoy.prometheus()
    seen = set(re.findall(r'[{,](\w+)="', "\n".join(re.findall(r"(?m)^graygate_.*$", text))))
    assert seen == labels
    assert "=.=" not in text


@pytest.mark.parametrize("what", ["istio", "envoy-gateway"])
def test_all_forms_of_the_tags_have_the_same_labels(what):
    expected = yaml.safe_load(run("stats-tags", "--for", "envoy").stdout)
    printed = run("stats-tags", "--for", what).stdout
    labels = [tag["tag_name"] for tag in expected["stats_config"]["stats_tags"]]
    if what == "istio":
        assert yaml.safe_load(printed)["meshConfig"]["defaultConfig"]["extraStatTags"] == labels
        assert f"# sidecar.istio.io/extraStatTags: {','.join(labels)}\n" in printed
    else:
        bootstrap = yaml.safe_load(printed)["spec"]["bootstrap"]
        assert (bootstrap["type"], yaml.safe_load(bootstrap["value"])) == ("Merge", expected)


def test_a_large_policy_has_a_bounded_number_of_series(v1, v2, policy):
    names = [f"u{index}" for index in range(1_000)]
    large = {
        **policy,
        "upstreams": policy["upstreams"] | {name: {"cluster": "reviews-v1", "circuitBreaker": {}} for name in names},
        "gates": [{"upstream": name, "match": [{"uri": {"exact": f"/{name}"}}]} for name in names],
    }
    config = bootstrap(large, {"reviews-v1": v1.port, "reviews-v2": v2.port})
    with Envoy(config) as envoy:
        outages = lambda: series(scrape(envoy), "graygate_transitions_total", from_="ready", to="not-ready")  # noqa: E731
        until(lambda: len(outages()) == 1_000 + 2, timeout=60, what="a series for the outage of each upstream")
        until(lambda: envoy.counter("graygate_upstream_ready") == 1_000 + 2, timeout=60, what="the gauges")
        assert len(series(scrape(envoy), "graygate_transitions_total")) == 1_000 + 2
