// The calls that a module makes of its host, and what they cost.
//
// A call that hands bytes back is dear: the host re-enters the module's own allocator for each. All others, misses
// and writes among them, cost a tenth of it. So that is what is told apart, by whether the allocator was called.

/** The callbacks of a stream, by the part of its life they belong to. */
const PHASES = {
  request: [
    "proxy_on_context_create",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_request_trailers",
  ],
  response: ["proxy_on_response_headers", "proxy_on_response_body", "proxy_on_response_trailers"],
  end: ["proxy_on_log", "proxy_on_done", "proxy_on_delete"],
};

/** Some calls, in their order. Each has `during`, its callback; `name`; `about`; `status`; `bytes`. */
export class Calls {
  constructor(list) {
    this.list = list;
  }

  /** Those of these phases. */
  in(...phases) {
    const callbacks = phases.flatMap((phase) => PHASES[phase]);
    return new Calls(this.list.filter((call) => callbacks.includes(call.during)));
  }

  get bytes() {
    return this.list.filter((call) => call.bytes).length;
  }

  get others() {
    return this.list.length - this.bytes;
  }

  /** What was called on what, without what differs from one request to the next. */
  get shape() {
    return this.list.map(({ during, name, about, bytes }) => ({ during, name, about, bytes }));
  }

  get summary() {
    const counts = Object.keys(PHASES).map((phase) => {
      const calls = this.in(phase);
      return `${phase} ${calls.bytes}+${calls.others}`;
    });
    return `${counts.join(", ")} (calls that return bytes + others)`;
  }

  toString() {
    const lines = this.list.map(({ during, name, about, status, bytes }) => {
      const outcome = status === 0 ? "" : `  status ${status}`;
      return `  ${during.padEnd(28)} ${bytes ? "bytes" : "     "} ${name} ${about}${outcome}`;
    });
    return lines.length ? lines.join("\n") : "  no call";
  }
}
