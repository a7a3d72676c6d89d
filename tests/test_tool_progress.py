"""Long work shows its progress on a terminal, and nowhere else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time

import pytest

from harness.tool import BINARY


def read_to_the_end(terminal):
    """Returns what was written to a terminal or a pipe."""
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:
        # A terminal whose other end is closed says so by an error.
        pass
    os.close(terminal)
    return shown


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("wait", [0, 2.5])
def test_progress_is_shown_after_two_seconds_on_a_terminal_alone(policy, tmp_path, is_terminal, wait):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    running = subprocess.Popen(
        [BINARY, "simulate", path, "--keys", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    assert running.stdin is not None
    for part in range(2):
        # The time itself is what is tested: work of less than two seconds shows nothing.
        time.sleep(wait * part)
        running.stdin.write("".join(f"user-{part}-{number}\n" for number in range(1_000)))
        running.stdin.flush()
    out, _ = running.communicate(timeout=20)
    shown = read_to_the_end(ours)
    assert running.returncode == 0
    assert "2,000 users" in out or "2000 users" in out
    assert (b" keys" in shown) == (is_terminal and wait > 2), shown
    assert shown == b"" or is_terminal


def test_a_check_of_files_shows_its_progress(policy, tmp_path):
    slow, file = tmp_path / "slow.json", tmp_path / "policy.json"
    os.mkfifo(slow)
    file.write_text(json.dumps(policy))
    ours, theirs = pty.openpty()
    running = subprocess.Popen([BINARY, "check", slow, file], stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    with slow.open("w") as pipe:
        # The time itself is what is tested.
        time.sleep(2.5)
        pipe.write(json.dumps(policy))
    out, _ = running.communicate(timeout=20)
    shown = read_to_the_end(ours)
    assert (running.returncode, out.count("no problems")) == (0, 2)
    assert b"50 % of 2 files" in shown, shown
