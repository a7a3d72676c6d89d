"""The counts in the last lines of the test runners, each in its own format."""

from __future__ import annotations

import subprocess

import pytest

from harness.envoy import PROJECT


def counted(log):
    command = [PROJECT / ".ci/count"]
    return subprocess.run(command, input=log, capture_output=True, text=True, timeout=60, check=True).stdout


LOGS = {
    "cargo": ("test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; finished in 0.00s", 3, 1),
    "pytest": ("1 failed, 20 passed, 2 skipped, 1 error in 65.21s (0:01:05)", 20, 2),
    "pytest, skipped alone": ("2 skipped in 0.21s", 0, 0),
    "Node": ("ℹ pass 12\nℹ fail 1\nℹ cancelled 1\nℹ skipped 4", 12, 2),
    "Node, in a pipe": ("# pass 12\n# fail 0", 12, 0),
    "Go": ("DONE 12 tests in 3.2s", 12, 0),
    "Go, skipped and failed": ("=== FAIL: a TestC (0.00s)\nDONE 12 tests, 2 skipped, 1 failure in 3.2s", 9, 1),
    "Go, a package that is not built": ("=== FAIL: b  (0.00s)\nDONE 0 tests, 1 failure, 1 error in 0.000s", 0, 1),
    "Go, one of two packages": (
        "=== FAIL: a TestC (0.00s)\n=== FAIL: c  (0.00s)\nDONE 4 tests, 2 failures, 3 errors in 0.1s",
        3,
        2,
    ),
    "Go, a word of the linker": ("DONE 4 tests, 1 error in 0.1s", 4, 0),
    "Go, no package at all": ("DONE 0 tests, 2 errors in 0.1s", 0, 2),
    "nothing": ("", 0, 0),
}


@pytest.mark.parametrize("name", LOGS)
def test_each_runners_last_line_is_counted(name):
    log, passed, failed = LOGS[name]
    assert counted(log) == f"{passed} passed, {failed} failed\n"


def test_counts_of_all_runners_are_added_and_lines_about_packages_are_kept():
    logs = ["=== FAIL: b  (0.00s)", "DONE 3 tests, 1 failure, 2 errors in 1.0s", "DONE 5 tests, 1 failure in 1.0s"]
    assert counted("\n".join([*logs, "20 passed in 3.21s"])) == "27 passed, 2 failed\n"
