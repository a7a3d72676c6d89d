"""What docker gets to build from. `make docker-test` builds it, which takes long, so this looks at the names alone."""

from __future__ import annotations

import re

from harness.envoy import PROJECT


def sent() -> set[str]:
    """Returns the paths that .dockerignore lets through."""
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


def scripts_in(text: str) -> set[str]:
    """Returns the scripts that these lines name, apart from comments and from files whose hash alone is taken."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#") and "sha256sum" not in line]
    return set(re.findall(r"\.ci/[a-z][a-z0-9-]*", "\n".join(lines)))


def test_docker_gets_each_script_that_the_build_calls():
    dockerfile = (PROJECT / "Dockerfile").read_text()
    reached, open_ = set(), scripts_in(dockerfile)
    while open_:
        script = open_.pop()
        reached.add(script)
        open_ |= scripts_in((PROJECT / script).read_text()) - reached
    assert {".ci/wasm", ".ci/common", ".ci/revision", ".ci/toolchain"} <= reached
    assert sorted(reached - sent()) == []


def test_docker_gets_each_file_that_the_dockerfile_copies_or_the_source_includes():
    copied = re.findall(r"(?m)^COPY ((?!--).*)$", (PROJECT / "Dockerfile").read_text())
    named = {path for line in copied for path in line.split()[:-1] if path != "."}
    for source in (PROJECT / "src").rglob("*.rs"):
        for path in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            included = (source.parent / path).resolve()
            if included.exists():
                named.add(str(included.relative_to(PROJECT)))
    missing = [path for path in sorted(named) if path not in sent() and path.split("/")[0] not in sent()]
    assert missing == []
