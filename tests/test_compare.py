"""The comparison with weighted_clusters, run as a user runs it, with fewer users."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from harness.envoy import PROJECT

USERS = 200


def compare(*arguments):
    command = [sys.executable, str(PROJECT / "envoy/compare.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_weighted_clusters_moves_users_back_and_forth_and_graygate_does_not():
    done = compare("--users", str(USERS))
    assert (done.returncode, done.stderr) == (0, "")
    lines = re.findall(r"^(.+?) {2,}([\d.]+)(?: %)? +([\d.]+)(?: %)?$", done.stdout, re.MULTILINE)
    plain = {what: float(number) for what, number, _ in lines}
    gray = {what: float(number) for what, _, number in lines}
    assert list(gray) == [
        "share of requests on v2 at 10 %",
        "users who saw both versions at 10 %",
        "share of requests on v2 at 30 %",
        "users who saw both versions at 30 %",
        "users who were on v2 at 10 % and back on v1 at any time at 30 %",
    ]
    for percent in (10, 30):
        # 2,000 requests are split by chance. With graygate, always the same users move, 10.0 % and 31.0 % of these 200.
        assert abs(plain[f"share of requests on v2 at {percent} %"] - percent) < 5
        assert abs(gray[f"share of requests on v2 at {percent} %"] - percent) < 2
        assert USERS / 3 < plain[f"users who saw both versions at {percent} %"] <= USERS
        assert gray[f"users who saw both versions at {percent} %"] == 0
    assert USERS / 3 < plain["users who were on v2 at 10 % and back on v1 at any time at 30 %"] <= USERS
    assert gray["users who were on v2 at 10 % and back on v1 at any time at 30 %"] == 0


@pytest.mark.parametrize("users", ["0", "-1", "many", ""])
def test_an_invalid_number_of_users_is_refused(users):
    done = compare(f"--users={users}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{users!r}; allowed: a whole number from 1" in done.stderr
