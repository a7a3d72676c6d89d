"""`graygate simulate`: which users move where when weights change."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from harness.tool import run


@pytest.fixture
def file(policy, tmp_path):
    path = tmp_path / "policy.yaml"

    def write(**release):
        policy["releases"][0].update(release)
        path.write_text(yaml.safe_dump(policy))
        return path

    return write


def steps(*arguments):
    done = run("simulate", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def add_v3(policy):
    v3 = {**policy["releases"][0]["versions"][1], "name": "v3", "weight": 0}
    del v3["match"]
    policy["releases"][0]["versions"].append(v3)


def test_a_raised_weight_moves_users_in_one_direction_and_only_as_many_as_necessary(file):
    found = steps(file(), "--users", "20000", "--weights", "v2=0,10,30,60,100")
    assert [step["sharesPercent"]["v2"] for step in found] == [0, 10, 30, 60, 100]
    assert found[0]["moves"] == []
    for before, step in itertools.pairwise(found):
        gained = step["users"]["v2"] - before["users"]["v2"]
        assert step["moves"] == [{"from": "v1", "to": "v2", "users": gained}]
        assert step["movedUsers"] == gained
        assert abs(gained / 20_000 - step["mustMovePercent"] / 100) < 0.02


def test_without_weights_the_steps_are_the_policys_own(file):
    schedule = [{"at": "2026-12-01T10:00:00Z", "weights": {"v1": 70, "v2": 30}}]
    found = steps(file(schedule=schedule), "--users", "1000")
    assert [step["sharesPercent"] for step in found] == [{"v1": 90, "v2": 10}, {"v1": 70, "v2": 30}]


def test_schedule_steps_of_three_versions_move_only_the_users_that_they_have_to(file, policy):
    add_v3(policy)
    weights = ["--weights", "v2=0,10,30,20", "--weights", "v3=0,10,20,50"]
    arguments = [file(), "--users", "10000", *weights]
    as_schedule = [step["movedUsers"] for step in steps(*arguments, "--as-schedule")]
    in_place = [step["movedUsers"] for step in steps(*arguments)]
    must = [step["mustMovePercent"] * 100 for step in steps(*arguments)]
    assert must == [0, 2_000, 3_000, 3_000]
    assert all(abs(moved - share) < 200 for moved, share in zip(as_schedule, must, strict=True))
    # Users of v2 go to v1 and users of v1 to v3, instead of some from v2 to v3.
    assert in_place[:3] == as_schedule[:3]
    assert 3_800 < in_place[3] < 4_200


def test_keys_can_come_from_a_file(file, tmp_path):
    keys = tmp_path / "keys"
    keys.write_bytes(b"alice\r\njane.doe@example.com\n\n\xff\xfe\n")
    found = steps(file(), "--keys", keys, "--weights", "v2=20")
    assert found[0]["users"] == {"v1": 2, "v2": 1}


def test_the_table_shows_shares_and_directions(file):
    done = run("simulate", file(), "--users", "1000", "--weights", "v2=10,10,0")
    lines = done.stdout.splitlines()
    assert lines[0] == "release reviews, 1000 users"
    assert lines[3].endswith("nobody")
    assert "v2 -> v1: " in lines[4]


def test_the_table_says_who_moved_back(file):
    lines = run("simulate", file(), "--users", "1000", "--weights", "v2=10,30,10").stdout.splitlines()
    back = [line.split()[-6] for line in lines[3:5]]
    assert lines[1].split()[-2:] == ["back", "who"]
    assert back[0] == "0.00"
    assert float(back[1]) > 15
    assert re.search(
        r"^in all: \d+ moves between versions, no more than the weights need, and \d+ moved back$", lines[-1]
    )


def test_the_table_has_the_times_of_the_schedule(file):
    schedule = [{"at": "2026-12-01T23:30:00Z", "over": "90m", "weights": {"v1": 70, "v2": 30}}]
    policy = file(schedule=schedule)
    lines = run("simulate", policy, "--users", "1000").stdout.splitlines()
    assert lines[2].split()[:3] == ["1", "at", "first"]
    assert lines[3].startswith("   2  2026-12-01 23:30 +00:00, over 1h 30m ")
    lines = run("simulate", policy, "--users", "1000", "--utc-offset", "+01:00").stdout.splitlines()
    assert lines[3].startswith("   2  2026-12-02 00:30 +01:00, over 1h 30m ")
    found = steps(policy, "--users", "1000")
    assert [step["at"] for step in found] == [None, "2026-12-01T23:30:00.000Z"]
    assert [step["overSeconds"] for step in found] == [0, 5_400]
    assert [step["movedBackUsers"] for step in found] == [0, 0]
    assert found[1]["mustMoveUsers"] == found[1]["movedUsers"] > 0


def test_long_names_get_a_paragraph_for_each_step_instead_of_a_wide_table(file, policy):
    long = many_versions(policy, 20)
    done = run("simulate", file(), "--users", "1000", "--weights", f"{long[1]}=10,30")
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if "->" not in line) < 120
    assert re.search(rf"^ +[\d.]+ %  {long[1]}$", done.stdout, re.MULTILINE)


SVG = "{http://www.w3.org/2000/svg}"


def draw(path, *arguments):
    """Returns the root of the picture and the texts in it."""
    done = run("simulate", *arguments, "--svg", path)
    assert (done.returncode, done.stderr) == (0, "")
    root = ET.parse(path).getroot()
    return root, ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]


def many_versions(policy, count):
    """Gives the release this many versions, with names as long as they may be. Returns the names."""
    template = policy["releases"][0]["versions"][1]
    names = [f"v{number:02}-".ljust(63, "x") for number in range(count)]
    versions = [{"name": name, "upstream": template["upstream"], "weight": 0} for name in names]
    versions[0] |= {"weight": 100, "default": True}
    policy["releases"][0]["versions"] = versions
    return names


def test_the_picture_has_a_bar_for_each_version_of_each_step(file, tmp_path):
    root, words = draw(tmp_path / "picture.svg", file(), "--users", "1000", "--weights", "v2=10,30")
    assert {"v1", "v2", "step 1", "step 2", "90 %", "10 %", "70 %", "30 %"} < set(words)
    tips = [element.text for element in root.iter(f"{SVG}title")]
    assert sum(tip.startswith(("v1: ", "v2: ")) for tip in tips) == 2 * 2
    # Users who stay on v1, who move, and who stay on v2.
    assert sorted(tip.split(":")[0] for tip in tips if " to " in tip) == ["v1 to v1", "v1 to v2", "v2 to v2"]
    # The numbers under the second bar.
    assert words[-2:] == ["moved back", "0"]


def test_the_picture_shows_times_and_ramps(file, tmp_path):
    schedule = [
        {"at": "2026-12-01T10:00:00Z", "weights": {"v1": 70, "v2": 30}},
        {"at": "2026-12-01T12:00:00Z", "over": "2h", "weights": {"v1": 30, "v2": 70}},
    ]
    root, words = draw(tmp_path / "picture.svg", file(schedule=schedule), "--users", "1000")
    assert {"at first", "2026-12-01", "10:00", "12:00", "at once", "2h"} < set(words)
    assert any("hatched" in word for word in words)
    fills = [element.get("fill") for element in root.iter(f"{SVG}path")]
    assert len([fill for fill in fills if fill.startswith("url(#ramp-")]) == 1


def test_the_picture_says_in_words_what_it_shows(file, tmp_path):
    root, _ = draw(tmp_path / "picture.svg", file(), "--users", "1000", "--weights", "v2=10,30,10")
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    title, description = (named[name] for name in root.get("aria-labelledby").split())
    assert title == "Release reviews: who moves at each step"
    assert re.search(
        r"Step 2: v1 70 %, v2 30 %\. [\d.]+ % of the users moved, [\d.]+ % had to, 0 moved back\.", description
    )
    assert re.search(r"Step 3: .* [1-9]\d* moved back\.$", description)
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text


def test_all_versions_have_numbers_if_one_name_does_not_fit(file, policy, tmp_path):
    policy["releases"][0]["versions"][1]["name"] = "canary-of-the-week"
    shares = ",".join(str(share) for share in range(21))
    options = ["--weights", f"canary-of-the-week={shares}", "--users", "1000"]
    _, words = draw(tmp_path / "picture.svg", file(), *options)
    assert {"1: v1", "2: canary-of-the-week", "1", "2"} < set(words)
    assert "v1" not in words
    # The share of 1 % is beside its bar, and cannot be read as the number of a version.
    assert "1%" in words


def test_twenty_long_names_and_twenty_steps_fit_a_page(file, policy, tmp_path):
    names = many_versions(policy, 20)
    weights = [{name: 5 if 0 < index <= step else 0 for index, name in enumerate(names)} for step in range(1, 21)]
    schedule = [
        {"at": f"2026-12-{step + 1:02}T10:00:00Z", "weights": {**each, names[0]: 100 - sum(each.values())}}
        for step, each in enumerate(weights)
    ]
    root, words = draw(tmp_path / "picture.svg", file(schedule=schedule), "--users", "1000")
    assert float(root.get("width")) <= 1200
    # A4, landscape.
    assert float(root.get("height")) <= 1200 / 2**0.5
    assert {f"{number + 1}: {name}" for number, name in enumerate(names)} < set(words)
    for element in root.iter(f"{SVG}text"):
        assert 0 < float(element.get("x")) < 1200
        assert 0 < float(element.get("y")) < float(root.get("height"))


def test_no_line_of_text_is_cut_off_at_the_edge(file, tmp_path):
    """Few steps make the narrowest picture, and a ramp and times the most words."""
    schedule = [{"at": "2026-12-01T10:00:00Z", "over": "2h", "weights": {"v1": 50, "v2": 50}}]
    root, words = draw(tmp_path / "picture.svg", file(schedule=schedule))
    assert {"Times are UTC+00:00.", "hatched: they move gradually"} < set(words)
    for element in root.iter(f"{SVG}text"):
        if element.get("text-anchor"):
            continue
        size = float(element.get("font-size", "12"))
        # The letters of DejaVu Sans, a wide font, have more than half of its size on average.
        end = float(element.get("x")) + 0.55 * size * len("".join(element.itertext()).strip())
        assert end <= float(root.get("width")), "".join(element.itertext())


def test_more_steps_go_into_a_further_row(file, tmp_path):
    shares = ",".join(str(share) for share in range(30))
    root, words = draw(tmp_path / "picture.svg", file(), "--users", "1000", "--weights", f"v2={shares}")
    assert float(root.get("width")) <= 1200
    # The last step of the first row is the first one of the second.
    bold = ["".join(text.itertext()).strip() for text in root.iter(f"{SVG}text") if text.get("class") == "bold"]
    assert [number for number in bold if number.isdecimal() and number != "0"] == [
        str(number) for number in (*range(1, 22), *range(21, 31))
    ]
    assert words.count("step") == 2


def test_the_page_needs_nothing_else_and_has_the_numbers(file, tmp_path):
    page = tmp_path / "page.html"
    done = run("simulate", file(), "--users", "1000", "--weights", "v2=10,30", "--html", page)
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text()
    assert text.count("<svg") == 1
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert re.search(r'<th scope="row">step 2</th><td>70 %</td><td>30 %</td>', text)


def test_the_page_has_one_column_for_many_versions(file, policy, tmp_path):
    names = many_versions(policy, 20)
    page = tmp_path / "page.html"
    run("simulate", file(), "--users", "1000", "--weights", f"{names[1]}=10,30", "--html", page)
    assert f"<td>{names[0]} 70 %<br>{names[1]} 30 %</td>" in page.read_text()


def test_the_picture_can_be_a_png(file, tmp_path):
    picture = tmp_path / "picture.png"
    done = run("simulate", file(), "--users", "1000", "--weights", "v2=10,30", "--png", picture)
    assert (done.returncode, done.stderr) == (0, "")
    content = picture.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    # The width, in the first chunk: twice that of the SVG.
    assert int.from_bytes(content[16:20], "big") == 2 * 820


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "v2"], "allowed: VERSION=SHARE,SHARE…"),
        (["--weights", "v2=101"], "allowed: VERSION=SHARE,SHARE…"),
        (["--weights", "v1=10"], '--weights: "v1" is the default version, which gets the rest; allowed: v2'),
        (["--weights", "v9=10"], '--weights: there is no version "v9"; allowed: v2'),
        (["--release", "nope"], '--release: there is no release "nope"; allowed: reviews'),
        (["--users", "0"], "write a whole number from 1 to 10000000"),
        (["--utc-offset", "1h"], "allowed: an offset from UTC such as +01:00"),
    ],
)
def test_wrong_usage_is_reported_and_ends_with_2(file, arguments, words):
    done = run("simulate", file(), *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_weights_above_a_hundred_in_all_are_refused(file, policy):
    add_v3(policy)
    done = run("simulate", file(), "--weights", "v2=10,60", "--weights", "v3=10,50")
    assert done.returncode == 2
    assert "--weights: step 2 makes 110 %; allowed: at most 100 % in all" in done.stderr
    done = run("simulate", file(), "--weights", "v2=10,60", "--weights", "v3=10")
    assert (done.returncode, "as many shares for each version" in done.stderr) == (2, True)


def test_weights_of_a_route_cannot_be_simulated(file):
    done = run("simulate", file(steer={"randomValueHeader": "x-gray-random"}))
    assert done.returncode == 2
    assert "the weights are the route's" in done.stderr
