// The inputs that fuzzing has found interesting, for the module itself: its numbers have 32 bits, and a panic ends the VM.
//
// `tests/fuzz` has more to say about the same inputs, natively.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { MODULE, Proxy, REQUESTS_MODULE, Vm } from "./host.mjs";
import { policy, response } from "./policies.mjs";

const FUZZ = new URL("../fuzz/corpus/", import.meta.url);
const FULL = readFileSync(new URL("../data/full-policy.json", import.meta.url), "latin1");

const directory = (name) => fileURLToPath(new URL(`${name}/`, FUZZ));
/** The lines of each input, as one character for each byte. */
const inputs = (name) =>
  readdirSync(directory(name)).map((file) => [file, readFileSync(directory(name) + file, "latin1").split("\n")]);

/** The headers of a message in an input, see `tests/fuzz/targets/message.rs`. */
function headers(line) {
  const pairs = line.split("\t").map((text) => /^(:?[^:]+):(.*)$/s.exec(text));
  return pairs.filter(Boolean).map(([, name, value]) => [name.toLowerCase(), value.trim()]);
}

/** Configures the document. If it is accepted, sends the requests and gives each a response. */
function serve(file, document, requests) {
  const vm = new Vm(new Proxy(), { records: false, file });
  const root = vm.root(Buffer.from(document, "latin1").toString());
  if (!root.configure()) return false;
  vm.proxy.pass(2_000);
  for (const [number, line] of requests.entries()) {
    const stream = vm.stream(root);
    stream.requestHeaders(headers(line), number % 2 === 0);
    if (stream.reply) stream.replied();
    else if (stream.vm.exports.proxy_on_response_headers) stream.responseHeaders([...response().headers], true);
    vm.proxy.pass(300);
    stream.end();
  }
  root.delete();
  return true;
}

for (const file of [MODULE, REQUESTS_MODULE]) {
  const name = basename(file);

  test(`${name} survives each document of the corpus and the requests under it`, (context) => {
    const all = inputs("policy");
    const accepted = all.filter(([, [document, ...requests]]) => serve(file, document, requests));
    context.diagnostic(`${accepted.length} of ${all.length} documents are accepted`);
    assert.ok(accepted.length > 0 && accepted.length < all.length);
  });

  test(`${name} survives the headers of each request in the corpus`, () => {
    // The smaller module cannot serve all keys.
    const document = file === MODULE ? { ...JSON.parse(FULL), hosts: undefined } : policy();
    for (const [, lines] of inputs("headers")) assert.ok(serve(file, JSON.stringify(document), lines));
  });
}
