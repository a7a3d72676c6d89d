"""The documents: each block of YAML or JSON is checked, each command is run, each link leads somewhere.

Blocks follow the rules of `harness.docs`. A page's commands run one after the other in a directory of the page's own,
in which the blocks with `# file: NAME` are files. They have a network of their own, so the ports on a page are free.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.config import TAGS, Tree, cluster, listener, plugin, stats_tags, values_of
from harness.docs import Block, anchors, blocks, hidden_commands, is_unmarked_part, links, pages, prose, whole_policy
from harness.envoy import PROJECT, binary
from harness.tool import BINARY, run

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [page for page in PAGES if any(block.info == "console" for block in blocks(page))]

# The blocks of commands that this test does not run, for each page: those that need a cluster, those that take long and
# are targets of `make`, and those in `sh` or `text`. Tests in tests/istio run those of the runbook.
NOT_RUN: dict[str, dict[str, int]] = {
    "CONTRIBUTING.md": {"slow": 5},
    "README.md": {"slow": 1, "sh": 1},
    "docs/evaluate/chaos.md": {"slow": 1, "sh": 1},
    "docs/evaluate/comparison.md": {"slow": 1},
    "docs/evaluate/cost.md": {"slow": 1},
    "docs/evaluate/faults.md": {"slow": 1},
    "docs/evaluate/limits.md": {"slow": 1},
    "docs/evaluate/soak.md": {"slow": 1},
    "docs/how-to/check-a-policy.md": {"sh": 1},
    "docs/how-to/edit-with-a-schema.md": {"cluster": 1},
    "docs/how-to/envoy-gateway.md": {"cluster": 1},
    "docs/how-to/status-page.md": {"sh": 1, "cluster": 1},
    "docs/operate/alerts-and-dashboards.md": {"sh": 2},
    "docs/operate/compatibility.md": {"slow": 2},
    "docs/operate/install-and-verify.md": {"slow": 1, "sh": 7},
    "docs/quick-start-envoy.md": {"slow": 1, "sh": 2},
    "docs/quick-start-istio.md": {"slow": 1, "cluster": 4},
    "docs/security.md": {"slow": 1},
    "istio/README.md": {"cluster": 1, "sh": 3},
    "istio/runbook.md": {"sh": 26},
}
# The languages of blocks that have nothing to check or to run.
PLAIN = {"text", "promql", "rust", "mermaid", "html"}
# A line that begins with one of these is a command, whatever the block says that it is.
PROGRAMS = "curl|docker|envoy|graygate|helm|kubectl|kustomize|make|mkdir|target/release/graygate"


def name(of: Path | Block) -> str:
    return of.where if isinstance(of, Block) else str(of.relative_to(PROJECT))


def in_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


# -- YAML and JSON ---------------------------------------------------------------


@pytest.mark.parametrize("block", in_language("yaml", "json"), ids=name)
def test_a_block_of_yaml_is_right(block, tmp_path):
    file = tmp_path / "policy.yaml"
    assert block.documents, f"{block.where}: the block is empty"
    if "wrong" in block.marks:
        file.write_text(block.text)
        assert run("check", file).returncode == 1, f"{block.where}: marked as wrong, and the tool finds no problem"
        return
    assert block.marks == [], f"{block.where}: {block.info}: allowed after yaml: wrong"
    unmarked = [tree for tree in block.documents if is_unmarked_part(tree)] if block.part is None else []
    assert not unmarked, f"{block.where}: neither a whole policy nor marked by `# part of a policy: PATH`"
    for policy in block.policies:
        file.write_text(yaml.safe_dump(policy, sort_keys=False))
        done = run("check", file)
        assert (done.returncode, done.stderr) == (0, ""), f"{block.where}: {done.stderr}"
    if block.manifests:
        file.write_text(yaml.safe_dump_all(block.manifests, sort_keys=False))
        done = run("check", "--istio", file)
        assert done.returncode == 0, f"{block.where}: {done.stderr}"


def validate(bootstrap: Tree, directory: Path) -> str:
    """Lets the real Envoy read a whole configuration. Returns "", or what it has against it."""
    directory.mkdir(exist_ok=True)
    (directory / "envoy.json").write_text(json.dumps(bootstrap))
    for link in ("dist", "envoy"):
        if not (directory / link).exists():
            (directory / link).symlink_to(PROJECT / link)
    command = [binary(), "--mode", "validate", "--log-level", "error", "-c", "envoy.json"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stderr or "it ended without a word"


def is_readable(block: Block) -> bool:
    """Whether the block is YAML. If it is not, that is the failure of another test."""
    try:
        return bool(block.documents)
    except yaml.YAMLError:
        return False


def with_built_module(text: str) -> str:
    return re.sub(r"[\w/.-]*\bgraygate\.wasm", "dist/graygate.wasm", text)


def test_the_real_envoy_accepts_every_policy(tmp_path):
    readable = [block for block in in_language("yaml", "json") if not block.marks and is_readable(block)]
    policies = [(block, policy) for block in readable for policy in block.policies]
    listeners = []
    for number, (_, policy) in enumerate(policies):
        # With lastGood, Envoy would accept any policy.
        strict = json.dumps({**policy, "onWrongPolicy": "refuse"})
        listeners.append(listener(f"graygate-{number}", [{"name": "graygate", "typed_config": plugin(strict)}], []))
    bootstrap = {"static_resources": {"listeners": listeners}, "stats_config": {"stats_tags": stats_tags()}}
    assert policies
    if validate(bootstrap, tmp_path):
        # One after the other, to find those that are to blame.
        for entry, (block, _) in zip(listeners, policies, strict=True):
            assert validate({"static_resources": {"listeners": [entry]}}, tmp_path) == "", block.where
        pytest.fail("Envoy accepts each policy alone, and not all of them together")


def problems_of_configurations(page: Path, directory: Path) -> list[str]:
    """Returns what the real Envoy has against the whole configurations of a page."""
    found = []
    for block in blocks(page):
        if block.file:
            write(directory / block.file, with_built_module(block.text))
        if block.language == "yaml" and "static_resources:" in block.text:
            wholes = [json.loads(with_built_module(json.dumps(bootstrap))) for bootstrap in block.bootstraps]
            found += [problem for bootstrap in wholes if (problem := validate(bootstrap, directory))]
    return found


def test_the_real_envoy_accepts_each_whole_configuration(tmp_path):
    for page in PAGES:
        assert problems_of_configurations(page, tmp_path / page.stem) == [], name(page)


def test_a_wrong_configuration_is_found(tmp_path):
    for key, is_right in [("connect_timeout", True), ("conect_timeout", False)]:
        text = f"```yaml\nstatic_resources: {{clusters: [{{name: app, {key}: 1s}}]}}\n```\n"
        assert (problems_of_configurations(page_of(tmp_path, text), tmp_path) == []) == is_right


@pytest.mark.parametrize(
    "block", [block for block in in_language("yaml") if is_readable(block) and block.routes], ids=name
)
def test_the_real_envoy_accepts_routes(block, tmp_path):
    names = sorted({*values_of(block.routes, "cluster"), *values_of(block.routes, "name")})
    bootstrap = {
        "static_resources": {
            "listeners": [listener("app", [], block.routes)],
            "clusters": [cluster(each, 8080) for each in names],
        }
    }
    assert validate(bootstrap, tmp_path) == "", block.where


# -- commands --------------------------------------------------------------------


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# Brings up the loopback of a new network: SIOCSIFFLAGS with IFF_UP and IFF_RUNNING. Not every system has `ip`.
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1 | 64))
"""


def isolated() -> list[str]:
    """Returns the command that gives another a network and processes of its own. Skips the test without the right."""
    command = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the commands of a page need a network of their own: {error}")
    return command


def pattern(output: str) -> str:
    """Returns the regular expression for an output in which `…` stands for any text."""
    lines = "\n".join(line.rstrip() for line in output.rstrip().splitlines())
    return re.escape(lines).replace("…", "(?s:.*?)")


@pytest.mark.parametrize("page", COMMANDS, ids=name)
def test_the_commands_of_a_page_print_what_it_says(page, tmp_path):
    bin_directory, directory = tmp_path / "bin", tmp_path / "page"
    bin_directory.mkdir()
    directory.mkdir()
    (bin_directory / "graygate").symlink_to(BINARY)
    # One worker, as each learns on its own tick, and a page cannot tell which one answers.
    (bin_directory / "envoy").write_text(f'#!/bin/sh\nexec {binary()} "$@" --concurrency 1\n')
    (bin_directory / "envoy").chmod(0o755)
    (directory / "dist").symlink_to(PROJECT / "dist")
    (directory / "istio").mkdir()
    (directory / "istio/observability").symlink_to(PROJECT / "istio/observability")
    script, expected = [f"{sys.executable} -c '{LOOPBACK_UP}'"], []
    steps: list[tuple[int, Block | str]] = [(block.line, block) for block in blocks(page)]
    steps += hidden_commands(page)
    for number, (_, block) in enumerate(sorted(steps, key=lambda step: step[0])):
        if isinstance(block, str):
            # What these print belongs to no command.
            script.append(f"printf '\\n\\036hidden\\n'\n{block}")
            continue
        if block.file:
            source = directory / f".block-{number}"
            source.write_text(block.text)
            target = directory / block.file
            script.append(f"mkdir -p '{target.parent}' && cp '{source}' '{target}'")
        for command in block.commands if block.info == "console" else []:
            expected.append(command)
            script.append(f"printf '\\n\\036%s\\n' {len(expected) - 1}\n{command.command}")
    script.append("printf '\\n\\036end\\n'")
    environment = {
        **{
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("GRAYGATE", "CLICOLOR", "FORCE_COLOR"))
        },
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [*isolated(), "bash"],
        input="\n".join(script),
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    printed = dict(re.findall(r"\x1e(\d+)\n(.*?)(?=\n?\x1e)", done.stdout, re.DOTALL))
    failures = []
    for number, command in enumerate(expected):
        said = printed.get(str(number), "(it was not run)")
        said = "\n".join(line.rstrip() for line in said.rstrip().splitlines())
        if not re.fullmatch(pattern(command.output), said):
            failures.append(
                f"{name(page)}:{command.line}: $ {command.command}\n--- printed\n{said}\n--- expected\n{command.output}"
            )
    assert not failures, "\n\n".join(failures)


def test_no_command_goes_unrun_unseen():
    found: dict[str, Counter[str]] = {}
    for block in BLOCKS:
        page = name(block.page)
        if block.info == "console":
            continue
        if block.language == "console":
            assert len(block.marks) == 1, f"{block.where}: {block.info}: one mark is enough"
            found.setdefault(page, Counter())[block.marks[0]] += 1
        elif block.language in {"sh", "bash", "shell"} or re.search(rf"(?m)^(?:\$|{PROGRAMS}) ", block.text):
            found.setdefault(page, Counter())["sh"] += 1
        else:
            allowed = PLAIN | {"yaml", "json", "console"}
            assert block.language in allowed, f"{block.where}: {block.info!r}; allowed: {', '.join(sorted(allowed))}"
    assert {page: dict(count) for page, count in found.items()} == NOT_RUN


def test_slow_commands_are_targets_of_make():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (PROJECT / "Makefile").read_text()))
    for block in BLOCKS:
        assert set(block.marks) <= {"slow", "cluster", "wrong"}, f"{block.where}: {block.info}"
        for command in block.commands if block.info == "console slow" else []:
            first, *words = command.command.partition("#")[0].split()
            named = [word for word in words if "=" not in word]
            where = f"{name(block.page)}:{command.line}: {command.command}"
            assert first == "make", where
            assert set(named) <= targets, f"{where}: not a target of make"
            for variable in (word.partition("=")[0] for word in words if "=" in word):
                scripts = [(PROJECT / ".ci" / target).read_text() for target in named]
                assert any(f"${{{variable}" in script for script in scripts), f"{where}: nothing reads {variable}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_stands_outside_a_block(page):
    # A line that is indented after an empty one is code, unless it goes on with a list.
    found = re.findall(r"(?m)^ {2,}\$ .*$|(?<=[^\n]\n\n) {4}(?![-*] |\d+\. )\S.*$", prose(page))
    assert not found, f"commands belong into ```console blocks, so that they are run: {found}"


# -- links and names -------------------------------------------------------------


def target_of(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


def is_outside(link: str) -> bool:
    return bool(re.match(r"[a-z]+:", link))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    failures = []
    for line, link in links(page):
        if is_outside(link):
            continue
        target, anchor = target_of(page, link)
        if not target.exists():
            failures.append(f"{name(page)}:{line}: {link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            failures.append(f"{name(page)}:{line}: {link}: no such heading")
    assert not failures, "\n".join(failures)


def test_every_page_is_reached_from_the_index():
    index = PROJECT / "docs" / "README.md"
    reached, left = set(), [index]
    while left:
        page = left.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        left += [target_of(page, link)[0] for _, link in links(page) if not is_outside(link)]
    missing = [name(page) for page in PAGES if page not in reached and page.name not in {"README.md", "CHANGELOG.md"}]
    assert not missing, f"no way from docs/README.md to {', '.join(missing)}"


def test_every_metric_and_code_that_a_page_names_exists():
    metrics = set(re.findall(r"\| `(graygate_\w+)`", run("reference", "metrics").stdout))
    codes = set(re.findall(r"(?m)^\| `([a-z-]+)`", run("reference", "reasons").stdout))
    assert len(metrics) > 10
    assert len(codes) > 40
    unknown = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            # The other two begin the details in the access log.
            named = set(re.findall(r"graygate_[a-z_]*[a-z]\b", line)) - {"graygate_gate", "graygate_probe"}
            used = re.findall(r"\b(?:reason|result|from)(?:=\.)?=~?\"?([a-z-]+)\b", line)
            details = re.findall(r"graygate_gate{[\w.-]+\\?\|[\w.-]+\\?\|([a-z-]+)}", line)
            # A command may search for the beginning of a name.
            named = {found for found in named if not any(metric.startswith(f"{found}_") for metric in metrics)}
            wrong = sorted((named - metrics) | ({*used, *details} - codes))
            unknown += [f"{name(page)}:{number}: {word}" for word in wrong]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("page", sorted((PROJECT / "docs/reference").glob("*.md")), ids=name)
def test_the_reference_is_what_the_tool_prints(page):
    assert run("reference", page.stem).stdout == page.read_text(), "`make reference` writes it again"


def test_every_list_of_labels_is_that_of_the_table():
    page = run("reference", "metrics").stdout
    labels = set(re.findall(r"(?m)^\| `(\w+)` \|", page.partition("## Labels")[2]))
    assert set(TAGS) == labels
    bootstrap = yaml.safe_load((PROJECT / "envoy/envoy.yaml").read_text())
    assert {tag["tag_name"] for tag in bootstrap["stats_config"]["stats_tags"]} == labels
    mesh = re.findall(r"extraStatTags: \[(.*?)\]", (PROJECT / "istio/runbook.md").read_text())
    assert [set(tags.split(", ")) for tags in mesh] == [labels]


def test_the_tests_that_contributing_names_exist():
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    commands = re.findall(r"-m pytest (tests/\w+\.py) -k (\w+)", text)
    assert commands
    for file, word in commands:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", file, "-k", word]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"pytest {file} -k {word} selects no test"
    for directory, names in re.findall(r"cd (tests/\w+) && .*?-run (\w+)", text):
        found = "\n".join(file.read_text() for file in (PROJECT / directory).glob("*_test.go"))
        assert f"func {names}" in found, f"{directory}: no test begins with {names}"
    for name_of_test in re.findall(r"cargo test [^`]*--test (\w+)", text):
        files = [PROJECT / f"tests/{name_of_test}.rs", PROJECT / f"tests/{name_of_test}/main.rs"]
        assert any(file.exists() for file in files), name_of_test


# -- language --------------------------------------------------------------------


def sentences(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(PROJECT / ".ci/sentences"), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_no_sentence_has_more_than_25_words():
    done = sentences("--max", "25", *(page for page in PAGES if page.name != "CHANGELOG.md"))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("before", ["", "# Heading\n\n", "- ", "1. ", "> ", "A [link](x.md) and `code with words`. "])
def test_a_long_sentence_is_found(before):
    text = before + " ".join(["Word"] * 26) + ".\n"
    assert sentences("--max", "25", "-", stdin=text).returncode == 1
    assert sentences("--max", "26", "-", stdin=text).returncode == 0


def test_code_and_tables_are_no_sentences():
    words = " ".join(["word"] * 30)
    text = f"```yaml\n# {words}\n```\n\n| {words} |\n|---|\n\n    {words}\n\nShort. One `{words}`.\n"
    done = sentences("--max", "3", "-", stdin=text)
    assert (done.returncode, done.stdout.split()[6:10]) == (0, ["2", "2", "2", "2"])


# -- the harness itself ----------------------------------------------------------


def page_of(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text)
    return page


def test_a_console_block_is_split_into_commands(tmp_path):
    text = "\n```console\n$ one \\\n  two\nout\n\nput\n$ cat <<'END' >file\nin\nEND\n$ true\n```\n"
    [block] = blocks(page_of(tmp_path, text))
    assert [(command.line, command.command, command.output) for command in block.commands] == [
        (3, "one \\\n  two", "out\n\nput"),
        (8, "cat <<'END' >file\nin\nEND", ""),
        (11, "true", ""),
    ]


def test_an_ellipsis_stands_for_any_text():
    assert re.fullmatch(pattern("a … c\n…\nd"), "a b c\nx\ny\nd")
    assert not re.fullmatch(pattern("a … c"), "a b d")
    assert not re.fullmatch(pattern("a.c"), "abc")


def test_headings_have_the_anchors_of_github(tmp_path):
    text = "# One: `two`, three!\n## Twice\n## Twice\n```sh\n# none\n```\n### [A link](x.md) here\n"
    assert anchors(page_of(tmp_path, text)) == {"one-two-three", "twice", "twice-1", "a-link-here"}


def test_links_in_code_are_none(tmp_path):
    text = '[a](b.md#c) `[d](e.md)` ![f](g.svg)\n<img src="h.svg">\n```sh\n[i](j.md)\n```\n'
    assert links(page_of(tmp_path, text)) == [(1, "b.md#c"), (1, "g.svg"), (2, "h.svg")]


@pytest.mark.parametrize(
    ("path", "part", "expected"),
    [
        ("upstreams.app.circuitBreaker", "failOn: [5xx]", {"failOn": ["5xx"]}),
        ("upstreams.app.circuitBreaker", "circuitBreaker: {failOn: [5xx]}", {"failOn": ["5xx"]}),
        ("upstreams.app.circuitBreaker", "upstreams: {app: {circuitBreaker: {failOn: [5xx]}}}", {"failOn": ["5xx"]}),
    ],
)
def test_a_part_is_put_into_a_policy(path, part, expected):
    policy = whole_policy(path, yaml.safe_load(part))
    assert policy == {"name": "example", "upstreams": {"app": {"cluster": "app", "circuitBreaker": expected}}}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("gates[0].reply", "status: 503"),
        ("gates", "- {upstream: db, match: [{uri: {prefix: /}}]}"),
        ("releases[0].schedule", "- {at: '2026-12-01T10:00:00Z', weights: {v1: 50, v2: 50}}"),
        ("releases[0].rollback", "failurePercent: 5"),
        ("releases[0].versions[1]", "match: [{headers: {x-tester: {exact: 'true'}}}]"),
        ("releases[0].steer", "randomValueHeader: x-gray-random"),
        ("probes.readiness", "checks: [{upstream: app}]"),
        ("", "mode: shadow\nprobes: {liveness: {path: /livez}}"),
    ],
)
def test_a_part_in_a_policy_is_checked(tmp_path, path, part):
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(whole_policy(path, yaml.safe_load(part))))
    done = run("check", file)
    assert (done.returncode, done.stderr) == (0, "")
    unknown = {"nothing": 1}
    file.write_text(yaml.safe_dump(whole_policy(path, [unknown] if part.startswith("- ") else unknown)))
    assert run("check", file).returncode == 1
