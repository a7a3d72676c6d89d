"""`graygate check`: where it finds policies, the places of problems, its formats, and odd files."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.config import extension, plugin
from harness.envoy import PROJECT
from harness.manifests import envoy_filter, patch, traffic_extension, typed_struct, wasm, wasm_plugin
from harness.tool import BINARY, run

Tree = Any
FULL = json.loads((PROJECT / "tests" / "data" / "full-policy.json").read_text())
WRONG = {"name": "shop", "upstreams": {"a": {"clustre": "x", "cluster": "y"}}}
RIGHT = {"name": "shop", "upstreams": {"a": {"cluster": "y"}}}


def place(text: str, word: str) -> tuple[int, int]:
    """Returns the line and the column of a word that occurs once, both from 1, in characters."""
    assert text.count(word) == 1, f"{word} is there {text.count(word)} times"
    before = text[: text.index(word)].replace("\r\n", "\n").split("\n")
    return len(before), len(before[-1]) + 1


def report(*arguments: str | Path, stdin: str = "") -> tuple[int, dict[str, Any]]:
    done = run("check", "--format", "json", *arguments, stdin=stdin)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["count"] == sum(problem["severity"] == "error" for problem in found["problems"])
    assert (done.returncode == 0) == (found["count"] == 0)
    return done.returncode, found


def errors(*arguments: str | Path, stdin: str = "") -> list[dict[str, Any]]:
    return [problem for problem in report(*arguments, stdin=stdin)[1]["problems"] if problem["severity"] == "error"]


# -- where policies are found --------------------------------------------------------


def in_block(policy: Tree) -> str:
    """The policy as a block of lines in a bootstrap, as people write it by hand."""
    lines = json.dumps(policy, indent=2, ensure_ascii=False).replace("\n", "\n                    ")
    return f"""\
static_resources:
  listeners:
  - name: häuptling # ü
    filter_chains:
    - filters:
      - name: http
        typed_config:
          http_filters:
          - name: graygate
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: graygate
                configuration:
                  "@type": type.googleapis.com/google.protobuf.StringValue
                  value: |
                    {lines}
"""


def http_filter(policy: Tree) -> Tree:
    return {"name": "any", "typed_config": plugin(policy)}


def in_listener(policy: Tree) -> Tree:
    manager = {"@type": "type.googleapis.com/any.HttpConnectionManager", "httpFilters": [http_filter(policy)]}
    return {"name": "l", "filterChains": [{"filters": [{"name": "http", "typedConfig": manager}]}]}


def unnamed(policy: Tree) -> Tree:
    """A filter that only its configuration tells to be graygate."""
    found = http_filter(policy)
    found["typed_config"]["config"] |= {"name": "mine", "vm_config": {"code": {"local": {"filename": "f.wasm"}}}}
    return found


def dump(tree: Tree) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10_000)


HOLDERS: dict[str, Callable[[Tree], str]] = {
    "policy.yaml": dump,
    "policy.json": json.dumps,
    "tabs.json": lambda policy: json.dumps(policy, indent="\t"),
    "several.yaml": lambda policy: dump({"policies": [{"name": "b", "hosts": ["b"]}, policy]}),
    "block.yaml": in_block,
    "crlf.yaml": lambda policy: in_block(policy).replace("\n", "\r\n"),
    "bom.yaml": lambda policy: "\ufeff" + dump(policy),
    "bootstrap.json": lambda policy: json.dumps({"static_resources": {"listeners": [in_listener(policy)]}}, indent=1),
    "lds.yaml": lambda policy: dump({"resources": [{"@type": "Listener", **in_listener(policy)}]}),
    "ecds.yaml": lambda policy: dump({"resources": [extension(plugin(policy))]}),
    "response.json": lambda policy: json.dumps({"versionInfo": "1", "resources": [extension(plugin(policy))]}),
    "dump.json": lambda policy: json.dumps({"configs": [{"ecds_filters": [{"ecds_filter": plugin(policy)}]}]}),
    "filters.yaml": lambda policy: dump([http_filter(policy)]),
    "unnamed.yaml": lambda policy: dump(unnamed(policy)),
    "struct.yaml": lambda policy: dump({"typed_config": typed_struct(policy)}),
    "wasmplugin.yaml": lambda policy: dump(wasm_plugin("a", policy=policy)),
    "extension.yaml": lambda policy: dump(traffic_extension("a", policy=policy)),
    "filter.yaml": lambda policy: dump(envoy_filter("a", patch(wasm(policy)))),
    "list.yaml": lambda policy: dump({"apiVersion": "v1", "kind": "List", "items": [wasm_plugin("a", policy=policy)]}),
    "stream.yaml": lambda policy: yaml.safe_dump_all([{"kind": "Service"}, wasm_plugin("a", policy=policy), None]),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_a_policy_is_found_and_the_place_of_its_problem_told(tmp_path, name):
    file = tmp_path / name
    for policy, wrong in ((RIGHT, False), (WRONG, True)):
        # write_text would turn the line breaks of one system into those of another.
        file.write_bytes(HOLDERS[name](policy).encode())
        code, found = report(file)
        if not wrong:
            assert (code, found["count"]) == (0, 0)
            [listed] = found["files"]
            assert listed["file"] == str(file)
            assert [policy["name"] for policy in listed["policies"]][-1] == "shop"
            continue
        [problem] = [problem for problem in found["problems"] if problem["severity"] == "error"]
        # A string in quotes has the quotes of its keys escaped, and the key begins there.
        text = file.read_bytes().decode().removeprefix("\ufeff")
        line, column = place(text, "clustre")
        quote = re.search(r"(\\?\"|)clustre", text)
        assert quote
        assert (problem["line"], problem["column"]) == (line, column - len(quote[1]))
        assert problem["path"] == ("policies[1]." if "several" in name else "") + "upstreams.a.clustre"
        assert 'did you mean "cluster"?' in problem["message"]


def test_manifests_get_a_note_that_they_have_a_check_of_their_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(dump(wasm_plugin(name)))
    done = run("check", tmp_path)
    assert done.returncode == 0
    [note] = done.stderr.splitlines()
    assert note.startswith(f"{tmp_path}/a.yaml: note: ")
    assert "graygate check --istio" in note


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"@type": "type.googleapis.com/google.protobuf.Struct", "value": RIGHT}, "a google.protobuf.Struct"),
        (RIGHT, "an object without @type"),
        ({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": RIGHT}, "not a string"),
        ({"@type": "type.googleapis.com/google.protobuf.StringValue"}, "has no value"),
        ({"@type": "type.googleapis.com/google.protobuf.BytesValue", "value": "e30="}, "bytes"),
        ({"value": dump(RIGHT)}, "a policy in YAML"),
        ({"value": ""}, "an empty string"),
        ({"value": '{"name": "a",}'}, "a comma before a closing bracket"),
    ],
)
def test_a_policy_that_does_not_reach_the_filter_is_a_problem(tmp_path, configuration, words):
    config = plugin(RIGHT)
    config["config"]["configuration"] = configuration
    file = tmp_path / "envoy.yaml"
    file.write_text(dump({"typed_config": config}))
    [problem] = errors(file)
    assert problem["message"].startswith(words)
    assert problem["path"].startswith("typed_config.config.configuration")
    assert problem["line"] >= place(file.read_text(), "configuration:")[0]


def test_directories_are_read_in_order_and_other_files_skipped(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    files = {
        "b/c/x.yml": dump({**RIGHT, "name": "second"}),
        "a.json": json.dumps({**RIGHT, "name": "first"}),
        "z.yaml": dump(wasm_plugin("a", policy={**RIGHT, "name": "third"})),
        "b/deployment.yaml": dump({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"name": "x"}}),
        "b/kustomization.yaml": "resources: [x]\n",
        "b/values.yaml": "name: x\nreplicas: 2\nhosts: [a]\n",
        "b/empty.yaml": "# nothing yet\n",
        "b/list.yaml": "- a\n",
        "b/broken.yaml": "a: b: c\n",
        "chart.yaml": "a: {{ .Values.a }}\n",
        ".git/x.yaml": dump(WRONG),
        "notes.txt": dump(WRONG),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "b" / "up.yaml").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "b" / "pipe.yaml")
    code, found = report(tmp_path)
    assert code == 0
    assert [policy["name"] for file in found["files"] for policy in file["policies"]] == ["first", "second", "third"]
    [pipe, manifest] = found["problems"]
    assert (pipe["severity"], pipe["file"]) == ("note", f"{tmp_path}/b/pipe.yaml")
    assert manifest["severity"] == "note"
    (tmp_path / "b" / "policy.yaml").write_text("name: a\nupstreams: {a: b: c}\n")
    [problem] = errors(tmp_path)
    assert (problem["file"], problem["line"]) == (f"{tmp_path}/b/policy.yaml", 2)


def test_a_file_without_a_policy_is_a_problem_if_it_is_named(tmp_path):
    file = tmp_path / "deployment.yaml"
    for text, words in (
        ("apiVersion: apps/v1\nkind: Deployment\n", "a Kubernetes Deployment"),
        ("kind: Widget\nmetadata: {name: x}\n", "a Kubernetes Widget"),
        (dump({"static_resources": {"listeners": []}}), "an Envoy configuration without a Wasm filter"),
        (dump({"typed_config": {**plugin("x"), "config": {"name": "other"}}}), "Wasm filters are not graygate"),
        (dump(wasm_plugin("a", pluginName="x")), "WasmPlugin shop/a that is not graygate's"),
        ("services: {a: 1}\n", 'an object with the keys "services"'),
        ("- 1\n", "a list"),
        ("hello\n", "a string"),
    ):
        file.write_text(text)
        [problem] = errors(file)
        assert words in problem["message"]
        assert (problem["line"], problem["column"]) == (None, None)
        assert report("--skip-others", file) == (0, {"files": [], "problems": [], "count": 0})
        done = run("check", tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0].startswith(f"{tmp_path}: no policy in 1 file. A policy has ")


def test_several_files_are_checked_to_the_end(tmp_path):
    for name, text in (("a.yaml", dump(WRONG)), ("b.yaml", dump(RIGHT)), ("c.yaml", "{")):
        (tmp_path / name).write_text(text)
    done = run("check", *(tmp_path / name for name in ("a.yaml", "no.yaml", "b.yaml", "c.yaml")))
    assert done.returncode == 3
    assert done.stdout.startswith(f"{tmp_path}/b.yaml: policy shop: no problems: ")
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [f"{tmp_path}/a.yaml", f"{tmp_path}/c.yaml"]
    assert lines[2] == "2 problems in 2 of 3 files"
    assert lines[3].startswith(f"graygate: {tmp_path}/no.yaml: ")


def test_the_hook_for_commits_checks_policies_and_skips_the_rest(tmp_path):
    [hook] = yaml.safe_load((PROJECT / ".pre-commit-hooks.yaml").read_text())
    program, *arguments = hook["entry"].split()
    assert program == BINARY.name
    for name, policy in (("right.yaml", RIGHT), ("wrong.json", WRONG), ("other.yaml", {"a": 1})):
        (tmp_path / name).write_text(json.dumps(policy))
    for names, code in ((("right.yaml", "other.yaml"), 0), (("other.yaml",), 0), (("other.yaml", "wrong.json"), 1)):
        assert run(*arguments, *(tmp_path / name for name in names)).returncode == code


# -- places ----------------------------------------------------------------------------


def mutations(tree: Tree, mark: str, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tree]]:
    """Yields the document with each key replaced in turn, and with each plain value replaced by an object in turn."""

    def changed(node: Tree, at: tuple[Any, ...], change: Callable[[Tree, Any], Tree]) -> Tree:
        if len(at) == 1:
            return change(node, at[0])
        here = copy.copy(node)
        here[at[0]] = changed(node[at[0]], at[1:], change)
        return here

    def renamed(node: Tree, key: Any) -> Tree:
        return {(mark if name == key else name): value for name, value in node.items()}

    def replaced(node: Tree, key: Any) -> Tree:
        here = copy.copy(node)
        here[key] = {mark: 1}
        return here

    def walk(node: Tree, at: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Tree]]:
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in entries:
            here = (*at, key)
            if isinstance(node, dict):
                yield ("key", *here), changed(tree, here, renamed)
            if not isinstance(value, dict | list):
                yield ("value", *here), changed(tree, here, replaced)
            yield from walk(value, here)

    yield from walk(tree, path)


# Each way of writing a policy, and by how many characters an object begins before the key in it.
STYLES: dict[str, tuple[str, Callable[[Tree], str]]] = {
    "block style": ("yaml", dump),
    "flow style": (
        "yaml",
        lambda tree: yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, allow_unicode=True, width=60),
    ),
    "CRLF": ("yaml", lambda tree: "# ü\r\n" + dump(tree).replace("\n", "\r\n")),
    "JSON with tabs": ("json", lambda tree: json.dumps(tree, indent="\t")),
    "a block in Envoy's YAML": ("yaml", in_block),
    "a string in Envoy's JSON": ("json", lambda tree: json.dumps({"a": {"typed_config": plugin(tree)}})),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_place_of_a_problem_is_where_the_text_was_changed(tmp_path, style):
    extension, write = STYLES[style]
    mark = "mütated" if style != "a string in Envoy's JSON" else "mutated"
    changes = dict(enumerate(mutations(FULL, mark)))
    for number, (_, tree) in changes.items():
        (tmp_path / f"{number:04}.{extension}").write_bytes(write(tree).encode())
    _, found = report(tmp_path)
    problems: dict[str, set[tuple[int, int]]] = {}
    for problem in found["problems"]:
        if problem["severity"] == "error":
            problems.setdefault(problem["file"], set()).add((problem["line"], problem["column"]))
    right = {"key": 0, "value": 0}
    for number, (path, _) in changes.items():
        file = tmp_path / f"{number:04}.{extension}"
        text = file.read_bytes().decode()
        escaped = mark if mark in text else json.dumps(mark)[1:-1]
        line, column = place(text, escaped)
        quote = re.search(rf"(\\?[\"']|){re.escape(escaped)}", text)
        assert quote
        starts = {(line, column - len(quote[1]))}
        bracket = text.rfind("{", 0, text.index(escaped))
        if (
            path[0] == "value"
            and bracket >= 0
            and re.fullmatch(r"\{(\s|\\n|\\?[\"'])*", text[bracket : text.index(escaped)])
        ):
            # The object in place of the value has brackets, and begins there.
            lines = text[:bracket].replace("\r\n", "\n").split("\n")
            starts.add((len(lines), len(lines[-1]) + 1))
        if problems.get(str(file), set()) & starts:
            right[path[0]] += 1
        else:
            told = sorted(problems.get(str(file), set()))
            assert path[0] == "key", f"{path}: {told} has none of {starts}"
            assert path[-2] in NAMED, f"{path}: {told} has none of {starts}"
    assert right["key"] > 120, right
    assert right["value"] > 90, right


# The objects of a policy in which a user chooses the keys.
NAMED = {
    "upstreams",
    "groups",
    "headers",
    "withoutHeaders",
    "baggage",
    "queryParams",
    "cookies",
    "weights",
    "set",
    "add",
}


# -- formats ---------------------------------------------------------------------------


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A policy with a warning, in a file whose name has all that a format must escape."""
    file = tmp_path / "a, b:c%é.yaml"
    file.write_text(dump({"policies": [{"name": "w", "hosts": ["w"], "probes": {"liveness": {"path": "/l"}}}, RIGHT]}))
    return file


def with_error(file: Path) -> Path:
    file.write_text(dump({**WRONG, "mode": "100%\r\nx"}))
    return file


def test_warnings_are_reported_and_are_no_failure(wrong):
    code, found = report(wrong)
    assert code == 0
    [warning] = found["problems"]
    assert (warning["severity"], warning["path"]) == ("warning", "policies[0].probes")
    assert (warning["line"], warning["column"]) == place(wrong.read_text(), "probes")
    line, column = place(wrong.read_text(), "probes")
    done = run("check", wrong)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert done.stderr.startswith(f"{wrong}:{line}:{column}: warning: policies[0].probes: ")


def test_json_has_the_shape_that_is_documented(wrong):
    _, found = report(with_error(wrong))
    assert list(found) == ["files", "problems", "count"]
    assert found["files"] == [{"file": str(wrong), "policies": []}]
    assert {tuple(problem) for problem in found["problems"]} == {
        ("file", "line", "column", "path", "message", "severity")
    }


def test_sarif_is_valid_and_places_each_problem(wrong):
    schema = json.loads((PROJECT / ".tools" / "sarif" / "sarif-2.1.0.json").read_text())
    validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())
    for levels in (["warning"], ["error", "error"]):
        file = wrong if levels == ["warning"] else with_error(wrong)
        done = run("check", "--format", "sarif", file)
        log = json.loads(done.stdout)
        assert [error.message for error in validator.iter_errors(log)] == []
        [sarif] = log["runs"]
        assert [result["level"] for result in sarif["results"]] == levels
        rules = {rule["id"] for rule in sarif["tool"]["driver"]["rules"]}
        assert {result["ruleId"] for result in sarif["results"]} <= rules
        for result in sarif["results"]:
            place = result["locations"][0]["physicalLocation"]
            assert place["artifactLocation"]["uri"] == file.as_uri().replace(",", "%2C")
            assert place["region"]["endColumn"] > place["region"]["startColumn"]
    broken = copy.deepcopy(log)
    broken["runs"][0]["results"][0]["level"] = "wrong"
    assert list(validator.iter_errors(broken)), "the schema accepts anything"
    empty = wrong.with_name("empty.yaml")
    empty.write_text("")
    whole = json.loads(run("check", "--format", "sarif", empty).stdout)
    assert list(validator.iter_errors(whole)) == []
    assert "region" not in whole["runs"][0]["results"][0]["locations"][0]["physicalLocation"]


def unescaped(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def test_github_gets_one_command_for_each_problem(wrong):
    done = run("check", "--format", "github", with_error(wrong))
    assert done.returncode == 1
    assert done.stderr == f"{wrong}: 2 problems\n"
    text = wrong.read_text()
    for command, word in zip(done.stdout.splitlines(), ("clustre", '"100%'), strict=True):
        found = re.fullmatch(r"::error file=([^,:]*),line=(\d+),col=(\d+),title=graygate::(.*)", command)
        assert found, command
        assert unescaped(found[1]) == str(wrong)
        assert (int(found[2]), int(found[3])) == place(text, word)
    assert "100%25" in command
    done = run("check", "--format", "github", "-", stdin=dump({"mode": "off", **RIGHT, "probes": FULL["probes"]}))
    assert done.stdout.startswith("::error file=standard input,line=")


def terminal(*command: str | Path, **variables: str) -> str:
    """Returns what a command prints on a terminal."""
    main, other = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CLICOLOR_FORCE", "CI")
    }
    environment |= {"TERM": "xterm-256color", **variables}
    with subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=other, stderr=other, env=environment
    ) as process:
        os.close(other)
        said = b""
        while True:
            try:
                part = os.read(main, 65_536)
            except OSError:
                break
            if not part:
                break
            said += part
        process.wait(timeout=30)
    os.close(main)
    return said.decode().replace("\r\n", "\n")


def test_a_terminal_shows_the_line_with_the_place_marked(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("name: shop\nupstreams:\n  ä: {cluster: y}\n  b: {clustre: x, cluster: z}\n")
    coloured = terminal(BINARY, "check", file)
    assert "\x1b[" in coloured
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = terminal(BINARY, "check", file, **variables)
        assert "\x1b[" not in plain
        assert plain == re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    lines = plain.splitlines()
    assert f" --> {file}:4:7" in lines
    number = lines.index("4 |   b: {clustre: x, cluster: z}")
    assert lines[number + 1].rstrip() == "  |       ^^^^^^^"
    assert lines[-1] == f"{file}: 2 problems"
    assert "\x1b[" not in run("check", file).stderr


# -- odd files -------------------------------------------------------------------------

NO_RUST = re.compile(r"serde|saphyr|utf-8 sequence|from_str|os error|Option<|unwrap|panick|EOF|`|budget")
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "", "the file is empty, or has only comments"),
        ("a.json", "", "the file is empty, or has only comments"),
        ("a.yaml", "# a\n# b\n", "the file is empty, or has only comments"),
        ("a.yaml", dump(RIGHT) + "---\n" + dump(RIGHT), "6:1: a second policy. A file has one."),
        ("a.json", '{"name": "a", # why\n"gates": []}', "1:15: a comment, which JSON does not allow"),
        ("a.json", '{"name": "a",\n  // why\n"gates": []}', "2:3: a comment, which JSON does not allow"),
        ("a.json", '{"name": "a",\n}', "1:13: a comma before a closing bracket"),
        ("a.yaml", dump(RIGHT).encode("utf-16"), "text in UTF-16; allowed: UTF-8"),
        ("a.json", json.dumps(RIGHT).encode("utf-16-be"), "text in UTF-16; allowed: UTF-8"),
        ("a.yaml", "name: café\n".encode("latin-1"), "1:10: the byte 0xE9 is not text in UTF-8"),
        ("a.yaml", b"name: a\0\n", "1:8: a NUL byte"),
        ("a.yaml", "- name: a\n  gates: []\n", "1:3: a policy in a list"),
        ("a.yaml", "name: a\nupstreams:\n\ta: {}\n", "3:1: a tab in the indentation"),
        ("a.yaml", BOMB, "aliases of aliases"),
        ("a.yaml", "name: a\nname: b\n", "2:1: name: "),
        ("a.json", '{"name": "a",\n "name": "b"}', "2:2: name: "),
        ("a.yaml", "name: *a\n", "1:7: an alias without an anchor"),
        ("a.yaml", "[" * 10_000, "nested deeper than is read"),
        ("a.json", '{"a":' * 10_000, "nested deeper than is read"),
        ("a.yaml", "name: {{ .Values.name }}\n", "a template"),
        ("a.yaml", "name: a\n" + "#\n" * 25_000_000, "longer than 32 MiB"),
    ],
)
def test_an_odd_file_gets_one_sentence_that_helps(tmp_path, name, content, words):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    done = run("check", file)
    assert time.monotonic() - start < 10
    assert (done.returncode, done.stdout == "" or "second" in words) == (1, True)
    first, last = done.stderr.splitlines()
    assert words in first.removeprefix(f"{file}:")
    assert not NO_RUST.search(first), first
    assert len(first) < 400 + len(str(file))
    assert last == f"{file}: 1 problem"
    # Other commands that read a policy say the same.
    done = run("explain", file)
    assert (done.returncode, words in done.stderr) == (1, True)


def test_anchors_and_a_byte_order_mark_are_no_problem(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "\ufeffname: a\nupstreams:\n  a: &a {cluster: c}\n  b: *a\n  c: {<<: *a, assume: ready}\n", encoding="utf-8"
    )
    assert run("check", file).returncode == 0
    file.write_text("name: a\nupstreams:\n  a: &a {cluster: c, asume: x}\n  b: {<<: *a}\n")
    assert {(problem["line"], problem["column"]) for problem in errors(file)} == {(3, 22)}


def test_what_cannot_be_read_ends_with_3_and_a_pipe_is_read(tmp_path):
    done = run("check", tmp_path / "missing.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert not NO_RUST.search(done.stderr)
    if os.geteuid() != 0:
        secret = tmp_path / "secret.yaml"
        secret.write_text(dump(RIGHT))
        secret.chmod(0)
        assert run("check", secret).returncode == 3
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with subprocess.Popen([BINARY, "check", pipe], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pipe.write_text(dump(RIGHT))
        assert process.wait(timeout=30) == 0
    assert report("-", stdin=dump(RIGHT))[0] == 0
    [problem] = errors("-", stdin='{"name": "a",}')
    assert (problem["file"], problem["column"]) == ("standard input", 13)


# -- time ------------------------------------------------------------------------------


def large(upstreams: int) -> Tree:
    policy = copy.deepcopy(FULL)
    [first, *_] = policy["upstreams"].values()
    policy["upstreams"] |= {f"u{number}": {**first, "cluster": f"c{number}"} for number in range(upstreams)}
    return policy


def test_a_large_policy_takes_under_a_second(tmp_path):
    file = tmp_path / "a.yaml"
    policy = large(50)
    policy["upstreams"]["u49"]["clustre"] = "x"
    for text in (dump(policy), dump({"a": {"typed_config": plugin(policy)}})):
        file.write_text(text)
        start = time.monotonic()
        assert len(errors(file)) == 1
        assert time.monotonic() - start < 1


def test_the_time_for_a_directory_grows_with_its_files(tmp_path):
    def seconds(files: int) -> float:
        directory = tmp_path / str(files)
        directory.mkdir()
        for number in range(files):
            (directory / f"{number}.yaml").write_text(dump(WRONG if number % 2 else RIGHT))
        start = time.monotonic()
        assert report(directory)[1]["count"] == files // 2
        return time.monotonic() - start

    few, many = seconds(100), seconds(1_000)
    assert many < 40 * few
    assert many < 10


@pytest.mark.parametrize(
    ("drain", "checks", "warned"),
    [
        ({"path": "/drainz"}, [], []),
        ({"path": "/drainz", "groups": ["lb"], "readinessAfter": "5s"}, [], []),
        ({"path": "/drainz", "readinessAfter": "5s"}, [], ["nobody is told of a drain at once"]),
        ({"alsoWhen": {"upstream": "envoy"}}, ["envoy"], []),
        (
            {"alsoWhen": {"upstream": "envoy"}, "groups": ["lb"], "readinessAfter": "5s"},
            ["envoy"],
            ["readiness also has envoy in its checks"],
        ),
    ],
)
def test_an_order_of_telling_that_has_no_effect_is_a_warning(tmp_path, drain, checks, warned):
    probe = {"httpGet": {"path": "/ready"}}
    probes = {
        "readiness": {"path": "/readyz", "checks": [{"upstream": name} for name in checks]},
        "groups": {"lb": {"path": "/lbz"}},
        "drain": drain,
    }
    policy = {"name": "shop", "upstreams": {"envoy": {"cluster": "admin", "readinessProbe": probe}}, "probes": probes}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    done = run("check", file)
    assert done.returncode == 0
    assert [words for words in warned if words not in done.stderr] == []
    assert done.stderr.count("warning: probes.drain.") == len(warned)


# -- the module ----------------------------------------------------------------------


def test_each_policy_has_the_module_with_the_lowest_cost_that_serves_it(tmp_path):
    judged = {"name": "b", "hosts": ["b.shop"], "upstreams": {"a": {"cluster": "y", "circuitBreaker": {}}}}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"policies": [judged, RIGHT]}))
    lines = run("check", file).stdout.splitlines()
    assert [line.rsplit(", ", 1)[1] for line in lines] == ["module graygate.wasm", "module graygate-requests.wasm"]
    [checked] = report(file)[1]["files"]
    assert [policy["module"] for policy in checked["policies"]] == ["graygate.wasm", "graygate-requests.wasm"]


def test_a_key_that_the_named_module_lacks_is_a_problem_at_the_key(tmp_path):
    judged = {"name": "shop", "upstreams": {"a": {"cluster": "y", "circuitBreaker": {}}}}
    file = tmp_path / "envoy.yaml"
    for name, count in (("graygate-requests", 1), ("graygate", 0)):
        code = {"local": {"filename": f"/etc/envoy/{name}.wasm"}}
        text = yaml.safe_dump({"http_filters": [wasm(judged, vm_config={"code": code})]})
        file.write_text(text)
        found = errors(file)
        assert len(found) == count
        for problem in found:
            assert problem["path"] == "upstreams.a.circuitBreaker"
            assert problem["message"].startswith(
                "needs graygate.wasm, and http_filters[0].typed_config.config.vm_config.code.local.filename has "
                "graygate-requests.wasm"
            )
            assert (problem["line"], problem["column"]) == place(text, '"circuitBreaker"')
