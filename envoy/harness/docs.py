"""The documents as data: their blocks, links and headings.

A block's info string says what it is, as in "console slow". The comments at a block's beginning say more:

- `# file: NAME`: commands further down on the page find the block in a file of that name.
- `# part of a policy: PATH`: the block is what stands at that path of a policy, such as `upstreams.app.circuitBreaker`.
  It may repeat the last key of the path. Without a path, it is some of the keys at the top.

A comment `<!-- run` has commands, a line each, that readers do not see. They prepare those of later console blocks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .config import Tree, values_of
from .envoy import PROJECT

# The keys at the top of a policy, as the table of keys has them, and `policies`.
DEFINITIONS = json.loads((PROJECT / "docs/reference/policy.schema.json").read_text())["$defs"]
POLICY_KEYS = {*DEFINITIONS["policy"]["properties"], "policies"}
# Those of them by which a tree with a `name` is a policy, whatever else it has. So a misspelt key does not hide it.
PARTS_OF_A_POLICY = {"upstreams", "probes", "releases", "gates"}
# The resources of Istio that can have a policy in them.
PLUGIN_KINDS = {"WasmPlugin", "TrafficExtension", "EnvoyFilter"}
FENCE = re.compile(r"(?ms)^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^ *(?P=fence) *$")
LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|(?:src|href|srcset)=\"([^\"]+)\"")


def pages() -> list[Path]:
    """Returns all documents that users and contributors read."""
    top = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    found = [*top, *sorted((PROJECT / "docs").rglob("*.md")), *sorted((PROJECT / "istio").glob("*.md"))]
    return [page for page in found if page.exists()]


@dataclass(frozen=True)
class Command:
    """A command of a console block, with the output that the page shows."""

    line: int
    command: str
    output: str


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` is the number of its first line of text in the page."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def marks(self) -> list[str]:
        return self.info.split()[1:]

    def _comment(self, start: str) -> str | None:
        """Returns the rest of the comment with this start, from the comments before the first other line."""
        for line in self.text.splitlines():
            if not line.startswith("#"):
                return None
            if line.removeprefix("#").strip().startswith(start):
                return line.removeprefix("#").strip().removeprefix(start).removeprefix(":").strip()
        return None

    @property
    def file(self) -> str | None:
        return self._comment("file:")

    @property
    def part(self) -> str | None:
        """The path of the policy that the block is a part of. `""` for some of its top keys."""
        return self._comment("part of a policy")

    @cached_property
    def documents(self) -> list[Any]:
        return [document for document in yaml.safe_load_all(self.text) if document is not None]

    @property
    def policies(self) -> list[Tree]:
        """The whole policies in a YAML block, with what is missing added to a part of one."""
        if self.part is not None:
            return [whole_policy(self.part, document) for document in self.documents]
        return [policy for document in self.documents for policy in policies_in(document)]

    @property
    def manifests(self) -> list[Tree]:
        """The resources of Kubernetes in a YAML block, if one of them can have a policy."""
        found = [document for document in self.documents if isinstance(document, dict) and "apiVersion" in document]
        is_ours = any(each.get("kind") in PLUGIN_KINDS and "graygate" in str(each) for each in found)
        return found if is_ours else []

    @property
    def bootstraps(self) -> list[Tree]:
        """The whole configurations of Envoy in a YAML block."""
        return [
            document for document in self.documents if isinstance(document, dict) and "static_resources" in document
        ]

    @property
    def routes(self) -> list[Tree]:
        """The routes of Envoy in a YAML block that is a part of its configuration."""
        if len(self.documents) != 1:
            return []
        [tree] = self.documents
        found = tree.get("routes") if isinstance(tree, dict) and set(tree) == {"routes"} else tree
        if not isinstance(found, list):
            return []
        return [each for each in found if isinstance(each, dict) and {"match", "route"} <= set(each)]

    @property
    def commands(self) -> list[Command]:
        """The commands of a console block. A command goes on after a backslash, and to the end of a here-document."""
        found: list[Command] = []
        lines = self.text.splitlines()
        number = 0
        while number < len(lines):
            start = number
            assert lines[number].startswith("$ "), f"{self.where}: a console block begins with a command after `$ `"
            command = [lines[number][2:]]
            end = re.search(r"<<-?\s*['\"]?(\w+)", command[0])
            while command[-1].endswith("\\") or (end and command[-1].strip() != end[1]):
                number += 1
                command.append(lines[number].removeprefix("> "))
            number += 1
            output = number
            while number < len(lines) and not lines[number].startswith("$ "):
                number += 1
            found.append(Command(self.line + start, "\n".join(command), "\n".join(lines[output:number])))
        return found


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(
            line[indent:] if line[:indent].isspace() else line for line in match["text"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["info"].strip(), body if indent else match["text"]))
    return found


def hidden_commands(page: Path) -> list[tuple[int, str]]:
    """Returns the commands that prepare those that a page shows, each group with its line."""
    text = page.read_text()
    found = re.finditer(r"(?ms)^<!-- run$(.*?)^-->$", text)
    return [(text.count("\n", 0, group.start()) + 1, group[1].strip()) for group in found]


def prose(page: Path) -> str:
    """Returns a page without its blocks. The other lines keep their numbers."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())


def links(page: Path) -> list[tuple[int, str]]:
    """Returns the targets of all links and pictures of a page, each with its line."""
    text = re.sub(r"`[^`\n]*`", lambda code: " " * len(code[0]), prose(page))
    return [(text.count("\n", 0, link.start()) + 1, link[1] or link[2]) for link in LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings as GitHub names them."""
    seen: Counter[str] = Counter()
    found = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text()))
    for heading in re.findall(r"(?m)^#{1,6} +(.*?)(?: +#+)? *$", prose(page)):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def is_unmarked_part(tree: Any) -> bool:
    """Whether a document has keys of a policy alone, and is no whole one."""
    return isinstance(tree, dict) and set(tree) < POLICY_KEYS and not list(policies_in(tree))


def is_policy(tree: Tree) -> bool:
    """Whether a tree is meant to be a policy, or a document of several."""
    keys = {key for key in tree if not str(key).startswith("x-")}
    if "name" in keys:
        return bool(keys & PARTS_OF_A_POLICY) or (keys <= POLICY_KEYS and len(keys) > 1)
    return "policies" in keys and keys <= POLICY_KEYS


def policies_in(tree: Any) -> Iterator[Tree]:
    """Returns the whole policies in a document: the document itself, or those in a configuration of Envoy."""
    if isinstance(tree, dict):
        if is_policy(tree):
            yield tree
        elif str(tree.get("@type", "")).endswith("google.protobuf.StringValue"):
            yield yaml.safe_load(tree["value"])
        else:
            for child in tree.values():
                yield from policies_in(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from policies_in(child)


def whole_policy(path: str, part: Any) -> Tree:
    """Returns a minimal policy with `part` at `path`."""
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]
    if steps and isinstance(part, dict):
        if set(part) == {steps[0]}:
            steps = []  # The part begins at the top.
        elif set(part) == {steps[-1]}:
            part = part[steps[-1]]
    policy: Any = part
    for step in reversed(steps):
        policy = [policy] if isinstance(step, int) else {step: policy}
    policy = {"name": "example", **policy}
    for name, probe in (policy.get("probes") or {}).items():
        if isinstance(probe, dict) and name in {"liveness", "startup", "readiness", "drain"}:
            probe.setdefault("path", f"/{name}")
    releases, gates = policy.get("releases") or [], policy.get("gates") or []
    for gate in (gate for gate in gates if isinstance(gate, dict)):
        gate.setdefault("upstream", "app")
    for release in (release for release in releases if isinstance(release, dict)):
        complete_release(release)
    upstreams = policy.setdefault("upstreams", {})
    for name in sorted({*upstreams_in(policy.get("probes")), *upstreams_in(releases), *upstreams_in(gates)}):
        upstreams.setdefault(name, {})
    for name, upstream in upstreams.items():
        upstream.setdefault("cluster", name)
    return {key: value for key, value in policy.items() if value != {}}


def complete_release(release: Tree) -> None:
    release.setdefault("name", "example")
    release.setdefault("steer", {"header": "x-gray-version"})
    if "randomValueHeader" in release["steer"] and "hashOn" in release and "versions" not in release:
        return
    versions = release.setdefault("versions", [])
    if not any(version.get("default") for version in versions):
        versions.insert(0, {"name": "v1", "weight": 90, "default": True})
    if len(versions) == 1 and {"schedule", "rollback"} & set(release):
        versions.append({"name": "v2"})
    for number, version in enumerate(versions, 1):
        version.setdefault("name", f"v{number}")
        version.setdefault("upstream", f"app-{version['name']}")
        version.setdefault("weight", 10)


def upstreams_in(tree: Any) -> Iterator[str]:
    """Returns the names of upstreams that a part of a policy refers to."""
    return (value for value in values_of(tree, "upstream") if isinstance(value, str))
