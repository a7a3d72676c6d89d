"""The queries of a dashboard, as Grafana sends them to a Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Query:
    """One query of a panel or of an annotation. `legend` names its series."""

    panel: str
    expression: str
    legend: str
    is_instant: bool

    def name(self, labels: Mapping[str, str]) -> str:
        """Returns the name of a series in the legend."""
        return re.sub(r"\{\{ *(\w+) *\}\}", lambda found: labels.get(found[1], ""), self.legend)


def queries(board: Mapping[str, Any]) -> list[Query]:
    return [*panel_queries(board["panels"]), *annotation_queries(board)]


def panel_queries(panels: list[dict[str, Any]]) -> Iterator[Query]:
    for panel in panels:
        for target in panel.get("targets", []):
            yield Query(panel["title"], target["expr"], target.get("legendFormat", ""), target.get("instant", False))
        # A row that is folded holds its panels.
        yield from panel_queries(panel.get("panels", []))


def annotation_queries(board: Mapping[str, Any]) -> Iterator[Query]:
    for annotation in board["annotations"]["list"]:
        yield Query(f"annotation {annotation['name']}", annotation["expr"], "", is_instant=False)


def substituted(expression: str, interval: float) -> str:
    """Replaces the variables of Grafana, for a data source with this interval between scrapes, in seconds.

    Each variable of the dashboard has the value All. $__rate_interval is four intervals, as in Grafana for short steps.
    """
    rate = f"{int(4000 * interval)}ms"
    values = {"$__rate_interval": rate, "$__interval": f"{int(1000 * interval)}ms", "$policy": ".*", "$release": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    if "$" in re.sub(r'"\$\d"', "", expression):
        raise ValueError(f"a variable without a value in the query {expression}")
    return expression
