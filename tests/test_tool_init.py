"""`graygate init`: a first policy from options, or from answers on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time

import pytest
import yaml

from harness.tool import BINARY, run

RELEASE = ["--name", "reviews", "--release", "v1=reviews-v1,v2=reviews-v2", "--weight", "v2=10"]
ALL = [*RELEASE, "--hash-on", "header:x-user-id", "--check", "/healthz", "--probe", "/readyz", "--gate"]


@pytest.mark.parametrize(
    "arguments",
    [
        ALL,
        ["--name", "shop", "--upstream", "app", "--check", "/healthz", "--probe", "/readyz", "--gate"],
        ["--name", "shop", "--upstream", "app=outbound|80||app", "--upstream", "db", "--gate", "--mode", "enforce"],
        ["--name", "yes", "--upstream", "on", "--probe", "/x"],
        ["--name", "istio", "--release", "v1=outbound|80|v1|a,v2=outbound|80|v2|a", "--hash-on", "source-ip"],
        [*RELEASE, "--hash-on", "cookie:id", "--hash-on", "query:u", "--schema", "../policy.schema.json"],
    ],
)
def test_the_written_policy_has_no_problems_and_says_what_each_part_is_for(arguments, tmp_path):
    path = tmp_path / "policy.yaml"
    done = run("init", path, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    checked = run("check", path)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr
    text = path.read_text()
    assert text == run("init", "-", *arguments).stdout
    policy = yaml.safe_load(text)
    assert policy["mode"] == ("enforce" if "enforce" in arguments else "shadow")
    lines = text.splitlines()
    for key in policy:
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[place - 1].startswith("# "), key
    schema = "# yaml-language-server: $schema=../policy.schema.json"
    assert (lines[0] == schema) == ("--schema" in arguments)
    assert ("yaml-language-server" in text) == ("--schema" in arguments)


def test_the_options_are_in_the_policy():
    policy = yaml.safe_load(run("init", "-", *ALL).stdout)
    [release] = policy["releases"]
    assert release["versions"] == [
        {"name": "v1", "upstream": "reviews-v1", "weight": 90, "default": True},
        {"name": "v2", "upstream": "reviews-v2", "weight": 10},
    ]
    assert release["hashOn"] == [{"httpHeaderName": "x-user-id"}]
    assert policy["upstreams"]["reviews-v2"]["readinessProbe"]["httpGet"] == {"path": "/healthz"}
    assert policy["probes"] == {"readiness": {"path": "/readyz", "checks": [{"upstream": "reviews-v1"}]}}
    assert policy["gates"] == [{"upstream": "reviews-v1"}]


def test_a_file_is_not_overwritten_without_force(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("mine\n")
    done = run("init", path, *ALL)
    assert (done.returncode, path.read_text()) == (2, "mine\n")
    assert "add --force to replace it" in done.stderr
    assert run("init", path, "--force", *ALL).returncode == 0
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "add --name NAME"),
        (["--name", "A b", "--upstream", "a"], "name: "),
        ([*RELEASE, "--weight", "v3=1"], '--weight: there is no version "v3"'),
        ([*RELEASE, "--weight", "v1=99"], "the weights make 109 in all"),
        (["--name", "a", "--weight", "v2=1"], "--release"),
        ([*RELEASE, "--hash-on", "x-user-id"], "write header:NAME, cookie:NAME, query:NAME or source-ip"),
        (["--name", "a"], "the policy would be empty"),
        (["--name", "a", "--gate"], "--gate: there is no upstream"),
        (["--name", "a", "--check", "/healthz", "--probe", "/readyz"], "--check: there is no upstream"),
        (["--name", "a", "--release", "v1"], "write VERSION=CLUSTER for each version"),
    ],
)
def test_what_makes_no_policy_writes_nothing(arguments, words, tmp_path):
    path = tmp_path / "policy.yaml"
    done = run("init", path, *arguments)
    assert (done.returncode, done.stdout, path.exists()) == (2, "", False)
    assert words in done.stderr


def test_a_directory_that_is_not_there_ends_with_3(tmp_path):
    done = run("init", tmp_path / "missing" / "policy.yaml", *ALL)
    assert (done.returncode, "No such file or directory" in done.stderr) == (3, True)


def answer(arguments, dialogue):
    """Runs the tool on a terminal. Sends each answer once its question has come. Returns the code, stdout and what the
    terminal showed."""
    terminal, inside = pty.openpty()

    running = subprocess.Popen(
        [BINARY, "init", *arguments],
        stdin=inside,
        stdout=subprocess.PIPE,
        stderr=inside,
        text=True,
    )
    os.close(inside)
    shown = ""
    deadline = time.monotonic() + 20

    def read_until(words):
        nonlocal shown
        while words is None or words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown):
            assert time.monotonic() < deadline, f"no {words!r} in {shown!r}"
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 4096).decode()
                except OSError:
                    # The other end is closed.
                    return

    try:
        for words, answered in dialogue:
            read_until(words)
            shown = ""
            os.write(terminal, answered.encode())
        read_until(None)
        out, _ = running.communicate(timeout=10)
        return running.returncode, out, shown
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        os.close(terminal)


def test_answers_on_a_terminal_make_the_same_policy(tmp_path):
    path = tmp_path / "policy.yaml"
    dialogue = [
        ("Name of the policy", "Reviews\n"),
        ("lower-case letters", "\x7f" * 7 + "reviews\n"),
        ("Divide requests among versions", "y"),
        ("Versions with their Envoy clusters", "v1=reviews-v1, v2=reviews-v2\n"),
        ("Share of v2", "10\n"),
        ("What tells users apart", "\n"),
        ("health endpoint", "\n"),
        ("readiness probes", "/readyz\n"),
        ("Answer 503 at once", "y"),
    ]
    code, out, shown = answer([str(path)], dialogue)
    assert code == 0, shown
    assert f"{path}: written" in out
    assert path.read_text() == run("init", "-", *ALL).stdout


def test_answers_can_do_without_a_release_and_go_to_standard_output():
    dialogue = [
        ("Name of the policy", "shop\n"),
        ("Divide requests among versions", "n"),
        ("cluster that requests need", "\n"),
        ("health endpoint", "none\n"),
        ("readiness probes", "\n"),
        ("Answer 503 at once", "y"),
    ]
    code, out, shown = answer(["-"], dialogue)
    assert code == 0, shown
    assert out == run("init", "-", "--name", "shop", "--upstream", "app", "--gate").stdout
    assert json.dumps(yaml.safe_load(out)["upstreams"]) == '{"app": {"cluster": "app"}}'
