"""The folder of a release: whole, and true in all that it says. `make release` runs these tests when it has written it.

They expect dist/release, so `make integration` leaves them out.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

from harness.client import get
from harness.envoy import PROJECT
from harness.wait import until

RELEASE = PROJECT / "dist/release"
PACKAGE = tomllib.loads((PROJECT / "Cargo.toml").read_text())["package"]
MODULES = {"graygate": "image", "graygate-requests": "image-requests"}
# What each file is built from. The sets of crates that cargo names for it are what its bill must have.
BUILDS = {
    "graygate.wasm": ("responses", "wasm32-unknown-unknown"),
    "graygate-requests.wasm": ("host", "wasm32-unknown-unknown"),
    "graygate-linux-amd64": ("tool", "x86_64-unknown-linux-musl"),
    "graygate-linux-arm64": ("tool", "aarch64-unknown-linux-musl"),
}
# By `e_machine` of their headers.
PROCESSORS = {"graygate-linux-amd64": 62, "graygate-linux-arm64": 183}
PT_INTERP = 3


def crates(features, target):
    """Returns the crates that cargo builds into a target, by another command of cargo than that of the bill."""
    chosen = ["--locked", "--no-default-features", "--features", features, "--target", target]
    command = ["cargo", "tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}", *chosen]
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True).stdout
    found = {tuple(line.split()[:2]) for line in said.splitlines()}
    return {(name, version.removeprefix("v")) for name, version in found if name != "graygate"}


def bill(name):
    return json.loads((RELEASE / "sbom" / f"{name}.cdx.json").read_text())


def parts(tree):
    return {(each["name"], each["version"]) for each in tree.get("components", [])}


def added(tree):
    """The components that are no crates of Cargo.lock, by name."""
    others = [each for each in tree["components"] if "purl" not in each]
    assert all(each["purl"].startswith("pkg:cargo/") for each in tree["components"] if each not in others)
    return {each["name"]: each for each in others}


def test_the_checksums_are_right_and_each_file_has_one():
    lines = (RELEASE / "SHA256SUMS").read_text().splitlines()
    said = {line[66:]: line[:64] for line in lines}
    files = {str(path.relative_to(RELEASE)): path for path in RELEASE.rglob("*") if path.is_file()}
    own = {"SHA256SUMS", "SHA256SUMS.sigstore.json"}
    assert {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name not in own
    } == said


def test_everything_that_a_release_has_is_there():
    wanted = [
        *BUILDS,
        "LICENSE",
        "CHANGELOG.md",
        "policy.schema.json",
        "man/man1/graygate.1",
        "man/man1/graygate-check.1",
    ]
    wanted += [
        f"completions/{name}" for name in ("graygate", "_graygate", "graygate.fish", "graygate.elv", "_graygate.ps1")
    ]
    wanted += [f"observability/{name}" for name in ("rules.yaml", "prometheus-rule.yaml", "dashboard.json")]
    for name in wanted:
        assert (RELEASE / name).stat().st_size > 0, name
    for name in ("rules.yaml", "prometheus-rule.yaml", "dashboard.json"):
        assert (RELEASE / "observability" / name).read_bytes() == (PROJECT / "istio/observability" / name).read_bytes()
    assert (RELEASE / "policy.schema.json").read_bytes() == (PROJECT / "docs/reference/policy.schema.json").read_bytes()


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tool_is_static_and_for_its_processor(name):
    content = (RELEASE / name).read_bytes()
    assert content[:6] == b"\x7fELF\x02\x01", "64 bits, little endian"
    (machine,) = struct.unpack_from("<H", content, 18)
    assert machine == PROCESSORS[name]
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    kinds = {struct.unpack_from("<I", content, start + size * number)[0] for number in range(count)}
    assert PT_INTERP not in kinds, "it would need a library of the machine that it runs on"


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_tool_runs_and_says_the_version(name, tmp_path):
    runner = []
    if name.endswith("arm64"):
        emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
        if not emulator:
            pytest.skip("no qemu-aarch64; apt-get install qemu-user-static")
        runner = [emulator]

    def run(*arguments):
        command = [*runner, RELEASE / name, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert re.fullmatch(rf"graygate {re.escape(PACKAGE['version'])} \(commit .*\)\n", run("--version").stdout)
    (tmp_path / "policy.yaml").write_text("name: p\nprobes:\n  liveness: {path: /livez}\n")
    assert run("check", "policy.yaml").returncode == 0
    (tmp_path / "policy.yaml").write_text("name: p\nprobes:\n  liveness: {paht: /livez}\n")
    done = run("check", "policy.yaml")
    assert (done.returncode, 'did you mean "path"' in done.stdout + done.stderr) == (1, True)


@pytest.mark.parametrize("module", MODULES)
def test_an_image_is_whole_and_says_where_it_comes_from(module):
    layout = RELEASE / MODULES[module]
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def blob(descriptor):
        content = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
        assert len(content) == descriptor["size"]
        return content

    (named,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(named))
    config = json.loads(blob(manifest["config"]))
    assert [
        f"sha256:{hashlib.sha256(gzip.decompress(blob(each))).hexdigest()}" for each in manifest["layers"]
    ] == config["rootfs"]["diff_ids"]
    with tarfile.open(fileobj=io.BytesIO(blob(manifest["layers"][-1]))) as archive:
        content = archive.extractfile("plugin.wasm")
        assert content
        assert content.read() == (RELEASE / f"{module}.wasm").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(blob(manifest["layers"][0]))) as archive:
        names = {f"licenses/{path.name}" for path in (RELEASE / "notices").glob("rust-standard-library.*")}
        assert set(archive.getnames()) == {"licenses/LICENSE", f"licenses/{module}.wasm.txt"} | names
    said = {key.removeprefix("org.opencontainers.image."): value for key, value in manifest["annotations"].items()}
    assert said["title"] == module
    for key, field in (("version", "version"), ("licenses", "license"), ("source", "repository")):
        assert said[key] == PACKAGE[field]
    assert said["documentation"] == PACKAGE["documentation"]
    revision = subprocess.run([PROJECT / ".ci/revision", "--full"], capture_output=True, text=True, check=True).stdout
    assert said["revision"] == revision.strip()


@pytest.mark.parametrize("name", BUILDS)
def test_a_bill_has_the_crates_that_the_file_is_built_from_and_no_others(name):
    tree = bill(name)
    others = added(tree)
    assert {part for part in parts(tree) if part[0] not in others} == crates(*BUILDS[name])
    static = set() if name.endswith(".wasm") else {"musl", "llvm-libunwind", "zig-compiler-rt"}
    assert set(others) == {"rust-standard-library", *static}
    # The module's memory comes from there.
    inside = {part for part, _ in parts(others["rust-standard-library"])}
    assert "hashbrown" in inside
    assert ("dlmalloc" in inside) == name.endswith(".wasm")
    root = tree["metadata"]["component"]
    digest = hashlib.sha256((RELEASE / name).read_bytes()).hexdigest()
    assert (root["name"], root["version"]) == (name, PACKAGE["version"])
    assert root["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_a_module_has_nothing_of_the_tool():
    for name in ("graygate.wasm", "graygate-requests.wasm"):
        assert not {"clap", "ureq", "resvg", "serde-saphyr"} & {crate for crate, _ in parts(bill(name))}
    assert {"clap", "ureq", "resvg", "serde-saphyr"} <= {crate for crate, _ in parts(bill("graygate-linux-amd64"))}


@pytest.mark.parametrize("name", BUILDS)
def test_the_notices_name_each_part_and_have_the_texts_of_its_licence(name):
    text = (RELEASE / "notices" / f"{name}.txt").read_text()
    listed, *sections = text.split(f"\n{'=' * 80}\n")
    tree = bill(name)
    library = added(tree)["rust-standard-library"]
    for part, version in (parts(tree) | parts(library)) - {(library["name"], library["version"])}:
        assert re.search(rf"^  {re.escape(part)} {re.escape(version)}: \S", listed, re.MULTILINE), part
        texts = [each for each in sections if f"\n{part} {version}\n" in each]
        assert texts, part
        assert any(len(each) > 400 for each in texts), part
    assert any("Permission is hereby granted, free of charge" in each for each in sections)
    if "Zlib" in listed:
        assert any("This software is provided 'as-is'" in each for each in sections)
    assert [path for path in (RELEASE / "notices").glob("rust-standard-library.*") if path.stat().st_size > 10_000]


def test_no_file_has_a_path_of_the_machine_that_built_it():
    ours = {str(PROJECT).encode(), str(Path.home() / ".cargo").encode(), b"/rustlib/src/"}
    for path in RELEASE.rglob("*"):
        # The notices are texts of others.
        if path.is_file() and path.parent.name != "notices":
            content = path.read_bytes()
            assert [place for place in ours if place in content] == [], path


@pytest.mark.parametrize("module", MODULES)
def test_the_module_runs_in_envoy_and_shows_the_version(start, policy, module):
    envoy = start(policy, module=str((RELEASE / f"{module}.wasm").relative_to(PROJECT)))
    until(lambda: get(envoy.port(), "/livez").status == 200, what="liveness")
    revision = subprocess.run([PROJECT / ".ci/revision"], capture_output=True, text=True, check=True).stdout.strip()
    build = {"version": PACKAGE["version"], "revision": revision}
    until(lambda: envoy.counter("graygate_build_info") == 1, what="the document in use")
    assert envoy.counter("graygate_build_info", **build) == 1


def test_the_documents_and_the_changelog_are_of_this_version():
    changes = (RELEASE / "CHANGELOG.md").read_text()
    assert re.search(rf"^## (Unreleased|{re.escape(PACKAGE['version'])})", changes, re.MULTILINE)
    manual = (RELEASE / "man/man1/graygate.1").read_text()
    assert PACKAGE["version"] in manual
    for page in (PROJECT / "docs").rglob("*.md"):
        for version in re.findall(r"\{module\}:(\d+\.\d+\.\d+)", page.read_text()):
            assert version == PACKAGE["version"], page
