"""Makes istio/observability/dashboard.json with Grafana's own types. With --check, it fails if the file differs.

Rules for its queries:

- Each query works without the recording rules, so the dashboard needs only the metrics.
- mode="" leaves out decisions that have no effect.
- A query names its proxies by the label `instance`, which each Prometheus has.
- Releases and upstreams of two policies may have the same name. So they are grouped, matched and named with `policy`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TypeVar

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from harness.envoy import PROJECT

from .files import keep

FILE = PROJECT / "istio/observability/dashboard.json"

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
POLICY = 'policy=~"$policy"'
RELEASE = f'{POLICY},release=~"$release"'
# Leaves out proxies that drain, as the alerts do.
SERVING = "unless on (job, instance, policy) graygate_draining == 1"
# Clusters of Istio's own and the hop say nothing about an upstream.
NOT_USERS = "xds-grpc|sds-grpc|agent|prometheus_stats|zipkin|graygate-hop"

GREEN, RED, YELLOW, BLUE = "green", "red", "#EAB839", "blue"
HALF, THIRD, WHOLE = 12, 8, 24

Any = TypeVar("Any", timeseries.Panel, stat.Panel, table.Panel, statetimeline.Panel)


def query(expression: str, legend: str = "", *, now: bool = False, ref: str = "A") -> prometheus.Dataquery:
    """Returns a query. With `now`, it asks for the latest values alone, as a table shows them."""
    made = prometheus.Dataquery().expr(expression).ref_id(ref).datasource(SOURCE)
    if legend:
        made.legend_format(legend)
    return made.instant().format(PromQueryFormat.TABLE) if now else made.range()


def placed(panel: Any, title: str, description: str, width: int, height: int) -> Any:
    return panel.title(title).description(description).datasource(SOURCE).span(width).height(height)


def graph(
    title: str, description: str, unit: str, *queries: prometheus.Dataquery, width: int = HALF
) -> timeseries.Panel:
    panel = placed(timeseries.Panel(), title, description, width, 8)
    panel.unit(unit).min(0).line_width(2).fill_opacity(10)
    panel.show_points(common.VisibilityMode.NEVER)
    panel.legend(
        VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
        .calcs(["lastNotNull", "max"])
    )
    panel.tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    for each in queries:
        panel.with_target(each)
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    return panel.stacking(StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(70).line_width(0)


def bars(panel: timeseries.Panel) -> timeseries.Panel:
    return stacked(panel.draw_style(common.GraphDrawStyle.BARS))


def number(title: str, description: str, expression: str, *, bad_from: float | None = None) -> stat.Panel:
    """Returns a panel with one number, which is red from `bad_from` on."""
    panel = placed(stat.Panel(), title, description, 4, 4)
    panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    steps = [models.Threshold(value=None, color=BLUE if bad_from is None else GREEN)]
    if bad_from is not None:
        steps.append(models.Threshold(value=bad_from, color=RED))
    panel.thresholds(builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    return panel.no_value("0").with_target(query(expression))


def states(title: str, description: str, expression: str, legend: str, width: int = HALF) -> statetimeline.Panel:
    """Returns a panel with a bar for each series, green at 1 and red at 0."""
    panel = placed(statetimeline.Panel(), title, description, width, 8)
    texts = {
        "0": models.ValueMappingResult(text="not ready", color=RED, index=0),
        "1": models.ValueMappingResult(text="ready", color=GREEN, index=1),
    }
    panel.mappings([models.ValueMap(options=texts)]).merge_values(merge_values=True)
    panel.show_value(common.VisibilityMode.NEVER).fill_opacity(80).line_width(0).row_height(0.85)
    return panel.with_target(query(expression, legend))


def rows_of(title: str, description: str, *queries: prometheus.Dataquery, hide: list[str], width: int) -> table.Panel:
    """Returns a table with a row for each set of labels, and a column for each query."""
    panel = placed(table.Panel(), title, description, width, 8).show_header(show_header=True)
    for each in queries:
        panel.with_target(each)
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    hidden = dict.fromkeys(["Time", "__name__", *hide], True)
    names = {"Value #A": "document", "Value #B": "enforced", "Value #C": "draining"} if len(queries) > 1 else {}
    panel.with_transformation(
        models.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": names})
    )
    return panel


def overview(board: builders.Dashboard) -> None:
    board.with_row(builders.Row("Now"))
    for panel in (
        number("Proxies with graygate", "The proxies that have loaded the module.", "sum(graygate_build_info)"),
        number(
            "Proxies that enforce",
            "The proxies that enforce the policy. The others are in shadow, or before their rollout.",
            f"sum(graygate_policy_enforced{{{POLICY}}})",
        ),
        number(
            "Upstreams not ready",
            "The upstreams that are not ready on at least one proxy that does not drain.",
            f"count(count by (policy, upstream) (graygate_upstream_ready{{{POLICY}}} == 0 {SERVING})) or vector(0)",
            bad_from=1,
        ),
        number(
            "Documents of one policy",
            "More than 1 means that some proxies have another document of the policy.",
            f'max(count by (policy) (count_values by (policy) ("document", graygate_policy_document{{{POLICY}}} > 0)))',
            bad_from=2,
        ),
        number(
            "Proxies with a refused policy",
            "The proxies whose newest document is wrong.",
            "count(graygate_policy_refused == 1) or vector(0)",
            bad_from=1,
        ),
        number(
            "Proxies that drain",
            "The proxies that fail readiness because somebody ordered them to drain.",
            f"sum(graygate_draining{{{POLICY}}}) or vector(0)",
        ),
    ):
        board.with_panel(panel)


def releases(board: builders.Dashboard) -> None:
    board.with_row(builders.Row("Releases"))
    by = "by (policy, release, version)"
    counted = f'graygate_responses_total{{{RELEASE},mode=""}}'
    board.with_panel(
        stacked(
            graph(
                "Share wanted",
                "The share that each version holds by weight, schedule and rollbacks. It is the mean of all proxies.",
                "percentunit",
                query(
                    f"avg {by} (graygate_version_share_basis_points{{{RELEASE}}}) / 10000",
                    "{{policy}}/{{release}} {{version}}",
                ),
            ).max(1)
        )
    )
    assigned = f'rate(graygate_assignments_total{{{RELEASE},mode=""}}[$__rate_interval])'
    board.with_panel(
        stacked(
            graph(
                "Share seen",
                "The share of the requests that each version got. It differs from the share wanted if few users make "
                "many requests, or if a version falls back.",
                "percentunit",
                query(
                    f"sum {by} ({assigned}) / on (policy, release) group_left () sum by (policy, release) ({assigned})",
                    "{{policy}}/{{release}} {{version}}",
                ),
            ).max(1)
        )
    )
    for title, kind, about in (
        ("Failures by version", "failure|broken-off", "The share of the responses that fail by `rollback.failOn`."),
        ("Slow responses by version", "slow", "The share of the responses slower than `rollback.latency.above`."),
    ):
        some = counted.replace("}", f',result=~"{kind}"}}')
        whole = counted.replace("}", ',result=~"success|slow|failure"}')
        board.with_panel(
            graph(
                title,
                f"{about} A release counts responses if it has `rollback`.",
                "percentunit",
                query(
                    f"sum {by} (rate({some}[$__rate_interval])) / sum {by} (rate({whole}[$__rate_interval]))",
                    "{{policy}}/{{release}} {{version}}",
                ),
            )
        )
    here = f"and on (job, instance) graygate_version_share_basis_points{{{RELEASE}}}"
    envoys = (
        f'rate(envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name!~"{NOT_USERS}"}}[$__rate_interval]) {here}'
    )
    istios = f"rate(istio_request_duration_milliseconds_bucket[$__rate_interval]) {here}"
    board.with_panel(
        graph(
            "Latency: 99 % of the responses are faster",
            "By Envoy's own histogram of each cluster, or by Istio's of each version of a service. Both are of the "
            "proxies that have the release.",
            "ms",
            query(
                "histogram_quantile(0.99, "
                f'sum by (target, le) (label_replace({envoys}, "target", "$1", "envoy_cluster_name", "(.*)")) '
                f"or sum by (target, le) (label_join({istios}, "
                '"target", " ", "destination_service_name", "destination_version")))',
                "{{target}}",
            ),
        )
    )
    board.with_panel(
        stacked(
            graph(
                "Why a request got its version",
                "Requests by the reason for their version. `fallback` means that the version's upstream is not ready.",
                "reqps",
                query(
                    f"sum by (policy, release, version, reason) ({assigned}) > 0",
                    "{{policy}}/{{release}} {{version}} {{reason}}",
                ),
            )
        )
    )
    board.with_panel(
        bars(
            graph(
                "Rollbacks",
                "Rollbacks by version and limit. Each proxy judges for itself.",
                "none",
                query(
                    "sum by (policy, release, version, reason) "
                    f'(increase(graygate_rollbacks_total{{{RELEASE},mode=""}}[$__rate_interval]))',
                    "{{policy}}/{{release}} {{version}} {{reason}}",
                ),
            )
        )
    )
    board.with_panel(
        graph(
            "Misrouted requests",
            "Requests of a version that the routes send elsewhere. Anything above 0 is a mistake in the routes.",
            "reqps",
            query(
                f"sum {by} (rate(graygate_misrouted_requests_total{{{RELEASE}}}[$__rate_interval]))",
                "{{policy}}/{{release}} {{version}}",
            ),
        )
    )


def upstreams(board: builders.Dashboard) -> None:
    board.with_row(builders.Row("Upstreams"))
    board.with_panel(
        states(
            "Readiness",
            "Whether each upstream of each policy is ready, by proxy.",
            f"graygate_upstream_ready{{{POLICY}}}",
            "{{policy}}/{{upstream}} on {{instance}}",
        )
    )
    board.with_panel(
        bars(
            graph(
                "Transitions and their reasons",
                "How often upstreams changed their phase, and why. Each counts once for a proxy.",
                "none",
                query(
                    "sum by (policy, upstream, to, reason) "
                    f"(increase(graygate_transitions_total{{{POLICY}}}[$__rate_interval])) > 0",
                    "{{policy}}/{{upstream}} {{to}}: {{reason}}",
                ),
            )
        )
    )
    board.with_panel(
        graph(
            "Checks by result",
            "`error` means that Envoy did not send the check, so nothing new is known of the upstream.",
            "ops",
            query(
                f"sum by (policy, upstream, result) (rate(graygate_checks_total{{{POLICY}}}[$__rate_interval])) > 0",
                "{{policy}}/{{upstream}} {{result}}",
            ),
        )
    )
    board.with_panel(
        stacked(
            graph(
                "Gated requests",
                "Requests that a gate kept from an upstream, by the reason for which it is not ready.",
                "reqps",
                query(
                    "sum by (policy, upstream, reason) "
                    f'(rate(graygate_gated_requests_total{{{POLICY},mode=""}}[$__rate_interval])) > 0',
                    "{{policy}}/{{upstream}} {{reason}}",
                ),
            )
        )
    )
    board.with_panel(
        stacked(
            graph(
                "Fallback requests",
                "Gated requests that went to another upstream or got the static answer.",
                "reqps",
                query(
                    "sum by (policy, upstream, to) "
                    f'(rate(graygate_fallback_requests_total{{{POLICY},mode=""}}[$__rate_interval]))',
                    "{{policy}}/{{upstream}} to {{to}}",
                ),
            )
        )
    )
    board.with_panel(
        stacked(
            graph(
                "Requests that failed open",
                "Requests that a gate let through although its upstream is not ready.",
                "reqps",
                query(
                    "sum by (policy, upstream, reason) "
                    f'(rate(graygate_failed_open_requests_total{{{POLICY},mode=""}}[$__rate_interval]))',
                    "{{policy}}/{{upstream}} {{reason}}",
                ),
            )
        )
    )


def proxies(board: builders.Dashboard) -> None:
    board.with_row(builders.Row("Proxies and policies"))
    enforced = query(f"sum by (instance, policy) (graygate_policy_enforced{{{POLICY}}})", now=True, ref="B")
    draining = query(f"sum by (instance, policy) (graygate_draining{{{POLICY}}})", now=True, ref="C")
    document = query(f"sum by (instance, policy) (graygate_policy_document{{{POLICY}}})", now=True)
    board.with_panel(
        rows_of(
            "Who enforces which document",
            "`graygate policy-number FILE` prints the number of a document.",
            *(document, enforced, draining),
            hide=[],
            width=HALF,
        )
    )
    board.with_panel(
        rows_of(
            "Versions of the module",
            "How many proxies have each version.",
            query("sum by (version, revision) (graygate_build_info) > 0", now=True),
            hide=[],
            width=HALF,
        )
    )
    board.with_panel(
        graph(
            "Proxies with a refused policy, by plugin",
            "How many proxies have a wrong document as their newest one. They go on with the last good one.",
            "none",
            query("sum by (plugin) (graygate_policy_refused)", "{{plugin}}"),
        )
    )
    board.with_panel(
        graph(
            "Replies to probes",
            "Replies by probe and verdict.",
            "reqps",
            query(
                "sum by (policy, probe, result) "
                f"(rate(graygate_probe_answers_total{{{POLICY}}}[$__rate_interval])) > 0",
                "{{policy}}/{{probe}} {{result}}",
            ),
        )
    )


def variable(name: str, label: str, values: str) -> builders.QueryVariable:
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(values)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        # Includes policies without a release.
        .all_value(".*")
        .current(everything)
    )


def dashboard() -> models.Dashboard:
    board = (
        builders.Dashboard("graygate")
        .uid("graygate")
        .description("What graygate decides in Envoy: releases, readiness of upstreams, gates and policies.")
        .tags(["graygate", "envoy", "istio"])
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("policy", "Policy", "label_values(graygate_policy_document, policy)"))
        .with_variable(
            variable("release", "Release", f"label_values(graygate_version_share_basis_points{{{POLICY}}}, release)")
        )
        .annotation(
            builders.AnnotationQuery()
            .name("Rollbacks")
            .datasource(SOURCE)
            .enable(enable=True)
            .icon_color(RED)
            .expr(
                f'sum by (policy, release, version) (increase(graygate_rollbacks_total{{{RELEASE},mode=""}}[1m])) > 0'
            )
        )
    )
    for section in (overview, releases, upstreams, proxies):
        section(board)
    built = board.build()
    for number, panel in enumerate(built.panels or [], 1):
        panel.id_val = number
    return built


def text() -> str:
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file differs")
    options = parser.parse_args()
    return keep(FILE, text(), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
