"""Draws what the demo has measured, as SVG and as a page that needs no other file.

Pictures follow the reader's light or dark theme, and have a title and a description for screen readers.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate

from harness.load import Answer

# The palette of Okabe and Ito, which people with colour blindness can tell apart, and a red with stripes.
COLOURS = {"v1": "#0072B2", "v2": "#E69F00", "failed": "#C1272D"}
KINDS = ("v2", "v1", "failed")
# The seconds before and after the kill that are drawn, and how many of them each column covers.
BEFORE, AFTER, STEP = 0.5, 2.5, 0.1

STYLE = """
.demo text { fill: #1f2328; font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.demo .paper { fill: #ffffff; }
.demo .faint { fill: #59636e; }
.demo .axis { stroke: #8c959f; stroke-width: 1px; }
.demo .kill { stroke: #1f2328; stroke-width: 1.5px; stroke-dasharray: 4 3; }
.demo .failing { stroke: #c1272d; }
.demo .serving { stroke: #0072b2; }
.demo .bold { font-weight: 600; }
.demo .halo { stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round; paint-order: stroke; }
.demo .on-dark { fill: #ffffff; }
.demo .on-light { fill: #000000; }
@media (prefers-color-scheme: dark) {
.demo text { fill: #e6edf3; }
.demo .paper { fill: #0d1117; }
.demo .faint { fill: #9198a1; }
.demo .axis { stroke: #656c76; }
.demo .kill { stroke: #e6edf3; }
.demo .failing { stroke: #ff7b72; }
.demo .serving { stroke: #58a6ff; }
.demo .halo { stroke: #0d1117; }
.demo .on-dark { fill: #ffffff; }
.demo .on-light { fill: #000000; }
}
"""

PAGE_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --back: #ffffff; --line: #d0d7de; --bad: #b42318; }
@media (prefers-color-scheme: dark) {
:root { --text: #e6edf3; --back: #0d1117; --line: #30363d; --bad: #ff8f85; }
}
body { margin: 2rem auto; max-width: 820px; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem 0.25rem 0; text-align: left; }
.bad { color: var(--bad); font-weight: 600; }
"""


@dataclass
class Row:
    """One line of the demo's table."""

    what: str
    measured: str
    wanted: str
    good: bool


@dataclass
class Story:
    """What the demo has measured."""

    jobs: dict[str, list[Row]] = field(default_factory=dict)
    # The number of users by their version before and after the raise of the weight.
    raised: Counter[tuple[str, str]] = field(default_factory=Counter)
    # The answers to the users of v2, from both listeners at the same time.
    gray: Sequence[Answer] = ()
    plain: Sequence[Answer] = ()
    killed: float = 0.0
    summary: str = ""

    def failed(self, answers: Iterable[Answer]) -> tuple[int, int]:
        """Returns how many of the requests from the kill to the end of the picture failed, and of how many."""
        after = [answer for answer in answers if 0 <= answer.asked - self.killed < AFTER]
        return sum(answer.status != 200 for answer in after), len(after)

    @property
    def users(self) -> int:
        return self.raised.total()

    def on(self, version: str, moment: int) -> int:
        """Returns the number of users on a version before (0) or after (1) the raise."""
        return sum(count for pair, count in self.raised.items() if pair[moment] == version)


class Picture:
    """An SVG with a title and a description."""

    def __init__(self, name: str, width: int, height: int, title: str, description: str) -> None:
        size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
        named = {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
        self.root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "demo", **size, **named})
        self.name = name
        self.add("title", {"id": f"{name}-title"}).text = title
        self.add("desc", {"id": f"{name}-description"}).text = description
        self.add("style", {}).text = STYLE
        stripes = ET.SubElement(self.add("defs", {}), "pattern", self.stripes())
        ET.SubElement(stripes, "rect", {"width": "7", "height": "7", "fill": COLOURS["failed"]})
        ET.SubElement(stripes, "rect", {"width": "2", "height": "7", "fill": "#ffffff", "fill-opacity": "0.45"})
        self.add("rect", {"class": "paper", "width": "100%", "height": "100%"})

    def stripes(self) -> dict[str, str]:
        size = {"width": "7", "height": "7", "patternUnits": "userSpaceOnUse", "patternTransform": "rotate(45)"}
        return {"id": f"{self.name}-failed", **size}

    def fill(self, kind: str) -> str:
        return f"url(#{self.name}-failed)" if kind == "failed" else COLOURS[kind]

    def add(self, tag: str, attributes: dict[str, str]) -> ET.Element:
        return ET.SubElement(self.root, tag, attributes)

    def rect(self, x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> None:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
        self.add("rect", {**place, "fill": fill, "fill-opacity": f"{opacity:g}"})

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self.add("line", {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}", "class": style})

    def text(self, x: float, y: float, words: str, style: str = "", size: int = 12, anchor: str = "start") -> None:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "font-size": str(size), "text-anchor": anchor, "class": style}
        self.add("text", place).text = words

    def __str__(self) -> str:
        ET.indent(self.root, "")
        return ET.tostring(self.root, encoding="unicode") + "\n"


def raise_words(story: Story) -> str:
    before, after = (100 * story.on("v2", moment) / story.users for moment in (0, 1))
    ahead, back = story.raised["v1", "v2"], story.raised["v2", "v1"]
    return (
        f"Of {story.users:,} users, {before:.1f} % were on v2 before the raise and {after:.1f} % after it. "
        f"{ahead:,} moved from v1 to v2, and {back:,} moved back from v2 to v1."
    )


def kill_words(story: Story) -> str:
    gray, plain = (story.failed(answers) for answers in (story.gray, story.plain))
    return (
        f"v2 is killed while its users send requests. In the {AFTER:g} s after that, {gray[0]:,} of {gray[1]:,} "
        f"requests failed with graygate, which sent the users to v1. Without it, {plain[0]:,} of {plain[1]:,} failed."
    )


def draw_raise(picture: Picture, story: Story, x: float, y: float, width: float, height: float) -> None:
    """Draws the users by version before and after the raise. Pale bands are users who stay, strong ones who move."""
    bar = 64.0
    scale = height / story.users
    right = x + width - bar
    starts = {"v1": y, "v2": y + story.on("v1", 0) * scale}
    ends = {"v1": y, "v2": y + story.on("v1", 1) * scale}
    tops = dict(starts), dict(ends)
    for before, after in (("v1", "v1"), ("v1", "v2"), ("v2", "v1"), ("v2", "v2")):
        part = story.raised[before, after] * scale
        if part:
            middle = (x + bar + right) / 2
            start, end = starts[before], ends[after]
            outline = (
                f"M{x + bar:.1f},{start:.1f} C{middle:.1f},{start:.1f} {middle:.1f},{end:.1f} {right:.1f},{end:.1f} "
                f"v{part:.1f} C{middle:.1f},{end + part:.1f} {middle:.1f},{start + part:.1f} "
                f"{x + bar:.1f},{start + part:.1f} Z"
            )
            opacity = "0.22" if before == after else "0.85"
            picture.add("path", {"d": outline, "fill": COLOURS[before], "fill-opacity": opacity})
        starts[before] += part
        ends[after] += part
    for moment, left in ((0, x), (1, right)):
        for version in ("v1", "v2"):
            count = story.on(version, moment)
            top = tops[moment][version]
            picture.rect(left, top, bar, count * scale, COLOURS[version])
            style = "on-dark" if version == "v1" else "on-light"
            middle = top + count * scale / 2
            if count * scale < 30:
                picture.text(left + bar / 2, middle + 4, f"{version} {count:,}", style, 11, "middle")
                continue
            picture.text(left + bar / 2, middle - 2, version, f"{style} bold", 12, "middle")
            picture.text(left + bar / 2, middle + 12, f"{count:,}", style, 11, "middle")
    moved = tops[0]["v2"] - story.raised["v1", "v2"] * scale / 2 + 4
    picture.text((x + bar + right) / 2, moved, f"{story.raised['v1', 'v2']:,} move to v2", "on-dark", 12, "middle")


def columns(story: Story, answers: Iterable[Answer]) -> list[Counter[str]]:
    """Returns the number of requests of each kind in each column, by the time at which they were sent."""
    counts: list[Counter[str]] = [Counter() for _ in range(round((BEFORE + AFTER) / STEP))]
    for answer in answers:
        column = int((answer.asked - story.killed + BEFORE) / STEP)
        if answer.asked >= story.killed - BEFORE and column < len(counts):
            kind = (answer.version or "failed") if answer.status == 200 else "failed"
            counts[column][kind] += 1
    return counts


def draw_requests(
    picture: Picture, story: Story, answers: Sequence[Answer], x: float, y: float, width: float, height: float
) -> None:
    """Draws the requests of v2's users over time, by who answered. A dashed line marks the kill."""
    counts = columns(story, answers)
    largest = max(count.total() for count in counts) or 1
    column = width / len(counts)
    for index, count in enumerate(counts):
        bottom = y + height
        for kind in KINDS:
            part = height * count[kind] / largest
            bottom -= part
            if part:
                picture.rect(x + index * column, bottom, column - 0.6, part, picture.fill(kind))
    picture.line(x, y + height, x + width, y + height, "axis")
    kill = x + width * BEFORE / (BEFORE + AFTER)
    picture.line(kill, y - 8, kill, y + height, "kill")


def draw_seconds(picture: Picture, x: float, y: float, width: float) -> None:
    """Writes the seconds since the kill below a chart."""
    for second in (0.0, 0.5, 1.0, 1.5, 2.0, AFTER):
        place = x + width * (BEFORE + second) / (BEFORE + AFTER)
        words = f"{second:g} s"
        picture.text(place, y, words, "faint", 11, "end" if second == AFTER else "middle")


def draw_legend(picture: Picture, x: float, y: float) -> None:
    for kind, words in (("v2", "answered by v2"), ("v1", "answered by v1"), ("failed", "failed")):
        picture.rect(x, y - 10, 12, 12, picture.fill(kind))
        picture.text(x + 17, y, words, "faint", 12)
        x += 132


def whole_picture(story: Story) -> str:
    """Returns the picture of the README, which is legible at a width of 800 pixels."""
    title = "What make demo measured: nobody moves back, and a dead version fails few requests"
    picture = Picture("demo", 800, 348, title, f"{raise_words(story)} {kill_words(story)}")
    gray, plain = (story.failed(answers) for answers in (story.gray, story.plain))
    picture.text(16, 28, "The weight of v2 is raised", "bold", 15)
    picture.text(16, 48, f"{story.users:,} users, before and after", "faint")
    draw_raise(picture, story, 16, 64, 300, 224)
    back = story.raised["v2", "v1"]
    picture.text(166, 310, f"{back:,} users moved back", "bold", 14, "middle")
    picture.text(356, 28, "v2 is killed", "bold", 15)
    picture.text(356, 48, "Requests of v2's users, over time", "faint")
    for name, answers, y, (failed, whole) in (
        ("with graygate", story.gray, 88.0, gray),
        ("without", story.plain, 206.0, plain),
    ):
        picture.text(356, y - 14, name, "bold", 13)
        picture.text(784, y - 14, f"{failed:,} of {whole:,} failed", "bold", 13, "end")
        draw_requests(picture, story, answers, 356, y, 428, 84)
    draw_seconds(picture, 356, 306, 428)
    draw_legend(picture, 356, 332)
    picture.text(16, 332, "Measured by make demo, in a real Envoy", "faint")
    return str(picture)


def raise_picture(story: Story) -> str:
    picture = Picture("raise", 780, 300, "Users before and after the raise of v2's weight", raise_words(story))
    picture.text(8, 20, "before", "faint")
    picture.text(772, 20, "after", "faint", anchor="end")
    draw_raise(picture, story, 8, 32, 764, 230)
    picture.text(390, 288, f"{story.raised['v2', 'v1']:,} users moved back from v2 to v1", "bold", 14, "middle")
    return str(picture)


def kill_picture(story: Story) -> str:
    picture = Picture("kill", 780, 250, "Requests of v2's users over time, with graygate", kill_words(story))
    draw_requests(picture, story, story.gray, 8, 36, 764, 150)
    picture.text(8 + 764 * BEFORE / (BEFORE + AFTER), 20, "v2 is killed", "bold", 12, "middle")
    draw_seconds(picture, 8, 204, 764)
    draw_legend(picture, 8, 236)
    return str(picture)


def failures_picture(story: Story) -> str:
    """Returns a picture of the failures since the kill, summed up, with graygate and without."""
    picture = Picture("failures", 780, 270, "Requests that failed since v2 was killed", kill_words(story))
    left, top, width, height = 8.0, 30.0, 640.0, 190.0
    sums: dict[str, list[int]] = {}
    for name, answers in (("with graygate", story.gray), ("without", story.plain)):
        since = [answer for answer in answers if answer.asked >= story.killed]
        sums[name] = list(accumulate(count["failed"] for count in columns(story, since)))
    largest = max(line[-1] for line in sums.values()) or 1
    for (name, line), style in zip(sums.items(), ("serving", "failing"), strict=True):
        step = width / len(line)
        points = [(left + step * (index + 1), top + height * (1 - value / largest)) for index, value in enumerate(line)]
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in [(left, top + height), *points])
        dashes = {"stroke-dasharray": "7 4"} if style == "failing" else {}
        picture.add("path", {"d": path, "fill": "none", "class": style, "stroke-width": "3", **dashes})
        picture.text(left + width + 8, points[-1][1] + 4, f"{line[-1]:,} {name}", "bold", 12)
    picture.line(left, top + height, left + width, top + height, "axis")
    kill = left + width * BEFORE / (BEFORE + AFTER)
    picture.line(kill, top - 8, kill, top + height, "kill")
    picture.text(kill, top - 12, "v2 is killed", "bold", 12, "middle")
    draw_seconds(picture, left, top + height + 18, width)
    return str(picture)


def page(story: Story) -> str:
    """Returns a page with the pictures and the table. It needs no other file."""
    figures = {
        "Releases": [
            (raise_picture(story), raise_words(story)),
            (kill_picture(story), kill_words(story)),
            (failures_picture(story), "Failed requests, summed up since the kill, of the same users at the same time."),
        ],
    }
    parts = []
    for job, rows in story.jobs.items():
        parts.append(f"<h2>{escape(job)}</h2>")
        parts += [
            f"<figure>{svg}<figcaption>{escape(words)}</figcaption></figure>" for svg, words in figures.get(job, [])
        ]
        parts.append('<table><thead><tr><th scope="col">what</th><th scope="col">measured</th>')
        parts.append('<th scope="col">should be</th></tr></thead><tbody>')
        for row in rows:
            style = "" if row.good else ' class="bad"'
            cells = f"<td{style}>{escape(row.measured)}</td><td>{escape(row.wanted)}</td>"
            parts.append(f'<tr><th scope="row">{escape(row.what)}</th>{cells}</tr>')
        parts.append("</tbody></table>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>graygate: what make demo measured</title>\n'
        f"<style>{PAGE_STYLE}</style>\n<h1>graygate: what make demo measured</h1>\n"
        f"<p>{escape(story.summary)}</p>\n{body}\n</html>\n"
    )
