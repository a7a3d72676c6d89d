#!/usr/bin/env node
// A million requests and a hundred new policies in one VM, and what becomes of its memory. As a program: it ends with
// 0 if the memory is flat.
//
// Flat means: the module's linear memory has as many bytes at the end as after the warm-up, which is the first tenth
// of the requests and of the new policies. It never shrinks, so what is lost for good must sooner or later make it
// grow. Requests overlap, and an old policy goes while some of its requests are still under way, as with Envoy.

import { parseArgs } from "node:util";

import { Proxy, Vm } from "./host.mjs";
import { checked, kubelet, others, policy, release, request, response, whole } from "./policies.mjs";

const { values } = parseArgs({
  options: { requests: { type: "string", default: "1000000" }, policies: { type: "string", default: "100" } },
});
const [REQUESTS, POLICIES] = [values.requests, values.policies].map(Number);

const WARM_UP = 0.1;
/** How many requests are under way at a time, in the warm-up twice as many, and how many are sent in a millisecond. */
const UNDER_WAY = 64;
const RATE = 2;
/** Of a new policy's time, the share in which the old one still has requests. */
const OVERLAP = 0.2;
/** After how many policies their sizes repeat: all of them are in the warm-up. */
const CYCLE = 10;
/** One response in so many fails; enough in a row to trip a breaker now and then. */
const FAILURES = 3;

const kib = (bytes) => `${bytes / 1024} KiB`;

/** One of many policies that differ, though not in what names a metric: a proxy keeps those for good. */
function policyOf(round) {
  const judged = { ...checked, circuitBreaker: { consecutiveFailures: 4 + (round % 3), notReadyFor: "1s" } };
  const weights = [100 - (round % 100), round % 100];
  const of = (name, match) => {
    const plain = release(name, match);
    const cookie = { name: "gray-id", ttl: "24h" };
    return {
      ...plain,
      hashOn: [...plain.hashOn, { httpCookie: cookie }],
      versions: plain.versions.map((version, place) => ({ ...version, weight: weights[place] })),
    };
  };
  const guarded = {
    ...of("orders", { uri: { prefix: "/orders" } }),
    rollback: { failurePercent: 50, minimumRequests: 50 },
  };
  return policy({
    app: judged,
    releases: [...others(1 + (round % CYCLE)), of("reviews", { uri: { prefix: "/reviews" } }), guarded],
    gates: [
      { match: [{ uri: { prefix: "/app" } }], upstream: "app" },
      {
        match: [{ uri: { prefix: "/closed" } }],
        upstream: "closed",
        reply: { body: `closed, ${"x".repeat(round % CYCLE)}` },
      },
    ],
    upstreams: {
      app: judged,
      closed: { cluster: "closed", force: "notReady" },
      "reviews-v1": { cluster: "reviews-v1" },
      "reviews-v2": {
        cluster: "reviews-v2",
        circuitBreaker: { slowPercent: 80, slowerThan: "1s", unansweredAfter: "5s" },
      },
    },
  });
}

const proxy = new Proxy();
const vm = new Vm(proxy, { records: false });
const random = (below) => (proxy.random() * 65536 + proxy.random() * 256 + proxy.random()) % below;
const noise = (size) => Array.from({ length: size }, () => String.fromCharCode(proxy.random())).join("");

/** What one request may be: its share of the mix, the request, and the cluster that it goes to. */
const KINDS = [
  [30, () => request("/orders-not/17"), "default"],
  [20, () => request("/reviews/7", [["x-user", `user-${random(1e6)}`]]), "reviews-v1"],
  [10, () => request("/reviews/7"), "reviews-v2"],
  [
    10,
    () =>
      request("/orders/7", [
        ["x-user", `user-${random(1e6)}`],
        ["cookie", "gray-id=1"],
      ]),
    "reviews-v2",
  ],
  [10, () => kubelet(random(2) ? "/livez" : "/readyz"), "default"],
  [5, () => request("/closed"), "closed"],
  [10, () => request("/app", [], "POST"), "app"],
  [5, hostile, "app"],
];
const MIX = KINDS.flatMap(([share, make, cluster]) => Array(share).fill({ make, cluster }));

/** Bytes that are no text, wherever a client may put them. */
function hostile() {
  const size = random(10) ? random(40) : 60_000;
  const names = ["x-user", "cookie", "x-gray-version", "user-agent", "accept", "content-type"];
  return request(`/${noise(random(20))}`, [
    [names[random(names.length)], noise(size)],
    ["cookie", `gray-id=${noise(30)}`],
  ]);
}

const ANSWERS = [response(), whole(response()), response(204, { body: [] }), response(404)];
const answer = () => (random(FAILURES) ? ANSWERS[random(ANSWERS.length)] : response(503));

/** Sends a request. What is still to come of it is to be called later. */
function send(root) {
  const { make, cluster } = MIX[random(MIX.length)];
  const stream = vm.stream(root, { cluster });
  const { headers } = make();
  const body = random(4) === 0;
  stream.requestHeaders(headers, !body);
  if (stream.reply) stream.replied();
  if (body && !stream.reply) stream.requestBody("body");
  return () => {
    if (stream.reply) return stream.end();
    // One client in a hundred does not wait for the answer.
    if (random(100) === 0) return stream.end("downstream_remote_disconnect");
    const { headers, body, trailers } = answer();
    stream.responseHeaders([...headers], body.length === 0 && !trailers);
    for (const [place, part] of body.entries()) {
      stream.responseBody(part, place + 1 === body.length && !trailers);
    }
    if (trailers) stream.responseTrailers([...trailers]);
    return stream.end();
  };
}

const size = () => vm.exports.memory.buffer.byteLength;
const tenth = REQUESTS * WARM_UP;
const began = performance.now();
const sizes = [];
const waiting = [];
let taken = 0;
let root;
let old;

for (let sent = 0; sent < REQUESTS; sent += 1) {
  const due = Math.floor((sent * POLICIES) / REQUESTS);
  if (!root || taken <= due) {
    old = root;
    root = vm.configure(policyOf(taken));
    taken += 1;
  }
  const age = (sent * POLICIES) / REQUESTS - due;
  if (old && age > OVERLAP) {
    old.delete();
    old = undefined;
  }
  if (sent % RATE === 0) proxy.pass(1);
  waiting.push(send(old && random(2) ? old : root));
  // So that no chance meeting of large ones comes only later.
  const most = sent < tenth ? 2 * UNDER_WAY : UNDER_WAY;
  while (waiting.length > most) waiting.shift()();
  if ((sent + 1) % tenth === 0) {
    sizes.push(size());
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(`${sent + 1} requests, ${taken} policies, ${seconds} s: linear memory ${kib(size())}`);
  }
}
for (const rest of waiting) rest();
old?.delete();

console.log(
  `gated ${proxy.count("graygate_gated_requests_total")}, probes ${proxy.count("graygate_probe_answers_total")}, ` +
    `versions given ${proxy.count("graygate_assignments_total")}, changes of readiness ${proxy.count("graygate_transitions_total")}`,
);
const [warm, last] = [sizes[0], size()];
const flat = last === warm;
console.log(`${flat ? "flat" : "NOT FLAT"}: ${kib(warm)} after the warm-up, ${kib(last)} at the end`);
process.exitCode = flat ? 0 : 1;
