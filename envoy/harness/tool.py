"""Runs the command line tool as a user does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from .envoy import PROJECT

BINARY = PROJECT / "target" / "release" / "graygate"


def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(BINARY), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)


def schema(*options: str) -> dict[str, Any]:
    """Returns the schema that `graygate schema` prints."""
    done = run("schema", *options)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def validator(*options: str) -> jsonschema.Draft202012Validator:
    """Returns the validator of that schema, which is one of JSON Schema's."""
    loaded = schema(*options)
    jsonschema.Draft202012Validator.check_schema(loaded)
    return jsonschema.Draft202012Validator(loaded)


def explain(directory: Path, policy: Mapping[str, Any], questions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what the filter would decide for each of these requests, according to the tool."""
    file = directory / "policy.json"
    file.write_text(json.dumps(policy))
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = run("explain", file, "--json", "--requests", "-", stdin=lines)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
