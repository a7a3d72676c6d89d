"""The module as an image: a layout in which everything is what it is said to be, the same each time it is written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest

from harness.envoy import PROJECT

MODULE = PROJECT / "dist/graygate.wasm"


def image(*arguments):
    command = [sys.executable, PROJECT / ".ci/image", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def layout(tmp_path):
    done = image(MODULE, tmp_path / "image")
    assert (done.returncode, done.stderr) == (0, "")
    return Layout(tmp_path / "image", done.stdout)


class Layout:
    def __init__(self, place, said):
        self.place = place
        self.said = said
        self.index = json.loads((place / "index.json").read_text())

    def blob(self, descriptor):
        """Its content, once that is found to be what the descriptor says."""
        algorithm, _, name = descriptor["digest"].partition(":")
        content = (self.place / "blobs" / algorithm / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (name, descriptor["size"])
        return content

    @property
    def manifest(self):
        (named,) = self.index["manifests"]
        return json.loads(self.blob(named))


def test_every_digest_and_size_is_right(layout):
    assert json.loads((layout.place / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    manifest = layout.manifest
    config = json.loads(layout.blob(manifest["config"]))
    uncompressed = [gzip.decompress(layout.blob(each)) for each in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in uncompressed]
    named = [layout.index["manifests"][0], manifest["config"], *manifest["layers"]]
    blobs = {path.name for path in (layout.place / "blobs/sha256").iterdir()}
    assert blobs == {each["digest"].removeprefix("sha256:") for each in named}


def test_the_last_layer_holds_the_module_byte_for_byte(layout):
    last = layout.manifest["layers"][-1]
    assert last["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    with tarfile.open(fileobj=io.BytesIO(layout.blob(last))) as archive:
        assert archive.getnames() == ["plugin.wasm"]
        content = archive.extractfile("plugin.wasm")
        assert content
        assert content.read() == MODULE.read_bytes()


def test_the_layout_has_one_image_for_the_platform_that_agents_request(layout):
    (named,) = layout.index["manifests"]
    assert named["platform"] == {"architecture": "amd64", "os": "linux"}
    assert layout.manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_the_image_says_where_it_comes_from_by_the_keys_of_oci(layout):
    package = tomllib.loads((PROJECT / "Cargo.toml").read_text())["package"]
    revision = subprocess.run([PROJECT / ".ci/revision", "--full"], capture_output=True, text=True, check=True).stdout
    prefix = "org.opencontainers.image."
    said = {key: value for key, value in layout.manifest["annotations"].items() if key.startswith(prefix)}
    assert said == {
        f"{prefix}title": "graygate",
        f"{prefix}description": package["description"],
        f"{prefix}version": package["version"],
        f"{prefix}licenses": package["license"],
        f"{prefix}source": package["repository"],
        f"{prefix}documentation": package["documentation"],
        f"{prefix}revision": revision.strip(),
    }
    assert re.fullmatch(r"[0-9a-f]{40}(-modified)?|unknown", revision.strip())


@pytest.mark.parametrize("name", ["graygate", "graygate-requests"])
def test_a_module_has_no_path_of_the_machine_that_built_it(name):
    module = (PROJECT / "dist" / f"{name}.wasm").read_bytes()
    places = {str(PROJECT).encode(), b"/.cargo/", b"/rustlib/src/"}
    assert [place for place in places if place in module] == []


def test_the_same_module_gives_the_same_digest(layout, tmp_path):
    copy = tmp_path / "copy.wasm"
    copy.write_bytes(MODULE.read_bytes())
    again = image(copy, tmp_path / "again")
    assert again.stdout.splitlines()[0] == layout.said.splitlines()[0] == layout.index["manifests"][0]["digest"]
    other = tmp_path / "other.wasm"
    # A custom section with no name and no content.
    other.write_bytes(MODULE.read_bytes() + b"\0\1\0")
    assert image(other, tmp_path / "other").stdout.splitlines()[0] != layout.said.splitlines()[0]


def test_files_of_licences_are_in_a_layer_below_the_modules(tmp_path):
    notices = tmp_path / "notices.txt"
    notices.write_text("theirs")
    done = image(MODULE, tmp_path / "image", PROJECT / "LICENSE", notices)
    assert (done.returncode, done.stderr) == (0, "")
    written = Layout(tmp_path / "image", done.stdout)
    below, above = written.manifest["layers"]
    found = {}
    for each in (below, above):
        with tarfile.open(fileobj=io.BytesIO(written.blob(each))) as archive:
            found[each["digest"]] = archive.getnames()
    assert found == {below["digest"]: ["licenses/LICENSE", "licenses/notices.txt"], above["digest"]: ["plugin.wasm"]}


def test_an_existing_layout_is_replaced_completely(layout, tmp_path):
    other = tmp_path / "other.wasm"
    other.write_bytes(MODULE.read_bytes() + b"\0\1\0")
    assert image(other, layout.place).returncode == 0
    assert len(list((layout.place / "blobs/sha256").iterdir())) == 3
    assert not layout.place.with_name("image.new").exists()


def test_the_output_has_the_digest_for_a_wasmplugin_and_the_push_command(layout):
    digest = layout.index["manifests"][0]["digest"]
    assert f"sha256: {digest.removeprefix('sha256:')}" in layout.said
    for command in ("crane push", "skopeo copy", "oras cp"):
        assert re.search(rf"{command} .*{re.escape(str(layout.place))}.* .*REGISTRY/graygate:\d", layout.said)


def test_a_file_that_is_not_a_module_is_refused(tmp_path):
    missing, text = tmp_path / "missing.wasm", tmp_path / "text.wasm"
    text.write_text("<html>")
    for path, why in ((missing, "no such file"), (text, "begins with 3c68746d; a Wasm module begins with 0061736d")):
        done = image(path, tmp_path / "image")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {path}: {why}")
        assert not (tmp_path / "image").exists()


def test_the_files_that_the_dockerfile_copies_exist():
    steps = [line.split() for line in (PROJECT / "istio/image/Dockerfile").read_text().splitlines()]
    steps = [words for words in steps if words and not words[0].startswith("#")]
    assert steps == [["FROM", "scratch"], ["ARG", "MODULE=graygate"], ["COPY", "${MODULE}.wasm", "./plugin.wasm"]]
    assert all((MODULE.parent / f"{name}.wasm").exists() for name in ("graygate", "graygate-requests"))


def test_both_modules_become_images_of_their_own_names():
    done = image()
    assert (done.returncode, done.stderr) == (0, "")
    for name, place in (("graygate", "image"), ("graygate-requests", "image-requests")):
        written = Layout(PROJECT / "dist" / place, done.stdout)
        annotations = written.manifest["annotations"]
        assert annotations["org.opencontainers.image.title"] == name
        digest = written.index["manifests"][0]["digest"]
        assert f"{name}.wasm, the image {name}:\n\n{digest}\n" in done.stdout
        assert f"--sha256 {name}={digest.removeprefix('sha256:')}" in done.stdout
        assert re.search(rf"crane push dist/{place} REGISTRY/{name}:\d", done.stdout)
        with tarfile.open(fileobj=io.BytesIO(written.blob(written.manifest["layers"][-1]))) as archive:
            content = archive.extractfile("plugin.wasm")
            assert content
            assert content.read() == (MODULE.parent / f"{name}.wasm").read_bytes()
    assert "graygate render FILE --module oci://REGISTRY/{module}:" in done.stdout
