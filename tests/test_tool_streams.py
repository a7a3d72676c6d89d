"""The command line tool: its input, its output, and the exit codes of both."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from harness.tool import BINARY, run


@pytest.fixture
def file(policy, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    return path


COMMANDS = {
    "check": ["check", "FILE"],
    "explain": ["explain", "FILE"],
    "simulate": ["simulate", "FILE", "--users", "100"],
    "render": ["render", "FILE", "--at", "outbound"],
}


def command(name, file):
    return [str(file) if part == "FILE" else part for part in COMMANDS[name]]


@pytest.fixture
def outbound(policy):
    """A policy that every subcommand takes."""
    outbound = {key: value for key, value in policy.items() if key not in ("probes", "gates")}
    return {**outbound, "hosts": ["reviews.shop"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dash_is_standard_input(name, outbound):
    done = run(*command(name, "-"), stdin=json.dumps(outbound))
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "-", "--requests", "-"],
        ["simulate", "-", "--keys", "-"],
        ["render", "-", "-"],
        ["check", "--istio", "-", "-"],
    ],
)
def test_standard_input_cannot_be_two_inputs(arguments, policy):
    done = run(*arguments, stdin=json.dumps(policy))
    assert (done.returncode, done.stdout) == (2, "")
    assert '"-" is given twice' in done.stderr


@pytest.mark.parametrize("name", ["explain", "simulate"])
def test_the_policy_can_still_be_an_option(name, file):
    done = run(name, "--policy", file)
    assert (done.returncode, done.stdout) == (0, run(name, file).stdout)
    assert run(name, "--policy", file, file).returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error", ["missing", "directory"])
def test_a_file_that_cannot_be_read_ends_with_3(name, error, tmp_path):
    path = tmp_path if error == "directory" and name != "check" else tmp_path / "missing.yaml"
    done = run(*command(name, path))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{path}: " in done.stderr
    assert "os error" not in done.stderr


@pytest.mark.parametrize("arguments", [["explain", "FILE", "--requests"], ["simulate", "FILE", "--keys"]])
def test_a_second_input_that_cannot_be_read_ends_with_3(arguments, file, tmp_path):
    missing = tmp_path / "missing"
    done = run(*[file if part == "FILE" else part for part in arguments], missing)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{missing}: No such file or directory" in done.stderr


def test_a_picture_that_cannot_be_written_ends_with_3(file, tmp_path):
    done = run("simulate", file, "--users", "10", "--svg", tmp_path / "missing" / "moves.svg")
    assert done.returncode == 3
    assert "moves.svg: No such file or directory" in done.stderr


def test_a_picture_can_go_to_standard_output_which_then_has_no_table(file):
    done = run("simulate", file, "--users", "10", "--svg", "-")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("<svg")
    assert done.stdout.rstrip().endswith("</svg>")


@pytest.mark.parametrize("second", [["--html", "-"], ["--json"]])
def test_standard_output_takes_one_output(second, file):
    done = run("simulate", file, "--users", "10", "--svg", "-", *second)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard output, which takes one output" in done.stderr


def into(path, *arguments):
    """Runs the tool with its standard output in this file."""
    with path.open("w") as out:
        done = subprocess.run([BINARY, *arguments], stdout=out, stderr=subprocess.PIPE, timeout=30, check=False)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_ends_with_3(name, outbound, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(outbound))
    code, errors = into(type(path)("/dev/full"), *command(name, path))
    assert code == 3
    assert "standard output: No space left on device" in errors


def to_closed_pipe(*arguments, stream="stdout"):
    """Runs the tool with one stream into a pipe that nobody reads. Returns the exit code and the other stream."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [BINARY, *arguments],
            stdout=writer if stream == "stdout" else subprocess.PIPE,
            stderr=writer if stream == "stderr" else subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr if stream == "stdout" else done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_leaves_ends_the_tool_quietly(name, outbound, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(outbound))
    code, errors = to_closed_pipe(*command(name, path))
    words = [line for line in errors.splitlines() if "warning: " not in line]
    assert (code, words) == (0, [])


def test_head_ends_a_long_output_quietly(file, tmp_path):
    requests = tmp_path / "requests"
    requests.write_text('{"path": "/api"}\n' * 20_000)
    shell = f"set -o pipefail; {BINARY} explain {file} --requests {requests} | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "request   GET /api for localhost\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["explain", "--help"]])
def test_help_into_a_closed_pipe_is_quiet(arguments):
    code, errors = to_closed_pipe(*arguments)
    assert code == (0 if arguments else 2)
    assert "panicked" not in errors


def test_problems_end_with_1_even_if_nobody_reads_them(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("name: A B\nmode: on\n")
    for name in COMMANDS:
        assert to_closed_pipe(*command(name, path), stream="stderr") == (1, ""), name


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["explain", "--not-ready", "reviews-v3"], "reviews-v1"),
        (["explain", "--rolled-back", "reviews/v3"], "reviews/v2"),
        (["explain", "--policy-name", "review"], "reviews"),
        (["simulate", "--policy-name", "Reviews"], "reviews"),
        (["simulate", "--release", "revews"], "reviews"),
        (["render", "--policy-name", "revews"], "reviews"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(arguments, suggestion, file):
    done = run(arguments[0], file, *arguments[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{arguments[1]}: there is no " in done.stderr
    assert f'did you mean "{suggestion}"?' in done.stderr


def test_one_policy_of_a_document_is_picked_by_name(outbound, tmp_path):
    path = tmp_path / "policies.json"
    hosts = {"a": ["a.shop"], "b": ["b.shop"]}
    path.write_text(json.dumps({"policies": [{**outbound, "name": name, "hosts": hosts[name]} for name in hosts]}))
    said = run("explain", path, "--policy-name", "b", "--authority", "b.shop").stdout
    assert "policy    b\n" in said
    said = run("explain", path, "--policy-name", "b", "--authority", "a.shop").stdout
    assert "policy    none has this host\n" in said
    assert run("simulate", path, "--policy-name", "b", "--users", "10").returncode == 0
    done = run("render", path, "--policy-name", "b", "--at", "outbound")
    assert done.returncode == 0, done.stderr
    assert "name: graygate-b-outbound" in done.stdout
    assert "a.shop" not in done.stdout
