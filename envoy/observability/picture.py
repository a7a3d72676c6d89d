"""Draws docs/pictures/dashboard.png: the panels of the dashboard, from their own queries, after the story was told.

The places, titles, units and legends are those of dashboard.json. Grafana itself is not needed.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from harness.envoy import PROJECT
from harness.prometheus import Series

from .dashboard import FILE
from .queries import Query, panel_queries, substituted
from .story import INTERVAL, Story, told

PICTURE = PROJECT / "docs/pictures/dashboard.png"
# The palette of Okabe and Ito, which people with colour blindness can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
READY, NOT_READY, INK, FAINT, PAPER, CARD = "#7CC4A0", "#C1272D", "#1f2328", "#59636e", "#ffffff", "#f6f8fa"
# The width of a column and the height of a row of Grafana's grid, in inches.
COLUMN, ROW = 0.5, 0.27
HEAD = 1.25
MARGIN = 0.12
DOTS = 110
UNITS: Mapping[str, tuple[float, str]] = {
    "percentunit": (100, "%"),
    "ms": (1, "ms"),
    "reqps": (1, "req/s"),
    "ops": (1, "1/s"),
    "none": (1, ""),
}
NAMES = {
    "graygate_policy_document": "document",
    "graygate_policy_enforced": "enforced",
    "graygate_draining": "draining",
}

Panel = dict[str, Any]


class Picture:
    def __init__(self, story: Story) -> None:
        self.story = story
        self.panels: list[Panel] = json.loads(FILE.read_text())["panels"]
        rows: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in self.panels)
        self.height = rows * ROW + HEAD
        self.figure = Figure(figsize=(24 * COLUMN, self.height), facecolor=PAPER)

    def draw(self) -> bytes:
        self.head()
        for panel in self.panels:
            if panel["type"] == "row":
                self.row(panel)
                continue
            kinds: dict[str, Callable[[Axes, Panel], None]] = {
                "stat": self.number,
                "timeseries": self.graph,
                "state-timeline": self.states,
                "table": self.table,
            }
            kinds[panel["type"]](self.axes(panel), panel)
        out = io.BytesIO()
        self.figure.savefig(out, dpi=DOTS, metadata={"Software": None})
        return smaller(out)

    def axes(self, panel: Panel) -> Axes:
        place = panel["gridPos"]
        below = 0.36 if panel["type"] == "timeseries" else 0.24
        left = 0.5 if panel["type"] in {"timeseries", "state-timeline"} else MARGIN
        width, height = place["w"] * COLUMN - MARGIN, place["h"] * ROW - MARGIN
        x, y = place["x"] * COLUMN + MARGIN / 2, self.height - HEAD - place["y"] * ROW - height
        whole = (24 * COLUMN, self.height)
        card = self.figure.add_axes((x / whole[0], y / whole[1], width / whole[0], height / whole[1]))
        card.set_facecolor(CARD)
        card.set_xticks([])
        card.set_yticks([])
        for spine in card.spines.values():
            spine.set_color("#d1d9e0")
        title = 1 - 0.08 / height
        card.text(0.012, title, panel["title"], fontsize=8, color=INK, fontweight="bold", va="top")
        inner = ((x + left) / whole[0], (y + below) / whole[1])
        size = ((width - left - 0.15) / whole[0], (height - below - 0.42) / whole[1])
        axes = self.figure.add_axes((*inner, *size))
        axes.set_facecolor("none")
        axes.tick_params(labelsize=6.5, colors=FAINT, length=2)
        for name, spine in axes.spines.items():
            spine.set_visible(name in {"left", "bottom"})
            spine.set_color("#8c959f")
        return axes

    def head(self) -> None:
        def place(inches: float) -> float:
            return 1 - inches / float(self.height)

        self.figure.text(0.01, place(0.3), "graygate", fontsize=13, fontweight="bold", color=INK)
        self.figure.text(
            0.1,
            place(0.3),
            "two proxies through a story of "
            f"{self.story.end - self.story.start:.0f} seconds. The dotted lines are these moments:",
            fontsize=8,
            color=FAINT,
        )
        for number, (_, text) in enumerate(self.story.marks):
            column, line = number % 6, number // 6
            self.figure.text(
                0.012 + column * 0.165, place(0.62 + line * 0.24), f"{number + 1}  {text}", fontsize=8, color=INK
            )

    def row(self, panel: Panel) -> None:
        y = 1 - (HEAD + (panel["gridPos"]["y"] + 0.75) * ROW) / self.height
        self.figure.text(0.008, y, panel["title"], fontsize=10, fontweight="bold", color=INK)

    # -- data -----------------------------------------------------------------------

    def results(self, panel: Panel) -> list[tuple[Query, list[Series]]]:
        found = []
        for query in panel_queries([panel]):
            expression = substituted(query.expression, INTERVAL)
            if query.is_instant:
                series = self.story.prometheus.query(expression)
            else:
                series = self.story.prometheus.query_range(expression, self.story.start, self.story.end, INTERVAL)
            found.append((query, series))
        return found

    def seconds(self, time: float) -> float:
        return time - self.story.start

    @property
    def count(self) -> int:
        """The number of values of a whole line."""
        return int((self.story.end - self.story.start) / INTERVAL) + 1

    def values(self, series: Series, factor: float) -> list[float]:
        """Returns a value for each interval of the story. It is not a number where the series has none."""
        values = [math.nan] * self.count
        for time, value in series.points:
            values[min(round(self.seconds(time) / INTERVAL), self.count - 1)] = value * factor
        return values

    def moments(self, axes: Axes) -> None:
        """Draws the moments of the story, and their numbers above."""
        length = self.story.end - self.story.start
        axes.set_xlim(0, length)
        axes.set_xticks([])
        for number, (time, _) in enumerate(self.story.marks, 1):
            x = self.seconds(time)
            axes.axvline(x, color="#8c959f", linewidth=0.5, linestyle=":", zorder=0)
            axes.text(x, 1.01, str(number), transform=axes.get_xaxis_transform(), fontsize=5, color=FAINT, ha="center")

    # -- kinds of panels ------------------------------------------------------------

    def graph(self, axes: Axes, panel: Panel) -> None:
        [(query, series)] = self.results(panel)
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        if not series:
            axes.axis("off")
            axes.text(0.5, 0.5, "no data", fontsize=9, color=NOT_READY, ha="center")
            return
        factor, unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        lines = {query.name(each.labels): self.values(each, factor) for each in series}
        # The legend has room for few names, so the largest come first.
        names = sorted(lines, key=lambda name: -max(value for value in lines[name] if not math.isnan(value)))
        x = [INTERVAL * number for number in range(self.count)]
        is_stacked = custom.get("stacking", {}).get("mode") == "normal"
        step = "post" if custom.get("drawStyle") == "bars" else None
        if is_stacked:
            shown = sorted(names)
            values = [[0 if math.isnan(value) else value for value in lines[name]] for name in shown]
            axes.stackplot(x, values, labels=shown, colors=COLOURS, alpha=0.85, step=step, linewidth=0)
        else:
            for name, colour in zip(sorted(names), COLOURS * 3, strict=False):
                axes.plot(x, lines[name], label=name, color=colour, linewidth=1.2)
        axes.set_ylim(bottom=0, top=100 if panel["fieldConfig"]["defaults"].get("max") == 1 else None)
        if axes.get_ylim()[1] <= 0:
            axes.set_ylim(0, 1)
        axes.locator_params(axis="y", nbins=4)
        axes.set_ylabel(unit, fontsize=6.5, color=FAINT, labelpad=1)
        self.moments(axes)
        handles, labels = axes.get_legend_handles_labels()
        kept = [pair for pair in zip(handles, labels, strict=True) if pair[1] in names[:6]]
        axes.legend(
            [handle for handle, _ in kept],
            [label for _, label in kept],
            loc="upper left",
            bbox_to_anchor=(-0.06, -0.02),
            ncols=3 if max(len(label) for _, label in kept) < 38 else 2,
            fontsize=6,
            frameon=False,
            handlelength=1,
            columnspacing=1.2,
            labelspacing=0.3,
            labelcolor=INK,
        )

    def states(self, axes: Axes, panel: Panel) -> None:
        [(query, series)] = self.results(panel)
        ordered = sorted(series, key=lambda each: query.name(each.labels), reverse=True)
        for row, each in enumerate(ordered):
            for (time, value), (after, _) in zip(each.points, each.points[1:], strict=False):
                colour = READY if value else NOT_READY
                axes.barh(row, after - time + 0.02, left=self.seconds(time), height=0.75, color=colour, linewidth=0)
        axes.set_yticks(range(len(ordered)), [query.name(each.labels) for each in ordered])
        box = axes.get_position()
        shift = 0.06
        axes.set_position((box.x0 + shift, box.y0, box.width - shift, box.height))
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        self.moments(axes)
        for x, colour, text in ((0.0, READY, "ready"), (0.15, NOT_READY, "not ready")):
            axes.text(x, -0.1, f"■ {text}", transform=axes.transAxes, fontsize=6.5, color=colour)

    def number(self, axes: Axes, panel: Panel) -> None:
        """Draws the largest number of the story beside the last one, as what was wrong has ended."""
        [(_, series)] = self.results(panel)
        values = [value for each in series for _, value in each.points]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        bad = steps[1]["value"] if len(steps) > 1 else math.inf
        axes.axis("off")
        axes.text(0.05, 0.35, f"{values[-1]:.0f}", fontsize=17, color=colour_of(values[-1], bad), va="center")
        axes.text(0.35, 0.35, f"at most {max(values):.0f}", fontsize=8, color=colour_of(max(values), bad), va="center")

    def table(self, axes: Axes, panel: Panel) -> None:
        results = self.results(panel)
        columns = list(dict.fromkeys(name for _, series in results for each in series for name in each.labels))
        rows: dict[tuple[str, ...], list[str]] = {}
        for _, series in results:
            for each in series:
                key = tuple(each.labels.get(name, "") for name in columns)
                rows.setdefault(key, []).append(f"{each.value:.0f}")
        named = [
            next((text for name, text in NAMES.items() if name in query.expression), "proxies") for query, _ in results
        ]
        axes.axis("off")
        cells = [[*key, *values] for key, values in sorted(rows.items())]
        table = axes.table(cells, colLabels=[*columns, *named], loc="upper left", cellLoc="left", edges="horizontal")
        table.auto_set_font_size(value=False)
        table.set_fontsize(7.5)
        table.scale(1, 1.3)


def smaller(picture: io.BytesIO) -> bytes:
    """Returns the picture with 64 colours, which are enough, in a third of the bytes."""
    out = io.BytesIO()
    Image.open(picture).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def colour_of(value: float, bad: float) -> str:
    return NOT_READY if value >= bad else COLOURS[0] if bad == math.inf else COLOURS[2]


def main() -> int:
    scrapes = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with told(scrapes) as story:
        PICTURE.write_bytes(Picture(story).draw())
    print(f"written: {PICTURE.relative_to(PROJECT)}, {PICTURE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
