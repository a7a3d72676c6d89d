// What the module is from outside: what it exports and imports, how large it is, and how much memory a policy takes.

import assert from "node:assert/strict";
import { basename } from "node:path";
import { test } from "node:test";

import { FUNCTIONS } from "./functions.mjs";
import { binary, compile, MODULE, Proxy, REQUESTS_MODULE, Vm } from "./host.mjs";
import { wide } from "./policies.mjs";

const KIB = 1024;

/** The most bytes of each module, so that none come unnoticed: a proxy compiles them when it starts. */
const MOST_SIZE = { [MODULE]: 744 * KIB, [REQUESTS_MODULE]: 700 * KIB };
/** The most linear memory of a VM with `UPSTREAMS` upstreams configured. */
const MOST_MEMORY = 1536 * KIB;
const UPSTREAMS = 50;

/** Callbacks of the VM and of its roots. */
const ROOT_CALLBACKS = ["proxy_on_configure", "proxy_on_tick", "proxy_on_http_call_response"];
/** Envoy calls every one of these that is there, for every request: one that does nothing is cost and nothing else. */
const REQUEST_CALLBACKS = {
  [REQUESTS_MODULE]: ["proxy_on_request_headers"],
  [MODULE]: [
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_request_trailers",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_response_trailers",
    "proxy_on_delete",
  ],
};
const ALLOCATORS = ["malloc", "proxy_on_memory_allocate"];

for (const [file, callbacks] of Object.entries(REQUEST_CALLBACKS)) {
  const name = basename(file);

  test(`${name} exports what Envoy needs and the callbacks in use, and nothing else`, () => {
    // The linker also exports two numbers, `__data_end` and `__heap_base`, which the proxy does not look for.
    const exports = WebAssembly.Module.exports(compile(file))
      .filter(({ kind }) => kind !== "global")
      .map(({ name }) => name);
    const allocator = exports.find((name) => ALLOCATORS.includes(name));
    assert.ok(allocator, `one of ${ALLOCATORS.join(", ")}; got: ${exports.join(", ")}`);
    const wanted = ["memory", allocator, "_initialize", "proxy_abi_version_0_2_1", ...ROOT_CALLBACKS, ...callbacks];
    const missing = wanted.filter((name) => !exports.includes(name));
    const surplus = exports.filter((name) => !wanted.includes(name));
    assert.deepEqual({ missing, surplus }, { missing: [], surplus: [] });
  });

  test(`${name} imports functions of the ABI, and nothing else`, () => {
    const strange = WebAssembly.Module.imports(compile(file)).filter(
      ({ module, name, kind }) => kind !== "function" || !FUNCTIONS[module]?.[name],
    );
    assert.deepEqual(strange, []);
  });

  test(`${name} has at most ${MOST_SIZE[file] / KIB} KiB`, (context) => {
    const size = binary(file).length;
    context.diagnostic(`${name}: ${size} bytes`);
    assert.ok(size <= MOST_SIZE[file], `${size} bytes; at most ${MOST_SIZE[file]}`);
  });
}

test(`a policy of ${UPSTREAMS} upstreams takes at most ${MOST_MEMORY / KIB} KiB of linear memory`, (context) => {
  const vm = new Vm(new Proxy(), { records: false });
  const size = () => vm.exports.memory.buffer.byteLength;
  const sizes = [size()];
  vm.configure(wide(UPSTREAMS));
  sizes.push(size());
  vm.proxy.pass(60_000);
  sizes.push(size());
  context.diagnostic(
    `linear memory, KiB: ${sizes[0] / KIB} at first, ${sizes[1] / KIB} configured, ${sizes[2] / KIB} a minute later`,
  );
  const most = Math.max(...sizes);
  assert.ok(most <= MOST_MEMORY, `${most} bytes; at most ${MOST_MEMORY}`);
});

/** As deep as a document may be, and a regular expression. What is deeper is refused, so nothing takes more stack. */
const DEEP = [
  ["lists", `{"name": "deep", "gates": ${"[".repeat(120)}${"]".repeat(120)}}`, /refused: gates\[0\]: a list/],
  ["objects", `{"name": "deep", "a": ${'{"a": '.repeat(120)}1${"}".repeat(120)}}`, /refused: a: unknown field/],
  ["too deep", `{"a": ${"[".repeat(100_000)}`, /recursion limit/],
  ["groups", JSON.stringify(policyOf(`${"(".repeat(500)}a${")".repeat(500)}`)), /not a valid regular expression/],
];

function policyOf(regex) {
  const gate = { upstream: "app", match: [{ uri: { regex } }] };
  return { name: "deep", upstreams: { app: { cluster: "app" } }, gates: [gate] };
}

/** The second step is reported to begin too early, so the message has the date at which the first one ends. */
const LATE = {
  name: "late",
  upstreams: { app: { cluster: "app" } },
  releases: [
    {
      name: "web",
      steer: { header: "x-version" },
      versions: [{ name: "v1", upstream: "app", weight: 1, default: true }],
      schedule: [
        { at: "9999-12-31T00:00:00Z", over: "48h", weights: { v1: 1 } },
        { at: "2026-12-01T10:00:00Z", weights: { v1: 1 } },
      ],
    },
  ],
};

const ODD = [...DEEP, ["late dates", JSON.stringify(LATE), /would end after the year 9999/]];

for (const [what, document, words] of ODD) {
  test(`a document of ${what} is refused in words, and does not end the VM`, () => {
    const vm = new Vm(new Proxy());
    assert.throws(() => vm.configure(document), words);
    vm.configure(wide(1));
  });
}
