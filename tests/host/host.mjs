// A proxy in place of Envoy: it loads the module into V8, which is the engine that Envoy has, calls its callbacks in
// Envoy's order and lends it the host's functions. Time stands still but for `pass`, and every call can be looked at.
//
// A `Proxy` is what all VMs of one Envoy share. A `Vm` is one instance of the module, as each worker has one.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { Status } from "./abi.mjs";
import { Calls } from "./calls.mjs";
import { Root, Stream } from "./contexts.mjs";
import { ABOUT, BEFORE_START, FUNCTIONS } from "./functions.mjs";

const PROJECT = new URL("../../", import.meta.url);
/** How many lines of the module's log are kept. */
const LINES = 1000;

const built = (name) => fileURLToPath(new URL(`dist/${name}`, PROJECT));

/** GRAYGATE_WASM, or the module that `make wasm` has built. */
export const MODULE = process.env.GRAYGATE_WASM ?? built("graygate.wasm");
/** The module that acts on the headers of requests alone. */
export const REQUESTS_MODULE = built("graygate-requests.wasm");

/** The module's bytes. */
export function binary(file = MODULE) {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new Error(`${file}: not to be read (${error.code}); build it by \`make wasm\`, or set GRAYGATE_WASM`, {
      cause: error,
    });
  }
}

const compiled = new Map();

/** The module, compiled once. */
export function compile(file = MODULE) {
  if (!compiled.has(file)) compiled.set(file, new WebAssembly.Module(binary(file)));
  return compiled.get(file);
}

export class Proxy {
  /**
   * `answer` is what a cluster answers a callout: a status for `{cluster, headers}`, or for `{cluster, path}` by
   * gRPC. `clusters` tells whether there is a cluster of that name.
   */
  constructor({ answer = () => 200, clusters = () => true } = {}) {
    Object.assign(this, { answer, clusters });
    this.node = { id: "test-node", cluster: "test" };
    /** The time by the monotonic clock, in milliseconds. */
    this.now = 60_000;
    this.store = new Map();
    this.metrics = new Map();
    this.lines = [];
    this.vms = [];
    this.versions = 0;
    this.seed = 1;
  }

  /** The date by the wall clock, in milliseconds since 1970. */
  get date() {
    return Date.UTC(2026, 0, 1) + this.now;
  }

  /** Writes to the store, unless `version` is neither 0 nor that of the key. A key that is absent has none to differ. */
  put(key, value, version) {
    const known = this.store.get(key);
    if (known && version && known.version !== version) return false;
    this.versions += 1;
    this.store.set(key, { value, version: this.versions });
    return true;
  }

  metric(name, kind) {
    if (!this.metrics.has(name)) this.metrics.set(name, { name, kind, value: 0 });
    return this.metrics.get(name);
  }

  /** The sum over all metrics whose name begins so. */
  count(prefix) {
    return [...this.metrics.values()].reduce((sum, { name, value }) => sum + (name.startsWith(prefix) ? value : 0), 0);
  }

  log(_level, line) {
    this.lines.push(line);
    if (this.lines.length > LINES) this.lines.shift();
  }

  /** A byte, the same ones on each run (mulberry32). */
  random() {
    this.seed = (this.seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.seed ^ (this.seed >>> 15), this.seed | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return (bits ^ (bits >>> 14)) & 0xff;
  }

  /** Lets time pass, with every tick that is due in it. A timer is set anew once its tick is over. */
  pass(milliseconds) {
    const until = this.now + milliseconds;
    for (let next = this.next(); next && next.due <= until; next = this.next()) {
      this.now = Math.max(this.now, next.due);
      next.tick();
    }
    this.now = until;
  }

  /** The root that ticks next. */
  next() {
    const roots = this.vms.flatMap((vm) => vm.roots).filter((root) => root.period > 0);
    return roots.reduce((first, root) => (first && first.due <= root.due ? first : root), undefined);
  }
}

export class Vm {
  /** `records` whether calls are kept to be looked at. `file` is the module. */
  constructor(proxy, { records = true, file = MODULE } = {}) {
    this.proxy = proxy;
    this.contexts = new Map();
    this.metrics = [];
    this.calls = records ? [] : undefined;
    this.lastId = 0;
    /** How often the module's allocator was called for bytes that it is given. */
    this.allocations = 0;
    this.started = false;
    /** How often the proxy has called a callback. */
    this.entries = 0;
    const module = compile(file);
    const instance = new WebAssembly.Instance(module, this.#imports(module));
    this.exports = instance.exports;
    this.malloc = this.exports.malloc ?? this.exports.proxy_on_memory_allocate;
    this.exports._initialize?.();
    this.started = true;
    proxy.vms.push(this);
  }

  #imports(module) {
    const imports = {};
    for (const { module: space, name } of WebAssembly.Module.imports(module)) {
      const implement = FUNCTIONS[space]?.[name];
      if (!implement) throw new Error(`the module imports ${space}.${name}, which the host has not`);
      imports[space] ??= {};
      imports[space][name] = this.#lent(name, implement);
    }
    return imports;
  }

  /** A function of the host's that keeps a record of each call. */
  #lent(name, implement) {
    return (...args) => {
      if (!this.started && !BEFORE_START.includes(name)) throw new Error(`${name}: called before the VM has started`);
      const before = this.allocations;
      const status = implement(this, ...args);
      if (this.calls) {
        const about = ABOUT[name]?.(this, args) ?? "";
        this.calls.push({ during: this.callback, name, about, status, bytes: this.allocations > before });
      }
      return status;
    };
  }

  /** Calls a callback for a context; nothing where the module has none of that name. */
  call(context, callback, ...args) {
    const run = this.exports[callback];
    if (!run) return undefined;
    this.entries += 1;
    Object.assign(this, { current: context, effective: undefined, callback });
    try {
      return run(context.id, ...args);
    } catch (error) {
      // A panic's own words are in the log: it is the last line.
      throw new Error(`${callback}: ${error.message}; last log line: ${this.proxy.lines.at(-1)}`, { cause: error });
    } finally {
      this.callback = undefined;
    }
  }

  /** For whom the module acts. */
  get context() {
    return this.effective ?? this.current;
  }

  get roots() {
    return [...this.contexts.values()].filter((context) => !context.isStream);
  }

  /** Calls since the last time. */
  takeCalls() {
    return new Calls(this.calls.splice(0));
  }

  /** A root of this plugin with this policy, which is not configured yet. */
  root(policy, plugin) {
    return new Root(this, policy, plugin);
  }

  /** A root with this policy, or an error with what the module has to say against it. */
  configure(policy) {
    const root = new Root(this, policy);
    if (!root.configure()) throw new Error(`policy refused:\n${this.proxy.lines.slice(-5).join("\n")}`);
    return root;
  }

  stream(root, options) {
    return new Stream(root, options);
  }

  nextId() {
    this.lastId += 1;
    return this.lastId;
  }

  // Its memory.

  /** All of it; another view each time that it has grown. */
  get bytes() {
    const { buffer } = this.exports.memory;
    if (this.view?.buffer !== buffer) this.view = Buffer.from(buffer);
    return this.view;
  }

  text(pointer, size) {
    const [from, to] = [pointer >>> 0, (pointer >>> 0) + (size >>> 0)];
    if (to > this.bytes.length) throw new RangeError(`${size >>> 0} bytes at ${from}: not in the module's memory`);
    return this.bytes.latin1Slice(from, to);
  }

  put(pointer, word) {
    this.bytes.writeUInt32LE(word >>> 0, pointer >>> 0);
    return Status.OK;
  }

  put64(pointer, value) {
    this.bytes.writeBigUInt64LE(value, pointer >>> 0);
    return Status.OK;
  }

  /** Hands bytes over. Nothing at all takes no memory: the pointer is null. */
  give(text, pointer, size) {
    let at = 0;
    if (text.length) {
      this.allocations += 1;
      at = this.malloc(text.length) >>> 0;
      if (at === 0) throw new Error(`the module has no memory for ${text.length} bytes`);
      this.bytes.latin1Write(text, at);
    }
    this.put(pointer, at);
    return this.put(size, text.length);
  }

  metricOf(id) {
    return this.metrics[(id >>> 2) - 1];
  }
}
