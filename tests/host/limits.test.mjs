// How much stack and memory the largest documents take. What does not fit ends the VM with every request in it.
//
// The stack grows down to address 0, below all data, so a callback that takes more ends in a trap and overwrites nothing.

import assert from "node:assert/strict";
import { test } from "node:test";

import { MODULE, Proxy, REQUESTS_MODULE, Vm } from "./host.mjs";
import { request } from "./policies.mjs";

const KIB = 1024;
/** What `.ci/wasm-toolchain` reserves. */
const STACK = 256 * KIB;
/** The most of it that anything may take. The rest is a margin for other compilers. */
const MOST_STACK = STACK / 2;
/** The most linear memory of a VM with the largest document, and with a second one that replaces it. */
const MOST_MEMORY = 40 * KIB * KIB;
const MOST_BYTES = 1024 * KIB;
/** How deep JSON may be, see serde_json. */
const DEPTH = 127;
const UNTOUCHED = 0xa5;

const numbers = (count) => Array.from({ length: count }, (_, number) => number);
const object = (count, entry) => Object.fromEntries(numbers(count).map(entry));

/** As much of everything as a document may hold, in as many bytes as it may have. `sees` tells what the module can do. */
function largest(sees) {
  const check = { httpGet: { path: "/healthz" }, periodSeconds: 4 };
  const upstream = (number) => [
    `u${number}`,
    { cluster: "c", readinessProbe: check, ...(sees && { circuitBreaker: {} }) },
  ];
  const version = (release) => (number) => ({
    name: `v${number}`,
    upstream: `u${4 * release + number}`,
    weight: 1,
    default: number === 0,
    allow: numbers(12).map((key) => `${release}-${number}-${key}`),
  });
  const release = (number) => ({
    name: `r${number}`,
    match: [{ uri: { regex: `/r${number}/.*` } }],
    steer: { header: `x-${number}` },
    hashOn: [{ httpHeaderName: "x-user" }],
    versions: numbers(4).map(version(number)),
    schedule: numbers(3).map((step) => ({
      at: `20${30 + step}-01-01T00:00:00Z`,
      weights: object(4, (at) => [`v${at}`, 1 + step]),
    })),
  });
  const gate = (number) => ({
    upstream: `u${number}`,
    match: numbers(2).map((at) => ({ uri: { prefix: `/g${number}/${at}` } })),
  });
  const document = (gates, body) => ({
    name: "largest",
    upstreams: object(2_000, upstream),
    probes: { readiness: { path: "/readyz", checks: numbers(2_000).map((number) => ({ upstream: `u${number}` })) } },
    releases: numbers(500).map(release),
    gates: numbers(gates).map((number) => (number < 200 ? { ...gate(number), reply: { body } } : gate(number))),
  });
  const rest = MOST_BYTES - JSON.stringify(document(2_000, "")).length;
  assert.ok(rest > 0, `${-rest} bytes too many`);
  const text = JSON.stringify(document(2_000, "x".repeat(Math.floor(rest / 200))));
  assert.ok(text.length <= MOST_BYTES && text.length > 0.99 * MOST_BYTES, `${text.length} bytes`);
  return text;
}

/** A policy with this many groups in a regular expression, one in the other. */
function grouped(depth) {
  const regex = `${"(".repeat(depth)}a${")?".repeat(depth)}`;
  const gate = { upstream: "app", match: [{ uri: { regex } }] };
  return JSON.stringify({ name: "deep", upstreams: { app: { cluster: "app" } }, gates: [gate] });
}

/** Many gates, each with a regular expression that is nearly as large as one may be, and the headers to match them all. */
function patterned(gates) {
  const regex = "(a)".repeat(330);
  const gate = (number) => ({ upstream: "app", match: [{ headers: { [`x-${number}`]: { regex } } }] });
  const headers = numbers(gates).map((number) => [`x-${number}`, "a"]);
  const document = { name: "patterned", upstreams: { app: { cluster: "app" } }, gates: numbers(gates).map(gate) };
  return [JSON.stringify(document), headers];
}

/** Runs `act`, and returns the bytes of the stack that it has taken. */
function stackOf(vm, act) {
  vm.bytes.fill(UNTOUCHED, 0, STACK);
  act();
  return STACK - vm.bytes.subarray(0, STACK).findIndex((byte) => byte !== UNTOUCHED);
}

/** A new VM, whose stack is where this test looks: nothing is below it, and data begins right above. */
function opened(file) {
  const vm = new Vm(new Proxy(), { records: false, file });
  const isZero = (from, to) => vm.bytes.subarray(from, to).every((byte) => byte === 0);
  assert.ok(isZero(0, MOST_STACK) && !isZero(STACK, STACK + KIB), "the stack is elsewhere");
  return vm;
}

for (const file of [MODULE, REQUESTS_MODULE]) {
  const name = file.split("/").at(-1);

  test(`${name} serves the largest document, in half of its stack and in ${MOST_MEMORY / KIB / KIB} MiB`, (context) => {
    const vm = opened(file);
    const text = largest(file === MODULE);
    const sizes = [];
    let root;
    const configured = stackOf(vm, () => {
      root = vm.configure(text);
    });
    sizes.push(vm.bytes.length);
    const ticked = stackOf(vm, () => vm.proxy.pass(10_000));
    sizes.push(vm.bytes.length);
    const served = stackOf(vm, () => {
      for (const path of ["/readyz?verbose", "/r7/a", "/g7/1/a", "/none"]) {
        vm.stream(root).requestHeaders(request(path, [["x-user", "alice"]]).headers);
      }
    });
    // A proxy configures the next document while the last one still has requests.
    const again = stackOf(vm, () => vm.configure(text.replace("/healthz", "/ready")));
    vm.proxy.pass(10_000);
    sizes.push(vm.bytes.length);
    const kib = (bytes) => Math.round(bytes / KIB);
    context.diagnostic(
      `stack, KiB: configured ${kib(configured)}, again ${kib(again)}, tick ${kib(ticked)}, request ${kib(served)}`,
    );
    context.diagnostic(`memory, KiB: ${sizes.map(kib).join(", ")}`);
    for (const taken of [configured, ticked, served, again])
      assert.ok(taken > 0 && taken <= MOST_STACK, `${taken} bytes`);
    assert.ok(sizes.at(-1) <= MOST_MEMORY, `${sizes.at(-1)} bytes`);
  });

  test(`${name} matches regular expressions in ${MOST_MEMORY / KIB / KIB} MiB, however many groups they have`, () => {
    const vm = opened(file);
    const [text, headers] = patterned(900);
    const root = vm.configure(text);
    // Each is given its memory when it is first used. One request may not use so many.
    for (const header of headers) vm.stream(root).requestHeaders(request("/", [header]).headers);
    assert.ok(vm.bytes.length <= MOST_MEMORY, `${vm.bytes.length} bytes`);
  });

  test(`${name} reads the deepest documents in half of its stack`, (context) => {
    const lists = `{"name": "deep", "gates": ${"[".repeat(DEPTH - 1)}${"]".repeat(DEPTH - 1)}}`;
    const objects = `{"name": "deep", "a": ${'{"a": '.repeat(DEPTH - 2)}1${"}".repeat(DEPTH - 2)}}`;
    const tooDeep = `{"a": ${"[".repeat(100_000)}`;
    // The most groups that are legal, and one more.
    const legal = numbers(200).findLast((depth) => opened(file).root(grouped(depth)).configure());
    const documents = { lists, objects, tooDeep, groups: grouped(legal), tooManyGroups: grouped(legal + 1) };
    for (const [what, text] of Object.entries(documents)) {
      const vm = opened(file);
      let taken = false;
      const stack = stackOf(vm, () => {
        taken = vm.root(text).configure();
      });
      context.diagnostic(`${what}: ${Math.round(stack / KIB)} KiB of stack`);
      assert.equal(taken, what === "groups", vm.proxy.lines.join("\n"));
      assert.ok(stack > 0 && stack <= MOST_STACK, `${what}: ${stack} bytes`);
      vm.configure(grouped(1));
    }
  });
}
