// Which calls a request makes of its host, exactly: they are most of what the filter costs a request that it lets
// pass. Each budget is what a request of this kind has to ask, and holds whatever else the policy says.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Proxy, Vm } from "./host.mjs";
import { checked, forced, kubelet, others, policy, release, request, response, teams, whole } from "./policies.mjs";

const RELEASES = [1, 500];

/** The filter's only worker, with its policy in use: ticks have passed, and every check has its answer. */
function worker(policy, status = 200) {
  const vm = new Vm(new Proxy({ answer: () => status }));
  const root = vm.configure(policy);
  vm.proxy.pass(3000);
  return { vm, root };
}

/** More than the responses of a version that are looked at in the beginning. */
const INSPECTED = 50;

/**
 * The calls of one request, and its stream. Not of the first of its kind, which also defines the counter that it is
 * the first to need, and of which the filter looks at where their routes led; those after these are all the same.
 */
function calls({ vm, root }, request, answer, options) {
  const one = () => {
    vm.takeCalls();
    const stream = vm.stream(root, options).exchange(request, answer);
    return { stream, calls: vm.takeCalls() };
  };
  for (let number = 0; number < INSPECTED; number += 1) one();
  const [second, third] = [one(), one()];
  assert.deepEqual(second.calls.shape, third.calls.shape, "each request of a kind makes the same calls");
  return third;
}

/** At most so many calls that return bytes, and so many others; any number of these if not given. */
function within(calls, what, bytes, others = Infinity) {
  const most = `${bytes} calls that return bytes${others < Infinity ? ` and ${others} others` : ""}`;
  assert.ok(
    calls.bytes <= bytes && calls.others <= others,
    `${what}: at most ${most}; got ${calls.bytes} and ${calls.others}:\n${calls}`,
  );
}

/** Every call that returns no bytes is one of these, each at most once. */
function only(calls, names) {
  const free = [...names];
  for (const call of calls.list.filter((call) => !call.bytes)) {
    const place = free.indexOf(call.name);
    assert.ok(place >= 0, `no call but ${names.join(", ")} beside those that return bytes; got:\n${calls}`);
    free.splice(place, 1);
  }
}

const none = (calls, what) => within(calls, what, 0, 0);

/** The same test with few releases and with many, none of which is for the request; and that both cost the same. */
function costs(name, measure) {
  for (const count of RELEASES) {
    test(`${name}, ${count === 1 ? "one release" : `${count} releases`}`, (context) => {
      const { calls, check } = measure(count);
      context.diagnostic(`${name}, ${count}: ${calls.summary}`);
      check();
    });
  }
  test(`${name}: the same calls with ${RELEASES.join(" as with ")} releases`, () => {
    const [few, many] = RELEASES.map((count) => measure(count).calls.shape);
    assert.deepEqual(many, few);
  });
}

const READY = { "ready by the operator's word": forced("ready"), "ready by its checks": checked };

for (const [how, app] of Object.entries(READY)) {
  costs(`a request that is let pass, its gate ${how}`, (count) => {
    const at = worker(policy({ app, releases: others(count) }));
    const { stream, calls: made } = calls(at, request("/orders/17"), response());
    const check = () => {
      assert.equal(stream.reply, undefined);
      within(made.in("request"), "the request", 1);
      none(made.in("response", "end"), "the response and the end");
    };
    return { calls: made, check };
  });
}

/** The headers that are read by their names, and those of them that are not there. */
function named({ list }) {
  const read = list.filter(({ name }) => name === "proxy_get_header_map_value");
  const about = (calls) => calls.map(({ about }) => about);
  return { all: about(read), missed: about(read.filter(({ bytes }) => !bytes)) };
}

costs("of a request that is let pass by its path, only the path is handed over", (count) => {
  const at = worker(policy({ releases: others(count) }));
  const { stream, calls: made } = calls(at, request("/orders/17"), response());
  const check = () => {
    assert.equal(stream.reply, undefined);
    within(made, "the whole stream", 1, 1);
    const { all, missed } = named(made);
    // Beside the path, whether it came with a steer header that nobody trusts.
    assert.match(all.join(), /:path.*x-gray-version/);
    assert.match(missed.join(), /x-gray-version/);
    assert.deepEqual([all.length, missed.length], [2, 1]);
  };
  return { calls: made, check };
});

test("a steer header that nobody trusts is removed from a request whose path is read alone", () => {
  const at = worker(policy());
  calls(at, request("/orders/17"), response());
  at.vm.takeCalls();
  const stream = at.vm.stream(at.root).exchange(request("/orders/17", [["x-gray-version", "v2"]]), response());
  assert.match(named(at.vm.takeCalls()).all.join(), /:path.*x-gray-version/);
  assert.ok(!new Map(stream.request).has("x-gray-version"));
});

test("requests that need more than the path cost one more call that returns bytes, until the worker has learnt it", () => {
  const at = worker(policy());
  calls(at, request("/orders/17"), response());
  const bytes = Array.from({ length: 20 }, () => {
    at.vm.takeCalls();
    at.vm.stream(at.root).exchange(kubelet("/livez"));
    return at.vm.takeCalls().bytes;
  });
  const first = bytes.indexOf(1);
  assert.ok(first >= 0 && first <= 5, bytes.join());
  assert.ok(bytes.slice(0, first).every((count) => count === 2) && bytes.slice(first).every((count) => count === 1));
});

test("of a worker that gets few requests by the path alone, each costs one call that returns bytes", () => {
  const at = worker(policy());
  for (let number = 0; number < 60; number += 1) {
    const asked = number % 3 ? request("/orders/17") : kubelet("/livez");
    at.vm.takeCalls();
    at.vm.stream(at.root).exchange(asked, response());
    assert.equal(at.vm.takeCalls().bytes, 1);
  }
});

costs("a sticky split", (count) => {
  const reviews = release("reviews", { uri: { prefix: "/reviews" } });
  const at = worker(policy({ releases: [...others(count - 1), reviews] }));
  const { stream, calls: made } = calls(at, request("/reviews/7", [["x-user", "alice"]]), response());
  const check = () => {
    assert.match(new Map(stream.request).get("x-gray-version") ?? "", /^v[12]$/);
    within(made, "the whole stream", 2, 2);
  };
  return { calls: made, check };
});

/** More headers than are handed over at once, so that each is asked for by its name. */
const MANY = Array.from({ length: 40 }, (_, number) => [`x-more-${number}`, "more"]);

costs("a request with many headers that is let pass", (count) => {
  const at = worker(policy({ releases: others(count) }));
  const { stream, calls: made } = calls(at, request("/orders/17", MANY), response());
  const check = () => {
    assert.equal(stream.reply, undefined);
    // Beside the path, whether it came with a steer header that nobody trusts.
    within(made, "the whole stream", 1, 1);
    only(made, ["proxy_get_header_map_value"]);
  };
  return { calls: made, check };
});

costs("a sticky split of a request with many headers", (count) => {
  const reviews = release("reviews", { uri: { prefix: "/reviews" } });
  const at = worker(policy({ releases: [...others(count - 1), reviews] }));
  const { stream, calls: made } = calls(at, request("/reviews/7", [["x-user", "alice"], ...MANY]), response());
  const check = () => {
    assert.match(new Map(stream.request).get("x-gray-version") ?? "", /^v[12]$/);
    within(made, "the whole stream", 2, 2);
  };
  return { calls: made, check };
});

/** A release that takes its key from baggage and writes its version there, beside what apps keep in it. */
const BAGGAGE = [["baggage", "user-id=alice;shared, lane=v9, theme=dark"]];
const lanes = (match) => release("lanes", match, { steer: { baggage: "lane" }, hashOn: [{ baggage: "user-id" }] });

for (const [headers, more] of [
  ["few", []],
  ["many", MANY],
]) {
  costs(`a sticky split by baggage, ${headers} headers`, (count) => {
    const at = worker(
      policy({ releases: [...others(Math.max(1, count - 1)), lanes({ uri: { prefix: "/reviews" } })] }),
    );
    const { stream, calls: made } = calls(at, request("/reviews/7", [...BAGGAGE, ...more]), response());
    const check = () => {
      assert.match(new Map(stream.request).get("baggage") ?? "", /^user-id=alice;shared, theme=dark,lane=v[12]$/);
      // With many headers, the path, all lines of baggage, and whether the other releases' header came.
      within(made, "the whole stream", more.length ? 2 : 1, more.length ? 3 : 2);
      const asked = more.length ? ["proxy_get_header_map_value"] : [];
      only(made, [...asked, "proxy_replace_header_map_value", "proxy_increment_metric"]);
    };
    return { calls: made, check };
  });
}

test("a policy that does not use baggage does not read it", () => {
  const at = worker(policy());
  const made = [[], BAGGAGE].map((more) => calls(at, request("/orders/17", [...more, ...MANY]), response()).calls);
  assert.deepEqual(made[1].shape, made[0].shape);
});

/** A release whose responses are counted, and rolled back or not. */
const counted = (rollback) =>
  policy({ app: forced("ready"), releases: [release("reviews", { uri: { prefix: "/" } }, { rollback })] });

test("a response that is only counted costs no more than one that a rollback judges", () => {
  const [judged, counting] = [{ failurePercent: 50 }, { judge: false }].map((rollback) => {
    const options = { cluster: "reviews-v1" };
    return calls(worker(counted(rollback)), request("/", [["x-user", "user-1"]]), response(), options).calls;
  });
  assert.ok(counting.bytes <= judged.bytes && counting.others <= judged.others, `${counting}\n${judged}`);
});

costs("a liveness probe of the kubelet's", (count) => {
  const at = worker(policy({ releases: others(count) }));
  const { stream, calls: made } = calls(at, kubelet("/livez"));
  const check = () => {
    assert.equal(stream.reply?.status, 200);
    within(made, "the whole stream", 1, 2);
    only(made, ["proxy_send_local_response", "proxy_increment_metric"]);
  };
  return { calls: made, check };
});

const NOT_READY = { "by the operator's word": [forced("notReady"), 200], "by its checks": [checked, 500] };

for (const [how, [app, status]] of Object.entries(NOT_READY)) {
  costs(`a gated request, its upstream not ready ${how}`, (count) => {
    const at = worker(policy({ app, releases: others(count) }), status);
    const { stream, calls: made } = calls(at, request("/orders/17"));
    const check = () => {
      assert.equal(stream.reply?.status, 503);
      within(made, "the whole stream", 1, 2);
      only(made, ["proxy_send_local_response", "proxy_increment_metric"]);
    };
    return { calls: made, check };
  });
}

test("bodies and trailers cost a request that is let pass no call", () => {
  const at = worker(policy());
  const [bare, full] = [request("/orders/17", [], "POST"), whole(request("/orders/17", [], "POST"))];
  const made = calls(at, full, whole(response())).calls;
  assert.deepEqual(made.shape, calls(at, bare, response()).calls.shape);
});

const SPLIT = release("reviews", { uri: { prefix: "/" } });
const FORWARDED = {
  "let pass": [policy(), request("/orders/17")],
  "given a version": [policy({ releases: [SPLIT] }), request("/", [["x-user", "alice"]])],
  "with bodies and trailers": [policy(), whole(request("/orders/17", [], "POST"))],
};

for (const [how, [policy, request]] of Object.entries(FORWARDED)) {
  test(`where nothing judges responses, a response makes no call: of a request ${how}`, () => {
    const at = worker(policy);
    for (const answer of [response(), response(503), response(204, { body: [] }), whole(response())]) {
      none(calls(at, request, answer).calls.in("response", "end"), `a response with status ${answer.headers[0][1]}`);
    }
  });
}

const JUDGED = { ...checked, circuitBreaker: { consecutiveFailures: 5 } };

costs("a response that a breaker counts as a success", (count) => {
  const at = worker(policy({ app: JUDGED, releases: others(count) }));
  const { stream, calls: made } = calls(at, request("/orders/17"), response(), { cluster: "app" });
  const check = () => {
    assert.equal(stream.reply, undefined);
    // The path; and that the request has none of the four headers with which callers set a deadline.
    within(made.in("request"), "the request", 1, 4 + 1);
    within(made.in("response", "end"), "the response and the end", 1);
  };
  return { calls: made, check };
});

const LABELLED = {
  "given a version": [{ releases: [SPLIT] }, request("/", [["x-user", "alice"]])],
  gated: [{ app: forced("notReady") }, request("/orders/17")],
};

for (const [how, [more, asked]] of Object.entries(LABELLED)) {
  test(`a label costs a request one call that returns no bytes, and only if the policy asks for it: ${how}`, () => {
    const [bare, labelled] = ["shadow", "always"].map(
      (requestLabel) => calls(worker(policy({ ...more, requestLabel })), asked, response()).calls,
    );
    const names = ({ list }) => list.map(({ name }) => name);
    assert.ok(!names(bare).includes("proxy_set_property"));
    assert.deepEqual(
      names(labelled).filter((name) => name !== "proxy_set_property"),
      names(bare),
    );
    assert.deepEqual([labelled.bytes, labelled.others], [bare.bytes, bare.others + 1]);
  });
}

test("a request that neither a release nor a gate acts on gets no label, and neither does a probe", () => {
  const at = worker(policy({ requestLabel: "always" }));
  for (const asked of [request("/orders/17"), kubelet("/livez")]) {
    const made = calls(at, asked, response()).calls;
    assert.ok(!made.list.some(({ name }) => name === "proxy_set_property"), `${made}`);
  }
});

/** As of a router that is told to suppress its headers: nothing in it tells that an upstream sent it. */
function bare() {
  const { headers, ...rest } = response();
  return { ...rest, headers: headers.filter(([name]) => !name.startsWith("x-envoy-")) };
}

costs("a success with no header of the router's", (count) => {
  const at = worker(policy({ app: JUDGED, releases: others(count) }));
  const { calls: made } = calls(at, request("/orders/17"), bare(), { cluster: "app" });
  return { calls: made, check: () => within(made.in("response", "end"), "the response and the end", 2) };
});

costs("a success by a header that the breaker names", (count) => {
  const named = { circuitBreaker: { failOn: ["5xx", { header: "x-error" }] } };
  const at = worker(policy({ app: { ...checked, ...named }, releases: others(count) }));
  const { calls: made } = calls(at, request("/orders/17"), response(), { cluster: "app" });
  return { calls: made, check: () => within(made.in("response", "end"), "the response and the end", 1) };
});

test("of many successes that a breaker judges by shares, one in eight is asked where it came from", () => {
  const shares = { circuitBreaker: { failurePercent: 50 } };
  const { vm, root } = worker(policy({ app: { ...checked, ...shares } }));
  const ask = (count) => {
    vm.takeCalls();
    for (let number = 0; number < count; number += 1) {
      vm.stream(root, { cluster: "app" }).exchange(request("/orders/17"), response());
    }
    return vm.takeCalls().in("response", "end").bytes;
  };
  ask(100);
  // All are handed the headers. Those that are picked also read the status, the cluster and the details.
  const bytes = ask(4000) / 4000;
  assert.ok(1.3 < bytes && bytes < 1.45, `${bytes} calls that return bytes for each`);
});

costs("a success that a breaker with the word retried counts", (count) => {
  const retried = { circuitBreaker: { failOn: ["5xx", "retried"] } };
  const at = worker(policy({ app: { ...checked, ...retried }, releases: others(count) }));
  const { calls: made } = calls(at, request("/orders/17"), response(), { cluster: "app" });
  // The status, the cluster, the details and the count of attempts.
  return { calls: made, check: () => within(made.in("response", "end"), "the response and the end", 4) };
});

test("a breaker's failures are seen: five in a row close the gate", () => {
  const { vm, root } = worker(policy({ app: JUDGED }));
  for (let sent = 0; sent < 5; sent += 1) {
    vm.stream(root, { cluster: "app" }).exchange(request("/orders/17"), response(503));
  }
  assert.equal(vm.stream(root).exchange(request("/orders/17"), response()).reply?.status, 503);
});

const to = (host, path, headers = []) => ({
  headers: request(path, headers).headers.map(([name, value]) => [name, name === ":authority" ? host : value]),
});

for (const [headers, more, most] of [
  ["few", [], [1, 0]],
  ["many", MANY, [1, 0]],
]) {
  test(`a request for the hosts of none of 40 policies costs the same as with one, ${headers} headers`, () => {
    const made = [1, 40].map((count) => calls(worker(teams(count)), to("payments.test", "/", more), response()).calls);
    for (const of of made) within(of, "the whole stream", ...most);
    assert.deepEqual(made[1].shape, made[0].shape);
  });

  test(`a request for one of 40 policies costs the same as with that one alone, ${headers} headers`, () => {
    const asked = to("team-0.test", "/orders/17", more);
    const alone = calls(worker(teams(1)), asked, response()).calls;
    assert.deepEqual(calls(worker(teams(40)), asked, response()).calls.shape, alone.shape);
    const bare = calls(worker(policy()), request("/orders/17", more), response()).calls;
    // Of many headers, the authority is read by its name.
    assert.equal(alone.bytes - bare.bytes, more.length ? 1 : 0, `${alone}`);
  });
}

test("an idle proxy of 40 policies ticks once for all of them", () => {
  const { vm } = worker(teams(40, { app: checked }));
  vm.takeCalls();
  vm.proxy.pass(10_000);
  const ticks = vm.takeCalls().list.filter(({ name }) => name === "proxy_set_tick_period_milliseconds");
  assert.equal(ticks.length, 0);
});
