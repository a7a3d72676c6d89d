"""Drains: an order from an allowed address, or an upstream that drains, fails readiness in all workers.

`tests/worlds/lifecycle.rs` covers the effects of an order and how long they last, and `tests/worlds/drains.rs` what an
upstream tells, and in which order probes fail.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from harness.client import get, get2
from harness.config import bootstrap, cluster
from harness.envoy import Envoy
from harness.load import Load, Request
from harness.ports import free_port
from harness.probe import all_pass, all_say, document, status, text
from harness.wait import until, until_all

DRAINING = "policy reviews: draining\n"
NOT_DRAINING = "policy reviews: not draining\n"
ALICE = {"x-user-id": "alice"}


@pytest.fixture
def switched(policy):
    policy["probes"]["drain"] = {"path": "/drainz"}
    return policy


def order(envoy, method="POST", headers=(), **options):
    return get(envoy.port(), "/drainz", headers, method, **options)


def orders_from(policy, *networks):
    policy["probes"]["drain"] = {"path": "/drainz", "from": list(networks)}
    return policy


def test_a_drain_order_fails_readiness_in_all_workers_until_it_is_cancelled(start, switched, v1):
    switched["probes"]["startup"] = {"path": "/startupz", "checks": [{"upstream": "reviews-v1"}]}
    envoy = start(switched, concurrency=4)
    all_pass(envoy)
    assert (order(envoy, "GET").status, order(envoy, "GET").text) == (200, NOT_DRAINING)
    assert (order(envoy).status, order(envoy).text) == (200, DRAINING)
    all_say(envoy, 503)
    assert "[+]reviews-v1 ok\n[-]drain failed: draining\npolicy reviews: readiness failed" in text(envoy)
    assert (document(envoy)["status"], document(envoy)["output"]) == ("fail", "draining")
    assert {status(envoy, path) for path in ("/livez", "/startupz", "/readyz/reviews-v1")} == {200}
    assert {order(envoy, "GET").text for _ in range(20)} == {DRAINING}
    assert (order(envoy, "DELETE").text, order(envoy, "DELETE").status) == (NOT_DRAINING, 200)
    all_pass(envoy)
    assert v1.requests == 0
    lines = [line.rpartition("policy ")[2] for line in envoy.logs().splitlines() if "draining" in line]
    assert lines == ["reviews: draining", "reviews: no longer draining"]


def test_a_drain_order_can_have_a_query_and_a_body_and_use_http2(start, switched):
    envoy = start(switched)
    assert get2(envoy.port(), "/drainz?why=deploy", method="POST", body=b"x" * 10_000).text == DRAINING
    all_say(envoy, 503)
    assert get2(envoy.port(), "/drainz", method="DELETE").text == NOT_DRAINING


def test_a_drain_survives_policy_updates_until_the_policy_no_longer_has_the_switch(start, switched):
    envoy = start(switched, delivery="ecds")
    all_pass(envoy)
    order(envoy)
    all_say(envoy, 503)
    switched["probes"]["liveness"]["statuses"] = {"passed": 201}
    with Load(envoy.port(), [Request("/readyz")], rate=200) as load:
        assert envoy.publish(switched) == ""
        all_say(envoy, 201, "/livez")
    assert {answer.status for answer in load.answers} == {503}
    drain = switched["probes"].pop("drain")
    assert envoy.publish(switched) == ""
    all_say(envoy, 200)
    assert order(envoy, headers=ALICE).version == "v1"
    until(lambda: "no longer draining" in envoy.logs(), what="the end of the drain")
    switched["probes"]["drain"] = drain
    assert envoy.publish(switched) == ""
    until_all(lambda: order(envoy, "GET").text == NOT_DRAINING, what="the switch back, and off")
    assert status(envoy) == 200


def test_a_refused_update_does_not_end_a_drain(start, switched):
    envoy = start(switched, delivery="lds")
    assert order(envoy).status == 200
    all_say(envoy, 503)
    without = {name: probe for name, probe in switched["probes"].items() if name != "drain"}
    assert envoy.put("./lds.json", envoy.config.refused({**switched, "probes": without})) != ""
    assert order(envoy, "GET").text == DRAINING
    assert "no longer draining" not in envoy.logs()


# -- Envoy's own drain ------------------------------------------------------------


@pytest.fixture
def follows(policy, v1, v2):
    """`envoy = follows(readinessAfter="1h")`: an Envoy whose policy drains with it, as its `/ready` tells."""
    policy["upstreams"]["envoy"] = {
        "cluster": "admin",
        "readinessProbe": {"httpGet": {"path": "/ready"}, "periodSeconds": 0.2, "failureThreshold": 1},
    }
    policy["probes"]["groups"] = {"lb": {"path": "/lbz"}}
    with ExitStack() as stack:

        def start_following(**drain):
            policy["probes"]["drain"] = {"path": "/drainz", "alsoWhen": {"upstream": "envoy"}, **drain}
            admin = free_port()
            ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
            config = bootstrap(policy, ports, clusters=[cluster("admin", admin)]).document()
            config["admin"]["address"]["socket_address"]["port_value"] = admin
            return stack.enter_context(Envoy(config, concurrency=4))

        yield start_following


def drains(envoy):
    """Returns the lines of the log about the drain, without what stands before them."""
    lines = [line.partition("policy ")[2] for line in envoy.logs().splitlines()]
    return [line for line in lines if line.startswith("reviews: ") and "draining" in line]


def test_readiness_follows_envoys_own_drain_and_its_end(follows):
    envoy = follows()
    all_pass(envoy)
    assert order(envoy, "GET").text == NOT_DRAINING
    for _ in range(2):
        envoy.admin("/healthcheck/fail", "POST")
        all_say(envoy, 503)
        assert "[-]drain failed: draining (upstream envoy)\n" in text(envoy)
        assert document(envoy)["output"] == "draining (upstream envoy)"
        assert {status(envoy, path) for path in ("/livez", "/lbz", "/")} == {200}
        assert order(envoy, "GET").text == "policy reviews: draining (upstream envoy)\n"
        envoy.admin("/healthcheck/ok", "POST")
        all_say(envoy, 200)
    lines = ["reviews: draining (upstream envoy)", "reviews: no longer draining"]
    until(lambda: drains(envoy) == 2 * lines, what="a line for each beginning and end")
    assert [envoy.counter("graygate_lifecycle_changes_total", to=to) for to in ("draining", "not-draining")] == [2, 2]


def test_an_order_to_end_what_envoy_began_is_answered_409(follows):
    envoy = follows()
    all_pass(envoy)
    order(envoy)
    envoy.admin("/healthcheck/fail", "POST")
    both = "policy reviews: draining (by order, and upstream envoy)\n"
    until_all(lambda: order(envoy, "GET").text == both, what="both reasons")
    answer = order(envoy, "DELETE")
    assert answer.status == 409
    assert answer.text == "policy reviews: still draining (upstream envoy). DELETE takes back only an order\n"
    until_all(lambda: order(envoy, "GET").text == "policy reviews: draining (upstream envoy)\n", what="one reason")
    envoy.admin("/healthcheck/ok", "POST")
    all_say(envoy, 200)


@pytest.mark.parametrize("path", ["/drainz", "/healthcheck/fail"])
def test_the_groups_of_a_drain_fail_long_before_readiness(follows, path):
    envoy = follows(groups=["lb"], readinessAfter="1h")
    all_pass(envoy)
    if path == "/drainz":
        assert "; readiness fails in 3" in order(envoy).text
    else:
        envoy.admin(path, "POST")
    all_say(envoy, 503, "/lbz")
    assert text(envoy, "/lbz").startswith("[-]drain failed: draining")
    assert {status(envoy) for _ in range(20)} == {200}
    assert "; readiness fails in 3" in order(envoy, "GET").text


def test_readiness_fails_after_its_delay(follows):
    envoy = follows(groups=["lb"], readinessAfter="0.5s")
    all_pass(envoy)
    order(envoy)
    all_say(envoy, 503, "/lbz")
    all_say(envoy, 503)
    assert order(envoy, "GET").text == DRAINING
    assert order(envoy, "DELETE").text == NOT_DRAINING
    all_say(envoy, 200)
    all_say(envoy, 200, "/lbz")


def test_an_upstream_that_refuses_connections_is_no_drain(start, policy):
    policy["probes"]["drain"] = {"alsoWhen": {"upstream": "reviews-v2"}}
    policy["upstreams"]["reviews-v2"]["cluster"] = "gone"
    envoy = start(policy, clusters=[cluster("gone", free_port())])
    until(lambda: envoy.transitions(upstream="reviews-v2", to="not-ready"), what="not reachable")
    until_all(lambda: status(envoy) == 200, what="readiness")
    assert drains(envoy) == []


# -- who may ------------------------------------------------------------------------


def test_drain_orders_from_other_addresses_are_refused(start, switched):
    envoy = start(orders_from(switched, "10.0.0.0/8", "127.0.0.2/32"))
    for method in ["POST", "DELETE", "GET", "HEAD", "PUT"]:
        answer = order(envoy, method)
        assert answer.status == 403, method
    assert order(envoy, "POST").text == "policy reviews: drain refused: 127.0.0.1 is not in drain.from\n"
    assert order(envoy, "GET", source="127.0.0.2").text == NOT_DRAINING
    assert order(envoy, "POST", source="127.0.0.2").text == DRAINING
    all_say(envoy, 503)
    assert order(envoy, "DELETE").status == 403
    assert order(envoy, "GET", source="127.0.0.2").text == DRAINING


def detection(name, **settings):
    package = f"type.googleapis.com/envoy.extensions.http.original_ip_detection.{name}.v3"
    kind = {"xff": "XffConfig", "custom_header": "CustomHeaderConfig"}[name]
    extension = {"name": name, "typed_config": {"@type": f"{package}.{kind}", **settings}}
    return {"original_ip_detection_extensions": [extension]}


LOOPBACK = {"cidrs": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}
MANAGERS = {
    "default": {},
    "skips-append": {"skip_xff_append": True},
    "trusts-a-hop": {"xff_num_trusted_hops": 1},
    "remote": {"use_remote_address": True},
    "remote-skips-append": {"use_remote_address": True, "skip_xff_append": True},
    "remote-trusts-a-hop": {"use_remote_address": True, "xff_num_trusted_hops": 1},
    "remote-trusts-a-hop-skips-append": {
        "use_remote_address": True,
        "xff_num_trusted_hops": 1,
        "skip_xff_append": True,
    },
    "xff-extension": detection("xff", xff_num_trusted_hops=1),
    "xff-extension-trusts-networks": detection("xff", xff_trusted_cidrs=LOOPBACK),
    "header-extension": detection(
        "custom_header", header_name="x-real-ip", allow_extension_to_set_address_as_trusted=True
    ),
}


def spoofed(address):
    forms = ["{0}", " {0} ", "{0}:0", "{0}:4711", "::ffff:{0}", "[::ffff:{0}]:4711", "unix://{0}"]
    forms += ["{0}, {0}", "192.0.2.1, {0}", "{0}, 192.0.2.1", "192.0.2.1,{0},127.0.0.1", "{0}, 127.0.0.1"]
    entries = [form.format(address) for form in forms]
    names = ["x-forwarded-for", "x-real-ip", "x-envoy-external-address", "x-client-ip", "forwarded"]
    yield from ({name: entry} for name in names[:2] for entry in entries)
    yield dict.fromkeys(names, address)
    yield [("x-forwarded-for", address), ("x-forwarded-for", address), ("x-forwarded-for", "127.0.0.1")]


@pytest.mark.parametrize("manager", MANAGERS.values(), ids=MANAGERS)
def test_headers_do_not_change_the_source_of_a_drain_order(start, switched, manager):
    """This holds even if the proxy trusts the header, because anyone who can send it could drain."""
    envoy = start(orders_from(switched, "10.0.0.0/8", "127.0.0.2/32", "::ffff:0:0/96"), hcm=manager)
    for address in ["10.0.0.1", "127.0.0.2"]:
        for headers in spoofed(address):
            assert order(envoy, headers=headers).status == 403, headers
    assert order(envoy, "GET", source="127.0.0.2").text == NOT_DRAINING


def test_an_allowed_source_can_send_address_headers_that_the_proxy_ignores(start, switched):
    envoy = start(switched, hcm=MANAGERS["remote"])
    for headers in spoofed("192.0.2.1"):
        assert order(envoy, headers=headers).text == DRAINING, headers


@pytest.fixture
def behind_proxy_protocol(switched, v1, v2):
    """An Envoy whose listener accepts connections with and without the PROXY protocol."""
    ports = {"reviews-v1": v1.port, "reviews-v2": v2.port}
    tree = bootstrap(orders_from(switched, "10.0.0.0/8"), ports).document()
    kind = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
    taken = {"@type": kind, "allow_requests_without_proxy_protocol": True}
    [listener] = tree["static_resources"]["listeners"]
    listener["listener_filters"] = [{"name": "proxy", "typed_config": taken}]
    with Envoy(tree) as envoy:
        yield envoy


def proxied(address):
    return f"PROXY TCP4 {address} 127.0.0.1 4711 80\r\n".encode()


def test_the_source_is_the_address_in_the_proxy_protocol(behind_proxy_protocol):
    envoy = behind_proxy_protocol
    assert order(envoy, preamble=proxied("10.0.0.1")).text == DRAINING
    told = proxied("10.255.255.255")
    until_all(lambda: order(envoy, "GET", preamble=told).text == DRAINING, what="draining")
    for other in ["127.0.0.1", "192.0.2.1", "11.0.0.1"]:
        assert (
            order(envoy, preamble=proxied(other)).text
            == f"policy reviews: drain refused: {other} is not in drain.from\n"
        )
    for none in [b"", b"PROXY UNKNOWN\r\n"]:
        assert order(envoy, preamble=none).text == "policy reviews: drain refused: 127.0.0.1 is not in drain.from\n"
    for headers in spoofed("10.0.0.1"):
        assert order(envoy, headers=headers, preamble=proxied("192.0.2.1")).status == 403, headers
