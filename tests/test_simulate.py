"""`graygate simulate`: which users move where when weights change."""

from __future__ import annotations

import itertools
import json
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
    assert [step["buckets"]["v2"] for step in found] == [0, 1_000, 3_000, 6_000, 10_000]
    assert found[0]["moves"] == []
    for before, step in itertools.pairwise(found):
        gained = step["users"]["v2"] - before["users"]["v2"]
        assert step["moves"] == [{"from": "v1", "to": "v2", "users": gained}]
        assert step["moved"] == gained
        assert abs(gained / 20_000 - step["mustMoveBuckets"] / 10_000) < 0.02


def test_without_weights_the_steps_are_the_policys_own(file):
    schedule = [{"at": "2026-12-01T10:00:00Z", "weights": {"v1": 70, "v2": 30}}]
    found = steps(file(schedule=schedule), "--users", "1000")
    assert [step["buckets"] for step in found] == [{"v1": 9_000, "v2": 1_000}, {"v1": 7_000, "v2": 3_000}]


def test_schedule_steps_of_three_versions_move_only_the_users_that_they_have_to(file, policy):
    add_v3(policy)
    weights = ["--weights", "v2=0,10,30,20", "--weights", "v3=0,10,20,50"]
    arguments = [file(), "--users", "10000", *weights]
    as_schedule = [step["moved"] for step in steps(*arguments, "--as-schedule")]
    in_place = [step["moved"] for step in steps(*arguments)]
    must = [step["mustMoveBuckets"] for step in steps(*arguments)]
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


def test_the_picture_has_a_bar_for_each_version_of_each_step(file, tmp_path):
    picture = tmp_path / "picture.svg"
    run("simulate", file(), "--users", "1000", "--weights", "v2=10,30", "--svg", picture)
    root = ET.parse(picture).getroot()
    name = "{http://www.w3.org/2000/svg}"
    words = [element.text for element in root.iter(f"{name}text")]
    assert {"v1", "v2", "step 1", "step 2"} < {word.strip() for word in words if word}
    # The background, the key and the bars.
    assert len(list(root.iter(f"{name}rect"))) == 1 + 2 + 2 * 2
    # Users who stay on v1, who move, and who stay on v2.
    assert len(list(root.iter(f"{name}path"))) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "v2"], "allowed: VERSION=SHARE,SHARE…"),
        (["--weights", "v2=101"], "allowed: VERSION=SHARE,SHARE…"),
        (["--weights", "v1=10"], '--weights: "v1" is the default version, which gets the rest; allowed: v2'),
        (["--weights", "v9=10"], '--weights: there is no version "v9"; allowed: v2'),
        (["--release", "nope"], '--release: there is no release "nope"; allowed: reviews'),
        (["--users", "0"], "0 is not in 1..=10000000"),
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
