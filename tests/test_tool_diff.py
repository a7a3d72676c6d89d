"""`graygate diff`: what a new policy changes, and who moves."""

from __future__ import annotations

import json

import pytest

from harness.tool import run


@pytest.fixture
def diff(policy, tmp_path):
    """Compares the policy with one to which a function was applied. Returns the parsed JSON."""

    def compare(change, *arguments, old=policy, output="json"):
        new = json.loads(json.dumps(old))
        new = change(new) or new
        files = [tmp_path / "old.json", tmp_path / "new.json"]
        for file, document in zip(files, (old, new), strict=True):
            file.write_text(json.dumps(document))
        done = run("diff", *files, "--format", output, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout) if output == "json" else done.stdout

    return compare


def weigh(policy, first, second):
    versions = policy["releases"][0]["versions"]
    versions[0]["weight"], versions[1]["weight"] = first, second


def test_no_difference_is_told_and_ends_with_0(diff):
    found = diff(lambda policy: dict(reversed(policy.items())))
    assert (found["policies"], found["same"]) == ([], ["reviews"])
    assert diff(lambda _: None, output="text").endswith("no difference: reviews\n")


def test_a_raised_weight_moves_only_the_users_that_have_to_and_none_back(diff):
    [policy] = diff(lambda policy: weigh(policy, 70, 30), "--at", "2026-12-01T10:00:00Z")["policies"]
    assert policy["changes"] == [
        {"path": "releases[reviews].versions[v1].weight", "before": "90", "after": "70"},
        {"path": "releases[reviews].versions[v2].weight", "before": "10", "after": "30"},
    ]
    [moment] = policy["releases"][0]["moments"]
    assert moment["at"] == "2026-12-01T10:00:00Z"
    assert moment["versions"] == [
        {"version": "v1", "beforePercent": 90.0, "afterPercent": 70.0},
        {"version": "v2", "beforePercent": 10.0, "afterPercent": 30.0},
    ]
    moved = moment["moved"]
    assert moved["mustMovePercent"] == 20
    assert abs(moved["usersPercent"] - 20) < 0.5
    assert moved["movedBackUsers"] == 0
    assert policy["warnings"] == []


def test_moves_are_those_that_explain_tells(diff, policy, tmp_path):
    found = diff(lambda policy: weigh(policy, 70, 30), "--users", "500")
    [moment] = found["policies"][0]["releases"][0]["moments"]
    requests = "".join(json.dumps({"headers": {"x-user-id": f"user-{number}"}}) + "\n" for number in range(500))
    versions = []
    for name in ("old", "new"):
        done = run("explain", tmp_path / f"{name}.json", "--json", "--requests", "-", stdin=requests)
        versions.append([json.loads(line)["assignments"][0]["version"] for line in done.stdout.splitlines()])
    assert moment["moved"]["users"] == sum(before != after for before, after in zip(*versions, strict=True)) > 0


def test_each_later_step_of_both_schedules_is_compared(diff, policy):
    step = {"at": "2026-12-01T10:00:00Z", "weights": {"v1": 50, "v2": 50}}
    policy["releases"][0]["schedule"] = [step]

    def change(policy):
        last = {"at": "2026-12-02T10:00:00Z", "over": "1h", "weights": {"v1": 0, "v2": 100}}
        policy["releases"][0]["schedule"] = [last]

    [release] = diff(change, "--at", "2026-11-30T10:00:00Z")["policies"][0]["releases"]
    moments = {moment["at"]: moment for moment in release["moments"]}
    assert list(moments) == ["2026-11-30T10:00:00Z", "2026-12-01T10:00:00Z", "2026-12-02T11:00:00Z"]
    assert [moment["moved"]["mustMovePercent"] for moment in moments.values()] == [0, 40, 50]
    [release] = diff(change, "--at", "2026-12-01T11:00:00Z")["policies"][0]["releases"]
    assert len(release["moments"]) == 2


def test_another_order_of_the_versions_moves_users_back(diff, policy):
    for name in ("v3", "v4"):
        policy["upstreams"][f"reviews-{name}"] = {"cluster": name}
        policy["releases"][0]["versions"].append({"name": name, "upstream": f"reviews-{name}", "weight": 10})
    found = diff(lambda policy: policy["releases"][0]["versions"].reverse())["policies"][0]
    assert found["changes"] == [
        {"path": "the order of releases[reviews].versions", "before": "v1, v2, v3, v4", "after": "v4, v3, v2, v1"}
    ]
    assert found["releases"][0]["moments"][0]["moved"]["movedBackUsers"] > 0
    assert any("whose share does not fall" in warning for warning in found["warnings"])


def test_another_key_and_another_name_of_a_release_divide_users_again(diff):
    def key(policy):
        policy["releases"][0]["hashOn"] = [{"httpHeaderName": "x-account"}]

    [release] = diff(key)["policies"][0]["releases"]
    assert release["moments"][0]["moved"] is None
    assert "told apart by another key" in release["notes"][0]

    releases = diff(lambda policy: policy["releases"][0].update(name="ratings"))["policies"][0]["releases"]
    assert releases[0]["notes"] == ["New release: v1 90 %, v2 10 %"]
    assert "all users are divided again" in releases[1]["notes"][1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda upstream: upstream["readinessProbe"].update(periodSeconds=9), None),
        (lambda upstream: upstream.update(circuitBreaker={"consecutiveFailures": 9}), None),
        (lambda upstream: upstream.update(cluster="other"), "its cluster changes from reviews-v2 to other"),
        (
            lambda upstream: upstream["readinessProbe"].update(httpGet={"path": "/other"}),
            "its check asks for something else",
        ),
        (lambda upstream: upstream.pop("readinessProbe"), ...),
    ],
)
def test_readiness_is_kept_where_the_state_stays_the_same(diff, change, reason):
    found = diff(lambda policy: change(policy["upstreams"]["reviews-v2"]) and None)["policies"][0]
    lost = [(each["upstream"], each["reason"]) for each in found["readinessLost"]]
    if reason is None:
        assert (lost, found["readinessKept"]) == ([], ["reviews-v1", "reviews-v2"])
    elif reason is ...:
        assert (lost, found["readinessKept"]) == ([], ["reviews-v1"])
    else:
        assert (lost, found["readinessKept"]) == ([("reviews-v2", reason)], ["reviews-v1"])


def test_a_renamed_upstream_and_a_renamed_policy_lose_their_state(diff):
    def rename(policy):
        policy["upstreams"]["second"] = policy["upstreams"].pop("reviews-v2")
        policy["releases"][0]["versions"][1]["upstream"] = "second"

    lost = diff(rename)["policies"][0]["readinessLost"]
    assert lost == [{"upstream": "second", "reason": "it was named reviews-v2, and its state goes by its name"}]
    found = diff(lambda policy: policy.update(name="ratings"))["policies"][0]
    assert (found["name"], found["fate"], found["readinessKept"]) == ("ratings", "renamed", [])
    assert len(found["readinessLost"]) == 2
    assert "changes from reviews to ratings" in found["warnings"][0]


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        (lambda policy: policy["probes"].pop("readiness"), ["/readyz"]),
        (lambda policy: policy["probes"]["liveness"].update(path="/alive"), ["/livez"]),
        (lambda policy: policy.update(mode="off"), ["/livez", "/readyz"]),
        (lambda policy: policy.update(mode="shadow"), []),
        (lambda policy: policy["probes"]["readiness"].pop("checks"), []),
    ],
)
def test_a_probe_that_is_no_longer_answered_is_a_warning(diff, change, paths):
    warnings = diff(lambda policy: change(policy) and None)["policies"][0]["warnings"]
    found = [warning.partition(" is no longer answered at ")[2].partition(". ")[0] for warning in warnings]
    assert found == paths


def test_mode_rollout_and_rollback_are_told_in_words(diff, policy):
    policy["releases"][0]["rollback"] = {"failurePercent": 5}
    found = diff(lambda policy: policy.update(mode="shadow", rollout={"percent": 25}))["policies"][0]
    assert [effect.partition(":")[0] for effect in found["effects"]] == ["mode", "rollout"]
    assert found["effects"][0].startswith("mode: enforce -> shadow: ")
    assert found["effects"][1].startswith("rollout: 100 % -> 25 %: Fewer proxies")
    assert "it gets its users again" in found["warnings"][0]


def test_several_policies_are_matched_by_name(diff, policy):
    old = {"policies": [{**policy, "name": name, "hosts": [f"{name}.shop"]} for name in ("a", "b", "c")]}

    def change(document):
        a, b, c = document["policies"]
        weigh(b, 50, 50)
        return {"policies": [{**a, "name": "d"}, {**a, "name": "e", "hosts": ["e.shop"]}, b, c]}

    found = diff(change, old=old)
    fates = {each["name"]: each["fate"] for each in found["policies"]}
    assert fates == {"d": "new", "e": "new", "b": "changed", "a": "removed"}
    assert found["same"] == ["c"]
    found = diff(change, "--policy-name", "b", old=old)
    assert [each["name"] for each in found["policies"]] == ["b"]


def test_the_mode_of_the_document_counts(diff, policy):
    old = {"policies": [{**policy, "hosts": ["a.shop"]}]}
    found = diff(lambda document: {"mode": "off", **document}, old=old)["policies"][0]
    assert (found["changes"], found["effects"][0].partition(": The")[0]) == ([], "mode: enforce -> off")


def test_text_and_markdown_have_the_same_facts(diff):
    def change(policy):
        weigh(policy, 70, 30)
        policy["probes"].pop("liveness")
        policy["upstreams"]["reviews-v2"]["cluster"] = "a|b"

    arguments = ["--at", "2026-12-01T10:00:00Z", "--users", "1000"]
    facts = diff(change, *arguments)["policies"][0]["releases"][0]["moments"][0]["moved"]
    text = diff(change, *arguments, output="text")
    markdown = diff(change, *arguments, output="markdown")
    assert f"{facts['users']} of 1000 users move ({facts['usersPercent']} %), 20 % have to; 0 move back" in text
    assert "    2026-12-01T10:00:00Z  v1 90 % -> 70 %, v2 10 % -> 30 %\n" in text
    assert "    lost: reviews-v2: its cluster changes from reviews-v2 to a|b\n" in text
    shares = "v1 90 % -> 70 %, v2 10 % -> 30 %"
    row = f"| 2026-12-01T10:00:00Z | {shares} | {facts['users']} ({facts['usersPercent']} %) | 20 % | 0 |\n"
    assert row in markdown
    assert r"its cluster changes from reviews-v2 to a\|b" in markdown
    # Each row of a table has as many cells as its head.
    for table in markdown.split("\n\n"):
        cells = {line.replace(r"\|", "").count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(cells) <= 1, table


def test_a_wrong_policy_and_two_dashes_are_refused(tmp_path, policy):
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.json"
    wrong.write_text("name: A B\n")
    right.write_text(json.dumps(policy))
    done = run("diff", right, wrong)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{wrong}:1:7: name: " in done.stderr
    wrong.write_text("name: [\n")
    assert f"{wrong}:1:7: not YAML: " in run("diff", wrong, right).stderr
    assert run("diff", "-", "-", stdin=json.dumps(policy)).returncode == 2
    assert run("diff", right, tmp_path / "missing").returncode == 3
    assert run("diff", right, "-", stdin=json.dumps(policy)).returncode == 0
    done = run("diff", right, right, "--policy-name", "revews")
    assert (done.returncode, 'did you mean "reviews"?' in done.stderr) == (2, True)
