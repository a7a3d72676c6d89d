"""Random legal policies with any key that there is.

A policy begins as one of a few that are known, and gets values that others have for the same keys. What the tool then
finds wrong is taken out again, until the rest is legal. So a new key is generated once any known policy has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from . import sample_policies
from .config import Tree
from .envoy import PROJECT
from .tool import run

# How often the tool may find something wrong before the policy is given up.
REPAIRS = 40


def known(rng: Random) -> list[Tree]:
    """Returns the policy with every key, those of the fuzzer's corpus, and samples."""
    full = json.loads((PROJECT / "tests/data/full-policy.json").read_text())
    found: list[Tree] = []
    for file in sorted((PROJECT / "tests/fuzz/corpus/policy").iterdir()):
        try:
            document = json.loads(file.read_text().partition("\n")[0])
        except ValueError:
            continue
        found += [document] if isinstance(document, dict) and "policies" not in document else []
    found += [sample_policies.policy(rng, "sample") for _ in range(20)]
    # Half of the policies begin with every key.
    return [*found, *([full] * len(found))]


def entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Returns each key with its value, at any depth."""
    values = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in values:
        if isinstance(key, str):
            yield key, value
        yield from entries(value)


def keys(tree: Any) -> set[str]:
    return {key for key, _ in entries(tree)}


def mutate(rng: Random, tree: Any, pool: dict[str, list[Any]], share: float) -> None:
    """Takes out or replaces this share of all values."""
    if isinstance(tree, dict):
        for key in list(tree):
            if rng.random() < share / 2:
                del tree[key]
            elif rng.random() < share and key in pool:
                tree[key] = deepcopy(rng.choice(pool[key]))
            else:
                mutate(rng, tree[key], pool, share)
    elif isinstance(tree, list):
        for item in tree:
            mutate(rng, item, pool, share)
        if tree and rng.random() < share:
            tree.append(deepcopy(rng.choice(tree)))


def refer(rng: Random, tree: Any, upstreams: list[str]) -> None:
    """Gives each reference to an upstream that the policy does not have the name of one that it has."""
    for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        refer(rng, branch, upstreams)
    if isinstance(tree, dict) and isinstance(tree.get("upstream"), str) and tree["upstream"] not in upstreams:
        tree["upstream"] = rng.choice(upstreams)


def problems(policy: Tree, file: Path) -> list[str]:
    """Returns the paths of what is wrong."""
    file.write_text(json.dumps(policy))
    found = json.loads(run("check", "--format", "json", file).stdout)["problems"]
    return [problem["path"] for problem in found if problem["severity"] == "error"]


def take_out(tree: Tree, path: str) -> None:
    """Takes out the value at a path, such as `releases[0].match`. If it is not there, takes out what should have it."""
    if isinstance(tree.get(path), dict) and len(tree[path]) > 1:
        # Of a whole section, a part is enough to begin with.
        tree[path].popitem()
        return
    steps: list[Any] = [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    parents: list[Any] = [tree]
    for step in steps:
        try:
            parents.append(parents[-1][step])
        except (KeyError, IndexError, TypeError):
            break
    for parent, step in reversed(list(zip(parents, steps, strict=False))):
        try:
            del parent[step]
        except (KeyError, IndexError, TypeError):
            continue
        return


def policies(rng: Random, count: int, directory: Path) -> Iterator[Tree]:
    """Returns this number of legal policies, each with a name of its own."""
    those = known(rng)
    pool: dict[str, list[Any]] = {}
    for policy in those:
        # Most policies are in force.
        for key, value in entries({**policy, "mode": "enforce"}):
            pool.setdefault(key, []).append(value)
    found = 0
    while found < count:
        policy = deepcopy(rng.choice(those))
        mutate(rng, policy, pool, rng.choice((0.05, 0.1, 0.2)))
        if isinstance(policy.get("upstreams"), dict) and policy["upstreams"]:
            refer(rng, policy, list(policy["upstreams"]))
        for _ in range(REPAIRS):
            policy["name"] = f"p{found}"
            wrong = problems(policy, directory / "generated.json")
            if wrong:
                take_out(policy, wrong[-1])
                continue
            if any(policy.get(part) for part in ("releases", "gates", "probes")):
                found += 1
                yield policy
            break
