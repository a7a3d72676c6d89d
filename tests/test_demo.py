"""The demo and its pictures."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
import yaml

from demo_pictures import AFTER, Row, Story, columns, page, whole_picture
from harness.envoy import PROJECT
from harness.load import Answer
from harness.tool import run

SVG = "{http://www.w3.org/2000/svg}"


def answers(killed, *, fails_for):
    """Returns an answer for each hundredth of a second, of v2 until the kill, then failures, then of v1."""
    found = []
    for hundredth in range(-50, int(AFTER * 100)):
        asked = killed + hundredth / 100 + 0.001
        version = "v2" if hundredth < 0 else "v1" if hundredth >= fails_for * 100 else None
        found.append(Answer(200 if version else 503, version, b"", asked, asked))
    return found


@pytest.fixture
def story():
    return Story(
        jobs={"Releases": [Row("moved <back>", "7 users", "0", good=False)]},
        raised=Counter({("v1", "v1"): 60, ("v1", "v2"): 20, ("v2", "v1"): 7, ("v2", "v2"): 13}),
        gray=answers(100.0, fails_for=0.2),
        plain=answers(100.0, fails_for=10),
        killed=100.0,
        summary="7 of 100 users moved back.",
    )


def test_the_picture_shows_what_was_measured_and_says_it(story):
    root = ET.fromstring(whole_picture(story))
    words = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert {"7 users moved back", "20 move to v2", "20 of 250 failed", "250 of 250 failed"} < set(words)
    named = {element.get("id"): element.text or "" for element in root}
    title, description = (named[name] for name in root.attrib["aria-labelledby"].split())
    assert root.get("role") == "img"
    assert title
    assert "20 of 250 requests failed with graygate" in description
    assert "7 moved back from v2 to v1" in description


def test_the_bars_and_bands_are_as_high_as_their_users_are_many(story):
    root = ET.fromstring(whole_picture(story))
    bars = [element for element in root.iter(f"{SVG}rect") if element.get("width") == "64.0"]
    heights = [float(bar.attrib["height"]) for bar in bars]
    # v1 and v2 before the raise, and after it.
    assert [round(100 * height / (heights[0] + heights[1])) for height in heights] == [80, 20, 67, 33]
    assert len(list(root.iter(f"{SVG}path"))) == 4


def test_requests_are_counted_by_the_time_since_the_kill(story):
    counts = columns(story, story.gray)
    assert counts[4] == Counter(v2=10)
    assert counts[5] == counts[6] == Counter(failed=10)
    assert counts[7] == Counter(v1=10)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(story):
    text = page(story)
    assert text.count("<svg") == 3
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "moved &lt;back&gt;" in text
    assert '<td class="bad">7 users</td>' in text
    assert text.index(story.summary) < text.index("<h2>Releases</h2>")


def test_the_demo_has_a_heading_for_each_job_and_sums_up():
    file = PROJECT / "target/demo.html"
    file.unlink(missing_ok=True)
    command = [sys.executable, str(PROJECT / "envoy/demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    lines = done.stdout.splitlines()
    headings = [line for line in lines if line in {"Probes", "Releases", "Gates"}]
    assert headings == ["Probes", "Releases", "Gates"], done.stdout + done.stderr
    # A busy machine may be too slow for a line of the table. What it says must agree all the same.
    good, rows = (sum(line.startswith(starts) for line in lines) for starts in (("ok ",), ("ok ", "NOT ")))
    assert lines[-2].startswith(f"{good} of {rows} lines are as they should be. 0 of 10,000 users moved back.")
    assert done.returncode == (0 if good == rows else 1)
    assert lines[-2] in file.read_text()


def test_another_argument_is_refused():
    command = [sys.executable, str(PROJECT / "envoy/demo.py"), "down"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert '\'down\'; allowed: none, "up" or "pictures"' in done.stderr


def test_the_picture_of_simulate_in_the_documents_is_what_it_draws(tmp_path):
    done = run("simulate", PROJECT / "docs/pictures/schedule.yaml", "--svg", tmp_path / "simulate.svg")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "simulate.svg").read_text() == (PROJECT / "docs/pictures/simulate.svg").read_text()


def test_the_picture_of_simulate_is_of_the_release_beside_it():
    page = (PROJECT / "docs/how-to/three-versions-by-schedule.md").read_text()
    assert "../pictures/simulate.svg" in page
    block = page.split("```yaml\n")[1].split("```")[0]
    drawn = (PROJECT / "docs/pictures/schedule.yaml").read_text()
    assert yaml.safe_load(block)["releases"] == yaml.safe_load(drawn)["releases"]


@pytest.mark.parametrize("file", sorted((PROJECT / "docs/pictures").glob("*.svg")), ids=lambda file: file.name)
def test_each_picture_of_the_documents_has_words_and_a_dark_side(file):
    root = ET.parse(file).getroot()
    assert root.get("role") == "img"
    named = {element.get("id"): element.text or "" for element in root}
    title, description = (named[name] for name in root.attrib["aria-labelledby"].split())
    assert title
    assert len(description) > len(title)
    assert "prefers-color-scheme: dark" in "".join(element.text or "" for element in root.iter(f"{SVG}style"))
    # Everything is in the file.
    assert set(re.findall(r"https?://[^\"]+", file.read_text())) == {"http://www.w3.org/2000/svg"}
