"""The Dockerfiles and the compose files, used as the documents tell to use them.

`.ci/docker` runs this file in a docker of its own, with local images in place of the official ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness.client import get
from harness.envoy import PROJECT
from harness.wait import until, until_all

# Debian's, as another docker in PATH may lack the plugin for BuildKit.
DOCKER = "/usr/bin/docker"
# Another release is tried by COMPOSE=/path/to/docker-compose.
COMPOSE = os.environ.get("COMPOSE", "/usr/bin/docker-compose")
PORT, PLAIN, ADMIN = 10000, 10001, 9901
COMMIT = "0123456789"
USERS = [f"user-{number}" for number in range(200)]
# What a checkout has of what docker is given. The test edits the policy in a copy.
CHECKOUT = (
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "build.rs",
    "compose.yaml",
    ".dockerignore",
    ".ci",
    "envoy",
    "src",
    "tests/data",
)


def run(*command, cwd=PROJECT, timeout=120.0):
    """Runs a command and returns its output. The message of a failure has what the command printed."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of what docker is given, without a module that was built outside."""
    place = tmp_path_factory.mktemp("checkout") / "graygate"
    place.mkdir()
    for name in CHECKOUT:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, place / name)
    # The users of the containers are others than the one who runs the tests.
    for directory in place.parents:
        if directory.is_relative_to(tmp_path_factory.getbasetemp().parent):
            directory.chmod(0o755)
    return place


@pytest.fixture(scope="session")
def built(checkout):
    """Builds all stages, as the first comment of the Dockerfile tells to, and returns the checkout."""
    commit = f"GRAYGATE_COMMIT={COMMIT}"
    run(DOCKER, "build", "-t", "graygate", "--build-arg", commit, ".", cwd=checkout, timeout=3600)
    run(
        DOCKER,
        "build",
        "-t",
        "graygate-tool",
        "--target",
        "tool",
        "--build-arg",
        commit,
        ".",
        cwd=checkout,
        timeout=600,
    )
    return checkout


class Project:
    """Containers that a compose file has started."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.users: dict[str, str] = {}
        self.policy = file.parent / ("graygate.yaml" if file.parent.name == "envoy" else "envoy/graygate.yaml")

    def compose(self, *words):
        return run(COMPOSE, "-f", self.file, *words, timeout=300)

    def container(self, service):
        return self.compose("ps", "--all", "--quiet", service).strip()

    def state(self, service):
        (found,) = json.loads(run(DOCKER, "inspect", self.container(service)))
        return {**found["State"], "restarts": found["RestartCount"]}

    def healthy(self, service="envoy"):
        return self.state(service)["Health"]["Status"] == "healthy"

    def kill(self, service):
        """Kills the container's first process from outside, as the kernel does when memory is short."""
        state = self.state(service)
        assert state["Running"], f"{service}: {state}"
        os.kill(state["Pid"], signal.SIGKILL)

    def log(self, service="envoy"):
        """Returns the log without the lines of the access log."""
        lines = self.compose("logs", "--no-color", service).split("\n")
        return "\n".join(line for line in lines if '"details":' not in line)


def versions(users=USERS):
    """Returns who gets which version. A response of anything but the demo service counts by its status."""
    responses = {user: get(PORT, headers={"x-user-id": user}) for user in users}
    return {user: response.version or str(response.status) for user, response in responses.items()}


def readiness():
    return get(PORT, "/readyz?verbose").text


def settled():
    """Waits until all workers know that both versions are ready, and returns who gets which version."""
    until_all(lambda: "readiness passed;" in readiness(), 60, "both versions are ready")

    def unchanged():
        users = versions()
        return users if set(users.values()) == {"v1", "v2"} and users == versions() else None

    return until(unchanged, 30, "each user has a version")


def back(project):
    """Waits until each user has the version from the start again."""
    until_all(lambda: "readiness passed;" in readiness(), 60, "both versions are ready again")
    until(lambda: versions() == project.users, 30, "each user has the version from the start")


@pytest.fixture(scope="module", params=["envoy/docker-compose.yaml", "compose.yaml"])
def project(request, checkout):
    """The demo, started by each of the two files. Only the one whose modules are built outside gets dist/."""
    if request.param == "compose.yaml":
        request.getfixturevalue("built")
        assert not (checkout / "dist").exists()
    else:
        shutil.copytree(PROJECT / "dist", checkout / "dist", ignore=shutil.ignore_patterns("image*", "release*"))
    file = checkout / request.param
    before = (checkout / "envoy/graygate.yaml").read_bytes()
    project = Project(file)
    project.compose("up", "-d")
    try:
        project.users = settled()
        yield project
    finally:
        project.compose("down", "--timeout", "5")
        (checkout / "envoy/graygate.yaml").write_bytes(before)
        shutil.rmtree(checkout / "dist", ignore_errors=True)


@pytest.fixture(autouse=True)
def _log_of_a_failed_test(request):
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed and "project" in request.fixturenames:
        print(request.getfixturevalue("project").log(), file=sys.stderr)


def test_the_proxy_answers_the_probes(project):
    assert get(PORT, "/livez").status == 200
    until(lambda: get(PORT, "/startupz").status == 200, 20, "each worker knows that v1 has started")
    ready = get(PORT, "/readyz?verbose")
    assert ready.status == 200
    assert ready.text.startswith("[+]reviews-v1 ok\n[+]reviews-v2 ok\n")
    # Without the filter, the service gets the same request.
    assert get(PLAIN, "/livez").version == "v1"


def test_the_healthcheck_of_compose_passes(project):
    for service in ("envoy", "reviews-v1", "reviews-v2"):
        until(lambda: project.healthy(service), 60, f"{service} is healthy")


def test_a_user_stays_on_a_version_and_a_tenth_get_the_new_one(project):
    shares = Counter(project.users.values())
    # 200 users are a sample of all: 20 are expected on v2, with a standard deviation of 4.2.
    assert 5 <= shares["v2"] <= 40
    assert versions() == project.users


def test_a_gate_answers_while_the_container_of_its_upstream_is_down(project):
    project.compose("kill", "reviews-v1")

    def blocked():
        # Until a worker knows, Envoy itself answers 503, and says that it could not connect.
        response = get(PORT, headers={"x-user-id": "user-0"})
        return (
            response.status == 503
            and "upstream reviews-v1 is not ready" in response.text
            and response.headers["retry-after"]
        )

    until_all(blocked, 30, "the gate answers on each worker")
    until_all(lambda: get(PORT, "/readyz").status == 503, 20, "readiness fails on each worker")
    assert get(PORT, "/livez").status == 200
    project.compose("start", "reviews-v1")
    back(project)


def test_users_of_a_version_whose_container_died_get_the_default_one_until_it_is_back(project):
    moved = [user for user, version in project.users.items() if version == "v2"]
    restarts = project.state("reviews-v2")["restarts"]
    project.compose("kill", "reviews-v2")
    until(lambda: set(versions(moved).values()) == {"v1"}, 30, "v1 serves the users of v2")
    until_all(lambda: "[-]reviews-v2 failed" in readiness(), 20, "each worker knows")
    project.compose("start", "reviews-v2")
    back(project)
    assert project.state("reviews-v2")["restarts"] == restarts


@pytest.mark.parametrize("service", ["envoy", "reviews-v1", "reviews-v2"])
def test_a_container_whose_process_is_killed_starts_again_and_all_is_as_before(project, service):
    restarts = project.state(service)["restarts"]
    project.kill(service)
    until(lambda: project.state(service)["restarts"] == restarts + 1, 30, f"docker starts {service} again")
    back(project)
    # It stays up: one death is one restart.
    assert project.state(service)["restarts"] == restarts + 1
    assert project.state(service)["Running"]


def test_all_containers_are_as_before_after_a_restart_of_compose(project):
    project.compose("restart", "--timeout", "5")
    back(project)


def accepted():
    stats = get(ADMIN, "/stats?filter=extension_config_discovery.*config_(reload|fail)$").text
    return Counter(
        {line.partition(": ")[0].rpartition(".")[2]: int(line.partition(": ")[2]) for line in stats.split("\n") if line}
    )


def edit(project, change):
    """Edits a copy and moves it into the place of the policy, as the comment in the file tells to."""
    copy = project.policy.with_name("next.yaml")
    copy.write_text(change(project.policy.read_text()))
    copy.rename(project.policy)


def test_a_policy_that_is_edited_takes_effect_without_a_restart(project):
    started = project.state("envoy")["StartedAt"]
    text = project.policy.read_text()
    raised = text.replace('"weight": 90', '"weight": 50').replace('"weight": 10', '"weight": 50')
    assert raised != text
    edit(project, lambda _: raised)
    until(lambda: Counter(versions().values())["v2"] > 60, 20, "half of the users get v2")
    after = settled()
    assert all(after[user] == "v2" for user in USERS if project.users[user] == "v2"), "nobody moves back"
    # A wrong one is refused, and the one before stays in effect.
    edit(project, lambda policy: policy.replace('"weight": 50', '"wieght": 50'))
    until(lambda: accepted()["config_fail"] > 0, 20, "Envoy refuses the wrong policy")
    assert "wieght" in project.log()
    assert versions() == after
    edit(project, lambda _: text)
    back(project)
    assert project.state("envoy")["StartedAt"] == started


def test_nothing_runs_as_root_and_ports_are_open_on_the_loopback_alone(project):
    for service in ("envoy", "reviews-v1", "reviews-v2"):
        (found,) = json.loads(run(DOCKER, "inspect", project.container(service)))
        uids = {
            line.split()[0]
            for line in run(DOCKER, "top", project.container(service), "-eo", "uid,pid").split("\n")[1:]
            if line
        }
        assert "0" not in uids, f"{service} has a process of root"
        bindings = [each for ports in found["NetworkSettings"]["Ports"].values() for each in ports or []]
        assert {each["HostIp"] for each in bindings} <= {"127.0.0.1"}
        assert found["HostConfig"]["ReadonlyRootfs"]
        if service != "envoy":
            assert not bindings, "the versions are reached through Envoy alone"


def test_the_image_holds_both_modules_and_the_tool(built):
    listed = run(
        DOCKER, "run", "--rm", "--entrypoint", "sh", "graygate", "-c", "cd /graygate && sha256sum dist/* && id -u"
    )
    sums = {Path(name).name: digest for digest, name in (line.split() for line in listed.strip().split("\n")[:-1])}
    assert set(sums) == {"graygate.wasm", "graygate-requests.wasm"}
    assert listed.strip().split("\n")[-1] == "101"
    said = run(DOCKER, "run", "--rm", "graygate", "graygate", "--version")
    assert COMMIT in said


def test_the_modules_can_be_written_into_a_directory(built, tmp_path):
    commit = f"GRAYGATE_COMMIT={COMMIT}"
    run(
        DOCKER, "build", "--target", "modules", "--output", tmp_path, "--build-arg", commit, ".", cwd=built, timeout=600
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graygate-requests.wasm", "graygate.wasm"]
    for path in tmp_path.iterdir():
        module = path.read_bytes()
        assert module.startswith(b"\0asm")
        assert COMMIT.encode() in module


def test_the_image_of_the_tool_checks_a_policy(built, tmp_path):
    tmp_path.chmod(0o755)
    policy = yaml.safe_load((PROJECT / "envoy/graygate.yaml").read_text())["resources"][0]
    (tmp_path / "policy.json").write_text(policy["typed_config"]["config"]["configuration"]["value"])
    mount = f"{tmp_path}:/work:ro"
    said = run(DOCKER, "run", "--rm", "-v", mount, "graygate-tool", "check", "policy.json")
    assert "policy reviews: no problems" in said
    piped = subprocess.run(
        [DOCKER, "run", "--rm", "-i", "graygate-tool", "check", "-"],
        input="name: 5",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert piped.returncode == 1


def test_docker_gets_only_what_the_dockerfile_builds_from(built):
    sent = run(DOCKER, "run", "--rm", "--entrypoint", "ls", "graygate", "-a", "/graygate", "/graygate/envoy").split()
    assert {"docker.sed", "envoy.yaml", "graygate.yaml"} <= set(sent)
    assert not {".git", "src", "target", ".venv", "harness"} & set(sent)


@pytest.mark.parametrize("module", ["graygate", "graygate-requests"])
def test_the_image_for_istio_has_the_module_as_its_only_file(module, tmp_path):
    name = f"istio-{module}"
    file = PROJECT / "istio/image/Dockerfile"
    run(DOCKER, "build", "-f", file, "--build-arg", f"MODULE={module}", "-t", name, PROJECT / "dist")
    container = run(DOCKER, "create", name, "none").strip()
    run(DOCKER, "cp", f"{container}:/plugin.wasm", tmp_path)
    run(DOCKER, "rm", container)
    assert (tmp_path / "plugin.wasm").read_bytes() == (PROJECT / f"dist/{module}.wasm").read_bytes()
    (found,) = json.loads(run(DOCKER, "image", "inspect", name))
    assert len(found["RootFS"]["Layers"]) == 1


def test_an_envoy_of_your_own_configuration_runs_from_the_image(built, tmp_path):
    """The command in the Dockerfile's comment, with a configuration that the image's tool has rendered."""
    tmp_path.chmod(0o755)
    (tmp_path / "policy.yaml").write_text("name: own\nprobes: {liveness: {path: /alive}}\n")
    render = ["render", "policy.yaml", "--kind", "envoy", "--bootstrap", "--module", "dist/{module}.wasm"]
    mount = f"{tmp_path}:/work:ro"
    rendered = run(DOCKER, "run", "--rm", "-v", mount, "graygate-tool", *render)
    (tmp_path / "envoy.yaml").write_text(rendered)
    checked = run(
        DOCKER,
        "run",
        "--rm",
        "-v",
        f"{tmp_path}:/etc/graygate:ro",
        "graygate",
        "envoy",
        "--mode",
        "validate",
        "-c",
        "/etc/graygate/envoy.yaml",
    )
    assert "OK" in checked


def test_both_compose_files_start_the_same_service(checkout):
    """Of the two, only the image and the place of the modules differ."""
    files = [
        yaml.safe_load((checkout / name).read_text())["services"]["envoy"]
        for name in ("compose.yaml", "envoy/docker-compose.yaml")
    ]
    for key in ("ports", "healthcheck", "read_only", "cap_drop", "security_opt", "restart", "init"):
        assert files[0][key] == files[1][key], key
