// The module that acts on the headers of requests alone: how often a request enters it, and what it asks of its host.

import assert from "node:assert/strict";
import { test } from "node:test";

import { MODULE, Proxy, REQUESTS_MODULE, Vm } from "./host.mjs";
import { checked, forced, kubelet, others, policy, release, request, response, whole } from "./policies.mjs";

/** A VM with this module and policy, in use: ticks have passed, and every check has its answer. */
function worker(file, policy) {
  const vm = new Vm(new Proxy(), { file });
  const root = vm.configure(policy);
  vm.proxy.pass(3000);
  return { vm, root };
}

/** One request of a kind after many of its kind: what it gets, the calls that it makes, and how often it enters the module. */
function last({ vm, root }, asked, answer) {
  for (let number = 0; number < 50; number += 1) vm.stream(root).exchange(asked, answer);
  vm.takeCalls();
  const before = vm.entries;
  const stream = vm.stream(root).exchange(asked, answer);
  return { stream, calls: vm.takeCalls(), entries: vm.entries - before };
}

const reviews = release("reviews", { uri: { prefix: "/reviews" } });
const KINDS = {
  "let pass": [policy({ app: checked, releases: others(1) }), request("/orders/17"), response()],
  "given a version": [policy({ releases: [reviews] }), request("/reviews/7", [["x-user", "alice"]]), response()],
  "with bodies and trailers": [policy(), whole(request("/orders/17", [], "POST")), whole(response())],
  "for a probe": [policy(), kubelet("/livez"), undefined],
  gated: [policy({ app: forced("notReady") }), request("/orders/17"), undefined],
};

for (const [kind, [document, asked, answer]] of Object.entries(KINDS)) {
  test(`a request ${kind} enters the module once and gets what it gets from the other module, by the same calls`, () => {
    const [own, full] = [REQUESTS_MODULE, MODULE].map((file) => last(worker(file, document), asked, answer));
    assert.equal(own.entries, 1);
    assert.ok(full.entries > 2, `${full.entries}`);
    assert.deepEqual(own.calls.shape, full.calls.in("request").shape);
    assert.deepEqual([own.stream.request, own.stream.reply], [full.stream.request, full.stream.reply]);
  });
}

test("the policy of a request is looked up by the plugin only while there are several documents", () => {
  const { vm, root } = worker(REQUESTS_MODULE, policy());
  const asks = ({ calls }) => calls.list.some(({ about }) => about.includes("plugin_name"));
  assert.ok(!asks(last({ vm, root }, request("/orders/17"), response())));
  const next = vm.configure(policy({ app: forced("notReady") }));
  assert.ok(asks(last({ vm, root }, request("/orders/17"), response())));
  vm.proxy.pass(100);
  // The first requests of the newer document show that the proxy uses it.
  assert.equal(last({ vm, root: next }, request("/orders/17"), response()).stream.reply, undefined);
  vm.proxy.pass(10);
  assert.equal(last({ vm, root: next }, request("/orders/17")).stream.reply?.status, 503);
  vm.contexts.delete(root.id);
  const after = last({ vm, root: next }, request("/orders/17"));
  assert.equal(after.stream.reply?.status, 503);
  assert.ok(!asks(after));
});

test("two plugins of one VM keep their policies apart", () => {
  const vm = new Vm(new Proxy(), { file: REQUESTS_MODULE });
  const configured = (plugin, document) => {
    const root = vm.root(document, plugin);
    assert.ok(root.configure());
    return root;
  };
  const open = configured("open", policy());
  const closed = configured("closed", { ...policy({ app: forced("notReady") }), name: "closed" });
  vm.proxy.pass(3000);
  for (const [root, status] of [
    [open, undefined],
    [closed, 503],
  ]) {
    assert.equal(vm.stream(root).exchange(request("/orders/17"), response()).reply?.status, status);
  }
  // To be told the plugin is the only call more.
  const { calls } = last({ vm, root: open }, request("/orders/17"), response());
  const alone = last(worker(REQUESTS_MODULE, policy()), request("/orders/17"), response()).calls;
  assert.deepEqual([calls.bytes, calls.others], [alone.bytes + 1, alone.others], `${calls}`);
});

test("a plugin that has left a VM is noticed by the requests of the others", () => {
  const vm = new Vm(new Proxy(), { file: REQUESTS_MODULE });
  const [stays, leaves] = ["stays", "leaves"].map((plugin) => {
    const root = vm.root({ ...policy(), name: plugin }, plugin);
    assert.ok(root.configure());
    return root;
  });
  vm.proxy.pass(3000);
  vm.contexts.delete(leaves.id);
  const asks = ({ calls }) => calls.list.some(({ about }) => about.includes("plugin_name"));
  const asked = Array.from({ length: 300 }, () => asks(last({ vm, root: stays }, request("/orders/17"), response())));
  assert.ok(asked[0] && !asked.at(-1));
});
