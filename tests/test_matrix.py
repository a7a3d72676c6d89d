"""The table of results on each version of Envoy."""

from __future__ import annotations

import subprocess
import sys

from harness.envoy import PROJECT

TABLE = PROJECT / ".ci" / "matrix-table"
REPORT = """<testsuites><testsuite tests="4" skipped="1" failures="1" errors="1">
<testcase classname="tests.test_gates" name="test_a[x]"/>
<testcase classname="tests.test_gates" name="test_b"><failure>no</failure></testcase>
<testcase classname="tests.test_gates" name="test_c"><error>no</error></testcase>
<testcase classname="tests.test_gates" name="test_d"><skipped/></testcase>
</testsuite></testsuites>"""


def table(*reports):
    return subprocess.run([sys.executable, TABLE, *reports], capture_output=True, text=True, check=False)


def test_a_row_counts_outcomes_and_names_what_failed(tmp_path):
    for version in ("1.40.0", "1.36.4"):
        (tmp_path / f"{version}.xml").write_text(REPORT)
    done = table(*tmp_path.iterdir())
    rows = done.stdout.splitlines()[2:]
    assert rows == [
        f"| {version} | 1 | 1 | 2 | test_gates::test_b, test_gates::test_c |" for version in ("1.36.4", "1.40.0")
    ]


def test_no_report_is_an_error():
    done = table()
    assert (done.returncode, done.stdout) == (1, "")
    assert "no report" in done.stderr
