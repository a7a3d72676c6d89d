"""Draws a run: percentiles, responses, memory and events over the same time.

The picture follows the reader's light or dark theme.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .ledger import Sum
from .memory import Sample
from .report import Growth, Part, Report, Side, kib, largest
from .run import Happened

# The palette of Okabe and Ito, which people with colour blindness can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
INK, FAINT, PAPER, GRID = "#1f2328", "#59636e", "#ffffff", "#d1d9e0"
# matplotlib writes colours into each element, which a rule that is important overrules.
DARK = {INK: "#e6edf3", FAINT: "#9198a1", PAPER: "#0d1117", GRID: "#30363d", COLOURS[0]: "#58a6ff"}
TITLE = "An Envoy with graygate over time, under steady load with faults and rollouts"


def draw(report: Report) -> str:
    kinds: Sequence[tuple[Callable[[Axes, Report], None], float]] = (
        (percentiles, 3),
        (responses, 2),
        (memory, 2),
        (vms, 2),
        (events, 3),
    )
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "soak", "font.family": "sans-serif", "path.simplify": True}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 10), facecolor=PAPER, layout="constrained")
        panels = figure.subplots(len(kinds), 1, sharex=True, height_ratios=[height for _, height in kinds])
        for axes, (kind, _) in zip(panels, kinds, strict=True):
            frame(axes)
            kind(axes, report)
        panels[-1].set_xlabel("minutes", color=FAINT, fontsize=8)
        panels[-1].set_xlim(0, max([each.at + each.seconds for each in report.windows], default=60) / 60)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": TITLE})
    return described(themed(out.getvalue()), words(report))


def words(report: Report) -> str:
    graygate, plain = (sum(getattr(each, name).failed for each in report.windows) for name in ("graygate", "plain"))
    sent = sum(each.graygate.sent for each in report.windows)
    memory = [f"{name}: {kib(each.second)}, then {kib(each.last)}." for name, each in report.growth.items()]
    return (
        f"{sent:,} requests to each listener in {report.seconds / 60:.1f} minutes, with {len(report.events)} events. "
        f"{graygate:,} failed with graygate, and {plain:,} without it. {' '.join(memory)}"
    ).strip()


def described(svg: str, description: str) -> str:
    """Adds what a screen reader says, and leaves out what leads to elsewhere."""
    svg = re.sub(r"<!DOCTYPE.*?>\n| <metadata>.*?</metadata>\n", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace("<svg ", '<svg role="img" aria-labelledby="title description" ', 1)
    svg = svg.replace("<title>", '<title id="title">', 1)
    return svg.replace("</title>", f'</title>\n <desc id="description">{escape(description)}</desc>', 1)


def themed(svg: str) -> str:
    rules = [
        f"[style*='{kind}: {light.lower()}'] {{ {kind}: {dark} !important }}"
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    ]
    sheet = "<style>@media (prefers-color-scheme: dark) {\n" + "\n".join(rules) + "\n}</style>"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{sheet}\n{tag}{rest}"


def frame(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.set_axisbelow(b=True)
    axes.tick_params(labelsize=7.5, colors=FAINT, length=2)
    axes.grid(color=GRID, linewidth=0.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(FAINT)


def title(axes: Axes, text: str, unit: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, fontweight="bold", color=INK)
    axes.set_ylabel(unit, fontsize=7.5, color=FAINT)


def legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False, labelcolor=INK)


def percentiles(axes: Axes, report: Report) -> None:
    title(axes, "Response time of requests that both listeners got served", "ms")
    axes.set_yscale("log")
    minutes = [each.at / 60 for each in report.windows]
    for name, colour in zip(("p999", "p99", "p50"), (COLOURS[5], COLOURS[1], COLOURS[0]), strict=True):
        label = name.replace("p999", "p99.9")
        for line, style in (("graygate", "-"), ("plain", ":")):
            values = [getattr(getattr(each, line), name) or float("nan") for each in report.windows]
            axes.plot(minutes, values, color=colour, linestyle=style, linewidth=1.2, label=f"{label} {line}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    legend(axes)


def responses(axes: Axes, report: Report) -> None:
    title(axes, "Requests to each listener, and what became of them", "1/s")
    minutes = [each.at / 60 for each in report.windows]

    def rate(of: Callable[[Part], int]) -> list[float]:
        return [of(each) / each.seconds for each in report.windows]

    axes.plot(minutes, rate(lambda each: each.graygate.sent), color=COLOURS[0], linewidth=1.2, label="sent")
    axes.plot(minutes, rate(lambda each: each.graygate.gated), color=COLOURS[2], linewidth=1.2, label="gated")
    failed = {"failed graygate": ("-", "graygate"), "failed plain": (":", "plain")}
    for label, (style, line) in failed.items():
        values = rate(lambda each: getattr(each, line).failed)
        axes.plot(minutes, values, color=COLOURS[5], linestyle=style, linewidth=1.2, label=label)
    axes.set_ylim(bottom=0)
    legend(axes)


def memory(axes: Axes, report: Report) -> None:
    title(axes, "Memory of Envoy", "MiB")
    minutes = [each.at / 60 for each in report.samples]
    axes.plot(
        minutes, [each.resident / 1024 for each in report.samples], color=COLOURS[0], linewidth=1.2, label="resident"
    )
    allocated = [each.allocated / 1024 for each in report.samples]
    axes.plot(minutes, allocated, color=COLOURS[1], linewidth=1.2, label="allocated heap")
    axes.set_ylim(bottom=0)
    legend(axes)


def vms(axes: Axes, report: Report) -> None:
    title(axes, "Linear memory of each VM", "KiB")
    names = list(dict.fromkeys(name for each in report.samples for name in each.vms))
    for number, name in enumerate(names):
        points = [(each.at / 60, each.vms[name]) for each in report.samples if name in each.vms]
        # Lines of the same height would hide each other.
        style: Any = {"linewidth": 1 + 0.6 * (number % 4), "alpha": 0.8, "drawstyle": "steps-post"}
        axes.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], **style)
    top = max((largest(each) for each in report.samples), default=64)
    axes.set_ylim(0, 1.25 * top)


def events(axes: Axes, report: Report) -> None:
    title(axes, "Events", "")
    names = list(dict.fromkeys(each.name for each in report.events))
    for each in report.events:
        place = names.index(each.name)
        width = max(each.end - each.begin, 1) / 60
        axes.broken_barh([(each.begin / 60, width)], (place - 0.35, 0.7), facecolors=COLOURS[0])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def read(tree: dict[str, Any]) -> Report:
    """Returns the report that `--json` has written."""

    def part(of: dict[str, Any]) -> Part:
        return Part(**{**of, "graygate": Side(**of["graygate"]), "plain": Side(**of["plain"])})

    lists = {
        "parts": [part(each) for each in tree["parts"]],
        "windows": [part(each) for each in tree["windows"]],
        "samples": [Sample(**each) for each in tree["samples"]],
        "events": [Happened(**each) for each in tree["events"]],
        "sums": [Sum(**each) for each in tree["sums"]],
        "growth": {name: Growth(**each) for name, each in tree["growth"].items()},
    }
    return Report(**{**tree, **lists})


def main() -> int:
    """Draws again what a run has written: `python -m soak.picture target/soak.json docs/pictures/soak.svg`."""
    source, picture = map(Path, sys.argv[1:])
    picture.write_text(draw(read(json.loads(source.read_text()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
