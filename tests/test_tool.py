"""The command line tool: its output and exit codes."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from harness.tool import explain, run


@pytest.fixture
def file(policy, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(policy))
    return path


def test_check_takes_json_and_yaml(policy, file, tmp_path):
    as_json = tmp_path / "policy.json"
    as_json.write_text(json.dumps(policy))
    for path in (file, as_json):
        done = run("check", path)
        assert (done.returncode, done.stderr) == (0, "")
        summary = r"2 upstreams, 2 probes, 1 release, 1 gate, number \d+, module graygate-requests\.wasm"
        assert re.fullmatch(rf"{path}: policy reviews: no problems: {summary}\n", done.stdout)
    assert run("check", "-", stdin=json.dumps(policy)).returncode == 0


def test_check_warns_of_probes_that_mode_off_leaves_unanswered(policy):
    for mode, warns in [("off", True), ("shadow", False)]:
        done = run("check", "-", stdin=json.dumps({**policy, "mode": mode}))
        assert done.returncode == 0
        assert ("warning: mode: off: the filter does not answer the policy's probes" in done.stderr) == warns
    assert run("check", "-", stdin=json.dumps({**policy, "mode": "off", "probes": {}})).stderr == ""


def test_explain_says_that_shadow_mode_answers_probes_and_does_nothing_else(policy, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({**policy, "mode": "shadow"}))
    for target, is_done in [("/livez", True), ("/", False)]:
        said = run("explain", path, "--path", target).stdout
        assert ("mode      shadow: nothing of this is done" in said) != is_done


def test_check_prints_all_problems_and_ends_with_1(policy, file):
    policy["releases"][0]["versions"][0]["wieght"] = 1
    policy["gates"][0]["upstream"] = "reviews-v3"
    policy["gates"][0]["whenAllNotReady"] = "forwards"
    file.write_text(yaml.safe_dump(policy, sort_keys=False))
    done = run("check", file)
    assert (done.returncode, done.stdout) == (1, "")
    lines = list(enumerate(file.read_text().splitlines(), start=1))
    words = ["wieght", "reviews-v3", "forwards"]
    places = [f"{number}:{line.index(word) + 1}" for word in words for number, line in lines if word in line]
    *found, last = done.stderr.splitlines()
    assert [line.removeprefix(f"{file}:").split(": ")[0] for line in found] == places
    assert last == f"{file}: 3 problems"


def test_a_repeated_key_is_a_problem_in_yaml_too(file):
    file.write_text("name: a\nname: b\n")
    done = run("check", file)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, f"{file}:2:1: name: given twice; keep one of them")


@pytest.mark.parametrize("text", ["", "a: b: c", "{", "- 1", "\0", "&a [*a]"])
def test_a_document_that_cannot_be_read_is_a_problem(file, text):
    file.write_text(text)
    assert run("check", file).returncode == 1


@pytest.mark.parametrize("command", [["check"], ["explain"], ["simulate"]])
def test_a_step_that_ends_after_the_calendar_is_a_problem(policy, file, command):
    steps = [("9999-12-31T00:00:00Z", "48h"), ("2026-12-01T10:00:00Z", "1h")]
    weights = {"v1": 70, "v2": 30}
    policy["releases"][0]["schedule"] = [{"at": at, "over": over, "weights": weights} for at, over in steps]
    file.write_text(yaml.safe_dump(policy))
    done = run(*command, file)
    assert done.returncode == 1
    assert "would end after the year 9999. Use an earlier at" in done.stderr


def test_explain_takes_any_date_of_the_calendar(file):
    for date in ("1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"):
        assert run("explain", file, "--at", date).returncode == 0
    done = run("explain", file, "--at", "10000-01-01T00:00:00Z")
    assert (done.returncode, "write a time such as" in done.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["check"], ["explain"], ["simulate"]])
def test_wrong_usage_ends_with_2(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "FILE", "--method", ""], "write a method, such as GET or POST"),
        (["explain", "FILE", "--path", "api"], "write a path that begins with /, such as /api?uid=7"),
        (["render", "FILE", "--percent", "101"], "write a whole number from 0 to 100"),
        (["render", "FILE", "--port", "0"], "write a whole number from 1 to 65535"),
        (["render", "FILE", "--priority", "high"], "write a whole number from -2147483648 to 2147483647"),
        (["render", "FILE", "--address", "localhost"], "write an IP address, such as 0.0.0.0 or ::"),
        (["simulate", "FILE", "--users", "many"], "write a whole number from 1 to 10000000"),
        (["diff", "FILE", "FILE", "--users", "0"], "write a whole number from 1 to 10000000"),
    ],
)
def test_a_wrong_value_of_an_option_gets_what_is_allowed(arguments, words, file):
    done = run(*[file if part == "FILE" else part for part in arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("path: /api", "not JSON. Write one object per line"),
        ('{"pth": "/api"}', 'not a request: unknown field "pth"; did you mean "path"?'),
        ('{"pod": "/api"}', 'not a request: unknown field "pod"; allowed: method, path, authority'),
        ('{"path": 5}', "not a request: path: 5 is not allowed; allowed: a string"),
        ('{"source": "1.2.3.4"}', 'not a request: source: "1.2.3.4" is not allowed; allowed: an IP address and a port'),
        ('{"headers": {"a": 5}}', "not a request: headers.a: 5 is not allowed; allowed: a string, or a list"),
        ('{"path": "/", "path": "/a"}', "not a request: path: given twice"),
        ("[]", "not a request: a list"),
    ],
)
def test_a_wrong_line_of_requests_is_told_by_its_number(line, words, file, tmp_path):
    requests = tmp_path / "requests.jsonl"
    requests.write_text(f'{{"path": "/"}}\n\n{line}\n')
    done = run("explain", file, "--requests", requests, "--json")
    assert done.returncode == 2
    assert f"requests.jsonl, line 3: {words}" in done.stderr
    assert "at line 1" not in done.stderr


def test_explain_prints_decisions_and_reasons(file):
    done = run("explain", file, "--header", "x-user-id=alice", "--path", "/api")
    assert done.stdout.splitlines() == [
        "request   GET /api for localhost",
        "upstreams all assumed ready",
        "release   reviews: v1 (sticky), cluster reviews-v1",
        "          shares            v1 holds 90 % of keys, v2 10 %",
        "          incoming          no: not trusted",
        "          match             no: none is met",
        "          sticky            header x-user-id is in bucket 6405; v1 holds 1000 to 9999",
        "decision  forward",
        "          with x-gray-version: v1",
        (
            "route     decides: v1 is reached at cluster reviews-v1 "
            "only if a route matches x-gray-version: v1 and leads to reviews-v1"
        ),
    ]


def reasons(file, *arguments):
    """Returns the chain of reasons as pairs of reason and text, and the response's edits."""
    done = run("explain", file, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("decision"))
    return [tuple(line[10:].split(maxsplit=1)) for line in lines[2:end]]


@pytest.mark.parametrize(
    ("arguments", "chain"),
    [
        (["--header", "x-gray-version=v2"], [("incoming", "x-gray-version of the request names v2")]),
        (
            ["--header", "x-gray-version=v7"],
            [
                (
                    "no-such-version",
                    (
                        "x-gray-version of the request names none of these versions, "
                        "and stays as it is for the next hop: v1"
                    ),
                )
            ],
        ),
        (["--header", "x-tester=true"], [..., ("match", "the request meets that of v2")]),
        (["--header", "x-user-id=bob"], [..., ("allowed", "header x-user-id is on the list of v2")]),
        (
            ["--header", "cookie=user=692d6000-0123456789abcdef"],
            [
                ...,
                ("allowed", "no: cookie user is on no list"),
                ("existing-session", "cookie user was issued before startsAt: v1"),
            ],
        ),
        (
            ["--header", "x-user-id=jane.doe@example.com", "--at", "2026-12-01T10:00:00Z"],
            [..., ("denied", "header x-user-id is in bucket 1839, of a version whose list denies it: v1")],
        ),
        (
            ["--at", "2026-12-01T10:00:00Z"],
            [..., ("sticky", "no: no header x-user-id, no cookie user"), ("rotation", ...)],
        ),
        (
            ["--header", "x-user-id=user-3", "--at", "2026-12-01T09:59:59Z"],
            [..., ("sticky", "header x-user-id is in bucket 6933; v1 holds 0 to 9999")],
        ),
        (
            ["--header", "x-user-id=alice", "--at", "2026-12-01T10:00:00Z", "--rolled-back", "reviews/v2"],
            [..., ("sticky", "header x-user-id is in bucket 6405; v1 holds 0 to 9999")],
        ),
    ],
)
def test_explain_shows_the_chain_of_reasons(policy, tmp_path, arguments, chain):
    release = policy["releases"][0]
    release |= {"trustIncoming": True, "startsAt": "2026-12-01T10:00:00Z"}
    release["versions"][0]["weight"], release["versions"][1]["weight"] = 70, 30
    release["versions"][1] |= {"allow": ["bob"], "deny": ["jane.doe@example.com"]}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy))
    found = reasons(file, *arguments)
    wanted = [part for part in chain if part is not ...]
    found = found[-len(wanted) :]
    assert [reason for reason, _ in found] == [reason for reason, _ in wanted]
    for (_, said), (_, words) in zip(found, wanted, strict=True):
        assert words in (..., said)


def test_explain_refuses_unknown_releases_and_invalid_arguments(file):
    for arguments, words in (
        (["--rolled-back", "reviews/v9"], "allowed: reviews/v2"),
        (["--rolled-back", "reviews"], "allowed: reviews/v2"),
        (["--at", "tomorrow"], "write a time such as"),
    ):
        done = run("explain", file, *arguments)
        assert done.returncode == 2
        assert words in done.stderr


def test_explain_uses_the_given_readiness(file):
    done = run("explain", file, "--header", "x-tester=true", "--not-ready", "reviews-v2")
    assert "release   reviews: v1 (fallback)" in done.stdout
    assert "fallback          the upstream of v2 is not ready: v1" in done.stdout
    done = run("explain", file, "--header", "x-user-id=alice", "--not-ready", "reviews-v1")
    assert "decision  reply 503: the gate on upstream reviews-v1" in done.stdout
    done = run("explain", file, "--not-ready", "reviews-v9")
    assert done.returncode == 2
    assert "allowed: reviews-v1, reviews-v2" in done.stderr


def test_explain_uses_the_given_scheme_and_the_first_value_of_a_header(policy, file):
    match = {"scheme": {"exact": "https"}, "headers": {"x-a": {"exact": "1"}}}
    policy["releases"][0]["versions"][1] |= {"weight": 0, "match": [match]}
    file.write_text(yaml.safe_dump(policy))
    for arguments, version in (
        (["--scheme", "https", "--header", "x-a=1", "--header", "x-a=2"], "v2 (match)"),
        (["--scheme", "https", "--header", "x-a=2", "--header", "x-a=1"], "v1 (rotation)"),
        (["--header", "x-a=1"], "v1 (rotation)"),
    ):
        assert f"release   reviews: {version}" in run("explain", file, *arguments).stdout
    questions = [{"scheme": "https", "headers": {"X-A": values}} for values in ("1", ["1", "2"], ["2", "1"])]
    decisions = explain(file.parent, policy, questions)
    assert [each["assignments"][0]["version"] for each in decisions] == ["v2", "v2", "v1"]
