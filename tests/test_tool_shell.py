"""What the command line tool gives to a shell: help, completions, manual pages and its version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.envoy import PROJECT
from harness.tool import BINARY, run


def subcommands():
    commands = run("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    return [
        found[1] for line in commands.splitlines() if (found := re.match(r"  ([\w-]+)  ", line)) and found[1] != "help"
    ]


def test_each_subcommand_says_what_it_is_for_and_how_it_is_called():
    names = subcommands()
    assert {"check", "explain", "render", "simulate", "diff", "init", "completions", "man"} <= set(names)
    for name in names:
        done = run(name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Examples:\n  graygate {name}" in done.stdout or name == "completions"
        assert f"Usage: graygate {name}" in done.stdout
        assert re.match(r"[A-Z].+", done.stdout), name


@pytest.mark.parametrize("name", ["explain", "simulate", "diff", "init", "man", "schema", "reference"])
def test_the_examples_of_the_help_run(name, policy, tmp_path):
    text = run(name, "--help").stdout.partition("Examples:\n")[2]
    # A long example is wrapped; its next line has the same indentation, and no command in front.
    examples = re.sub(r"\n  (?!graygate |git |source )", " ", text.rstrip()).splitlines()
    assert examples
    policy["releases"][0]["schedule"] = []
    for file in ("policy.yaml", "new-policy.yaml"):
        (tmp_path / file).write_text(json.dumps(policy))
    (tmp_path / "user-ids.txt").write_text("alice\nbob\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "graygate").symlink_to(BINARY)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for example in map(str.strip, examples):
        if example == "graygate init" or example.startswith("git "):
            # The first asks on a terminal, and the second needs a repository.
            continue
        if name == "init":
            (tmp_path / "policy.yaml").unlink(missing_ok=True)
        command = example.partition(" && man ")[0]
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), example


def test_help_has_no_colours_in_a_pipe_and_fits_the_width():
    for name in ("explain", "render", "simulate"):
        text = run(name, "--help").stdout
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 100, name


def test_misspelt_commands_and_options_get_a_suggestion():
    done = run("chek")
    assert (done.returncode, "'check'" in done.stderr) == (2, True)
    done = run("explain", "policy.yaml", "--not-redy", "a")
    assert (done.returncode, "'--not-ready'" in done.stderr) == (2, True)


def test_the_version_names_the_commit():
    said = run("--version").stdout
    found = re.fullmatch(r"graygate \d+\.\d+\.\d+ \(commit ([0-9a-f]{10}|unknown)(, modified)?\)\n", said)
    assert found, said
    if found[1] != "unknown" and shutil.which("git") and (PROJECT / ".git").exists():
        known = subprocess.run(
            ["git", "cat-file", "-t", found[1]], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert known.stdout == "commit\n"


def build_script(directory: Path, **environment: str) -> list[str]:
    """Runs the build script, compiled by itself, in this directory. Returns its lines."""
    program = directory / "build-script"
    if not program.exists():
        command = ["rustc", "--edition", "2024", str(PROJECT / "build.rs"), "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GRAYGATE_"))}
    done = subprocess.run(
        [program],
        cwd=directory,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")
def test_the_commit_is_told_to_the_tool_alone_and_a_tarball_has_none(tmp_path):
    def commit():
        lines = build_script(tmp_path, CARGO_FEATURE_TOOL="1")
        [found] = [line for line in lines if line.startswith("cargo::rustc-env=GRAYGATE_COMMIT=")]
        return found.partition("GRAYGATE_COMMIT=")[2]

    assert build_script(tmp_path) == ["cargo::rerun-if-changed=build.rs"]
    assert commit() == "unknown"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    assert re.fullmatch("[0-9a-f]{10}", commit())
    (tmp_path / "Cargo.toml").write_text("")
    assert re.fullmatch("[0-9a-f]{10}, modified", commit())
    assert "cargo::rustc-env=GRAYGATE_COMMIT=1.2" in build_script(
        tmp_path, CARGO_FEATURE_TOOL="1", GRAYGATE_COMMIT="1.2"
    )
    # A tarball in another repository does not have that one's commit.
    inner = tmp_path / "graygate"
    inner.mkdir()
    shutil.copy(tmp_path / "build-script", inner)
    assert "cargo::rustc-env=GRAYGATE_COMMIT=unknown" in build_script(inner, CARGO_FEATURE_TOOL="1")


def test_bash_completes_commands_options_and_values(tmp_path):
    script = tmp_path / "graygate.bash"
    script.write_text(run("completions", "bash").stdout)

    def complete(*words):
        shell = (
            f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            '_graygate graygate "${!#}" "${@: -2:1}"; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", shell, "bash", *words], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.split()

    assert complete("graygate", "che") == ["check"]
    assert complete("graygate", "explain", "--not") == ["--not-ready"]
    assert complete("graygate", "simulate", "--policy-n") == ["--policy-name"]
    assert complete("graygate", "diff", "--format", "mark") == ["markdown"]


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])])
def test_the_completions_of_other_shells_are_scripts_of_theirs(shell, check, tmp_path):
    done = run("completions", shell)
    assert (done.returncode, "explain" in done.stdout) == (0, True)
    if shutil.which(check[0]) is None:
        pytest.skip(f"{check[0]} is not installed")
    script = tmp_path / "script"
    script.write_text(done.stdout)
    checked = subprocess.run([*check, script], capture_output=True, text=True, timeout=30, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_there_is_a_manual_page_for_each_subcommand(tmp_path):
    directory = tmp_path / "man1"
    done = run("man", directory)
    assert (done.returncode, done.stderr) == (0, "")
    names = {"graygate.1", *(f"graygate-{name}.1" for name in subcommands())}
    assert {path.name for path in directory.iterdir()} == names
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    for path in directory.iterdir():
        shown = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", path],
            env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (shown.returncode, shown.stderr) == (0, ""), path
        assert "SYNOPSIS" in shown.stdout
    file = tmp_path / "file"
    file.write_text("")
    assert run("man", file / "man1").returncode == 3


def test_manual_pages_are_not_written_into_a_directory_named_as_standard_input(tmp_path):
    command = [str(BINARY), "man", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Name a directory, such as man1" in done.stderr
    assert list(tmp_path.iterdir()) == []
