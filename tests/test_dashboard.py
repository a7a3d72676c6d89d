"""Every query of the dashboard finds what it shows, in a real Prometheus that scraped real Envoys through a story."""

from __future__ import annotations

import json
import math
import re

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from harness.envoy import PROJECT
from observability.dashboard import FILE, text
from observability.queries import Query, queries, substituted
from observability.story import INTERVAL, told

BOARD = json.loads(FILE.read_text())
QUERIES = queries(BOARD)
REFERENCE = (PROJECT / "docs/reference/metrics.md").read_text()


def test_every_query_of_every_panel_finds_what_happened_to_real_proxies():
    """One test, as the story takes most of the time, and pytest may give two tests to two processes."""
    with told(scrapes=4) as story:
        every_query_finds_something(story)
        the_panels_show_what_happened(story)
        the_tables_name_each_proxy_and_the_module(story)
        the_variables_list_policies_and_releases(story)
        prometheus_evaluates_every_rule_and_expands_every_text(story)


def every_query_finds_something(story):
    nothing = []
    for query in QUERIES:
        expression = substituted(query.expression, INTERVAL)
        if query.is_instant:
            found = story.prometheus.query(expression)
        else:
            found = story.prometheus.query_range(expression, story.start, story.end, INTERVAL)
        # A line that stays at 0 would show nothing.
        if not any(value > 0 for series in found for _, value in series.points if not math.isnan(value)):
            nothing.append((query.panel, expression, found[:3]))
    assert nothing == []


def found(story, title):
    """Returns the largest value of each series of a panel, by its legend."""
    [query] = [each for each in QUERIES if each.panel == title]
    series = story.prometheus.query_range(substituted(query.expression, INTERVAL), story.start, story.end, INTERVAL)
    return {query.name(each.labels): max(value for _, value in each.points if not math.isnan(value)) for each in series}


def the_panels_show_what_happened(story):
    wanted = found(story, "Share wanted")
    assert (wanted["shop/web v1"], wanted["shop/web v2"]) == (1.0, 0.5)
    assert found(story, "Failures by version")["shop/web v2"] > 0.5
    assert found(story, "Rollbacks").keys() >= {"shop/web v2 failures"}
    assert found(story, "Gated requests").keys() >= {"shop/cart check-failed", "shop/search check-failed"}
    assert found(story, "Fallback requests").keys() == {"shop/search to spare"}
    assert found(story, "Requests that failed open").keys() >= {"shop/cart all-not-ready"}
    assert found(story, "Transitions and their reasons").keys() >= {
        "shop/cart not-ready: check-failed",
        "shop/v2 ready: check-passed",
    }
    assert "shop/web v2 fallback" not in found(story, "Why a request got its version")
    assert found(story, "Why a request got its version")["shop/web v1 fallback"] > 0
    readiness = found(story, "Readiness")
    assert {
        f"shop/{upstream} on proxy-{proxy}" for upstream in ("v1", "v2", "cart", "search") for proxy in "ab"
    } <= set(readiness)


def the_tables_name_each_proxy_and_the_module(story):
    tables = {
        query.panel: story.prometheus.query(substituted(query.expression, INTERVAL))
        for query in QUERIES
        if query.is_instant
    }
    assert {series.labels["instance"] for series in tables["Who enforces which document"]} == {"proxy-a", "proxy-b"}
    [module] = tables["Versions of the module"]
    assert (set(module.labels), module.value) == ({"version", "revision"}, 2)


def the_variables_list_policies_and_releases(story):
    for variable, expected in (("policy", ["shop"]), ("release", ["web"])):
        [found] = [each for each in BOARD["templating"]["list"] if each["name"] == variable]
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", found["query"])
        assert asked, found["query"]
        values = story.prometheus.get(f"label/{asked[2]}/values", **{"match[]": substituted(asked[1], INTERVAL)})
        assert values == expected


def prometheus_evaluates_every_rule_and_expands_every_text(story):
    rules = [rule for group in story.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    texts = [text for alert in story.prometheus.get("alerts")["alerts"] for text in alert["annotations"].values()]
    assert not any("error expanding" in text for text in texts)
    records = [rule["name"] for rule in rules if rule["type"] == "recording" and "istio" not in rule["name"]]
    assert [name for name in records if not story.prometheus.query(name)] == []


def test_every_metric_of_graygate_is_in_the_dashboard():
    names = set(re.findall(r"`(graygate_\w+)`", REFERENCE))
    shown = {name for query in QUERIES for name in re.findall(r"graygate_\w+", query.expression)}
    assert shown <= names
    # These count what panels show as a state, or what an alert tells.
    counted = {"lifecycle_changes", "schedule_steps", "policies_refused", "vm_deaths"}
    assert names - shown == {f"graygate_{name}_total" for name in counted}


def test_releases_and_upstreams_of_two_policies_with_the_same_names_stay_apart():
    grouped = 0
    for query in QUERIES:
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query.expression):
            if {"release", "upstream", "probe"} & set(labels.split(", ")):
                grouped += 1
                assert "policy" in labels.split(", "), (query.panel, query.expression)
        if re.search(r"\{\{(release|upstream|probe)\}\}", query.legend):
            assert query.legend.startswith("{{policy}}/"), (query.panel, query.legend)
    assert grouped > 10


def test_the_dashboard_is_what_its_generator_makes():
    assert FILE.read_text() == text()


def test_the_file_is_a_dashboard_by_the_types_of_grafana():
    plugins.register_default_plugins()
    read = Dashboard.from_json(BOARD)
    assert json.loads(JSONEncoder().encode(read)) == BOARD


def test_every_panel_has_a_title_a_description_and_a_place_of_its_own():
    places = set[tuple[int, int]]()
    for panel in BOARD["panels"]:
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & places, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["targets"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_variables_are_substituted_as_grafana_does():
    assert substituted('x{policy=~"$policy"}[$__rate_interval]', 15.0) == 'x{policy=~".*"}[60000ms]'
    assert Query("", "", "{{a}} on {{ b }}", is_instant=False).name({"a": "1", "b": "2"}) == "1 on 2"
