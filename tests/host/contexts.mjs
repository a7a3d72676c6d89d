// The contexts of a VM: a root for each policy, and a stream for each request.
//
// A callback that the module does not export is passed over, as Envoy does. So nothing here depends on which it has.

import { Buffers, Maps, utf8 } from "./abi.mjs";

const PLUGIN = "graygate";
const CONTINUE = 0;
const HEALTH_CHECK = "/grpc.health.v1.Health/Check";
/** The body of a response by which the service is serving: one message, after its length. */
const SERVING = "\0\0\0\0\x02\x08\x01";

export class Root {
  constructor(vm, policy, plugin = PLUGIN) {
    this.vm = vm;
    this.plugin = plugin;
    this.configuration = utf8(typeof policy === "string" ? policy : JSON.stringify(policy));
    this.id = vm.nextId();
    this.period = 0;
    this.due = 0;
    /** Callouts that are not answered yet, by token. */
    this.calls = [];
    this.token = 0;
    vm.contexts.set(this.id, this);
  }

  isStream = false;

  get root() {
    return this;
  }

  /** Whether the module takes the policy. */
  configure() {
    this.vm.call(this, "proxy_on_context_create", 0);
    if (this.vm.call(this, "proxy_on_vm_start", 0) === 0) return false;
    this.isConfiguring = true;
    const taken = this.vm.call(this, "proxy_on_configure", this.configuration.length);
    this.isConfiguring = false;
    return taken !== 0;
  }

  setTick(period) {
    this.period = period;
    this.due = this.vm.proxy.now + period;
  }

  /** One tick, and the answers to what it has sent. */
  tick() {
    this.due = this.vm.proxy.now + this.period;
    this.vm.call(this, "proxy_on_tick");
    this.answer();
  }

  send(call) {
    this.token += 1;
    this.calls.push({ token: this.token, ...call });
    return this.token;
  }

  /** Answers every callout that is out, as the proxy's clusters do. */
  answer() {
    while (this.calls.length) {
      const call = this.calls.shift();
      const status = this.vm.proxy.answer(call);
      const serves = call.headers.get(":path") === HEALTH_CHECK && status === 200;
      this.answered = [
        [":status", `${status}`],
        ["x-envoy-upstream-service-time", "1"],
      ];
      this.body = serves ? SERVING : "";
      this.trailers = serves ? [["grpc-status", "0"]] : [];
      const sizes = [this.answered, this.body, this.trailers].map((part) => part.length);
      this.vm.call(this, "proxy_on_http_call_response", call.token, ...sizes);
      this.answered = undefined;
    }
  }

  map(type) {
    if (type === Maps.HTTP_CALL_RESPONSE_HEADERS) return this.answered;
    if (type === Maps.HTTP_CALL_RESPONSE_TRAILERS) return this.answered && this.trailers;
    return undefined;
  }

  buffer(type) {
    if (type === Buffers.PLUGIN_CONFIGURATION) return this.isConfiguring ? this.configuration : undefined;
    if (type === Buffers.VM_CONFIGURATION) return "";
    return this.answered && type === Buffers.HTTP_CALL_RESPONSE_BODY ? this.body : undefined;
  }

  setBuffer() {
    // A root context has no buffer that the filter may write.
  }

  /** As Envoy lets go of a policy. Callouts that are out are never heard of again. */
  delete() {
    if (this.vm.call(this, "proxy_on_done") !== 0) this.vm.call(this, "proxy_on_delete");
    this.vm.contexts.delete(this.id);
  }
}

/**
 * One request. Its life is driven from outside, call by call, or by `exchange` from begin to end.
 *
 * `cluster` is where its route leads.
 */
export class Stream {
  constructor(root, { cluster = "default", source = "127.0.0.1:50000" } = {}) {
    Object.assign(this, { root, cluster, source });
    this.vm = root.vm;
    this.id = this.vm.nextId();
    this.route = "default";
    this.began = this.vm.proxy.now;
    this.properties = new Map();
    this.phase = "request";
    this.attempts = 0;
    this.flags = 0;
    /** The maps and buffers that the module may use right now. */
    this.atHand = {};
    this.vm.contexts.set(this.id, this);
  }

  isStream = true;

  map(type) {
    return type > Maps.RESPONSE_TRAILERS ? this.root.map(type) : this.atHand[type];
  }

  buffer(type) {
    if (type > Buffers.RESPONSE_BODY) return this.root.buffer(type);
    return this.body?.type === type ? this.body.text : undefined;
  }

  setBuffer(_type, text) {
    this.body.text = text;
  }

  /** Calls back with a map at hand, and answers for the module where it has said so. Whether the request goes on. */
  #withMap(type, map, callback, ...args) {
    this.atHand = { [type]: map };
    const action = this.vm.call(this, callback, map.length, ...args) ?? CONTINUE;
    this.atHand = {};
    return action === CONTINUE;
  }

  #withBody(type, text, end, callback) {
    this.body = { type, text };
    this.vm.call(this, callback, text.length, Number(end));
    const after = this.body.text;
    this.body = undefined;
    return after;
  }

  // The request.

  requestHeaders(headers, end = true) {
    this.request = headers;
    this.vm.call(this, "proxy_on_context_create", this.root.id);
    const goesOn = this.#withMap(Maps.REQUEST_HEADERS, headers, "proxy_on_request_headers", Number(end));
    // The host does not wait for the module's word where there is a reply.
    if (goesOn && !this.reply && end) this.attempts = 1;
    return goesOn && !this.reply;
  }

  requestBody(text, end = true) {
    const after = this.#withBody(Buffers.REQUEST_BODY, text, end, "proxy_on_request_body");
    if (end) this.attempts = 1;
    return after;
  }

  requestTrailers(trailers) {
    this.#withMap(Maps.REQUEST_TRAILERS, trailers, "proxy_on_request_trailers");
    this.attempts = 1;
  }

  // The response.

  responseHeaders(headers, end = false, details = "via_upstream") {
    this.phase = "response";
    this.response = headers;
    this.details = details;
    this.code = Number(headers.find(([name]) => name === ":status")?.[1] ?? 0);
    this.#withMap(Maps.RESPONSE_HEADERS, headers, "proxy_on_response_headers", Number(end));
  }

  responseBody(text, end = true) {
    return this.#withBody(Buffers.RESPONSE_BODY, text, end, "proxy_on_response_body");
  }

  responseTrailers(trailers) {
    this.trailers = trailers;
    this.#withMap(Maps.RESPONSE_TRAILERS, trailers, "proxy_on_response_trailers");
  }

  /** The module's reply, on the way that every response takes. */
  replied() {
    const { status, headers, body, details } = this.reply;
    const own = [[":status", `${status}`], ["content-length", `${body.length}`], ...headers];
    this.attempts = 0;
    this.responseHeaders(own, body === "", details);
    if (body !== "") this.responseBody(body);
  }

  // The end.

  /** `details` where the stream did not end with its response. */
  end(details) {
    this.phase = "end";
    this.details = details ?? this.details;
    this.atHand = {
      [Maps.REQUEST_HEADERS]: this.request,
      [Maps.RESPONSE_HEADERS]: this.response,
      [Maps.RESPONSE_TRAILERS]: this.trailers,
    };
    this.isLogged = true;
    this.vm.call(this, "proxy_on_log");
    this.atHand = {};
    this.vm.call(this, "proxy_on_done");
    this.vm.call(this, "proxy_on_delete");
    this.vm.contexts.delete(this.id);
  }

  /**
   * All of it: a request `{headers, body, trailers}`, and a response of the same form unless the module answers. A
   * body is a list of parts; without one, the headers are all there is.
   */
  exchange(request, response) {
    const parts = ({ body = [], trailers }) =>
      body.map((part, place) => [part, place + 1 === body.length && !trailers]);
    const ends = ({ body = [], trailers }) => body.length === 0 && !trailers;
    if (this.requestHeaders(copy(request.headers), ends(request))) {
      for (const [part, end] of parts(request)) this.requestBody(part, end);
      if (request.trailers) this.requestTrailers(copy(request.trailers));
    }
    if (this.reply) {
      this.replied();
    } else {
      this.responseHeaders(copy(response.headers), ends(response), response.details);
      for (const [part, end] of parts(response)) this.responseBody(part, end);
      if (response.trailers) this.responseTrailers(copy(response.trailers));
    }
    this.end(response?.endsBy);
    return this;
  }
}

const copy = (headers) => headers.map(([name, value]) => [name, value]);
