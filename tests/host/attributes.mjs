// What Envoy 1.40 tells by `proxy_get_property`, and when.
//
// The rules: what it knows of the connection, the route and the plugin is there all the time; what it reads off the
// request's headers is gone while the response is at hand, and back in the log; what comes of the upstream begins
// with the response. An attribute that is not known here ends the test: taken for absent, it would pass for a miss.

import { int64 } from "./abi.mjs";

const always = (read) => read;
const notInResponse = (read) => (stream) => (stream.phase === "response" ? undefined : read(stream));
const fromResponseOn = (read) => (stream) => (["response", "end"].includes(stream.phase) ? read(stream) : undefined);
const header = (name) => notInResponse((stream) => find(stream.request, name));

const find = (map, name) => map.find(([known]) => known === name)?.[1];

const OF_PROXY = {
  "xds.node.id": (proxy) => proxy.node.id,
  "xds.node.cluster": (proxy) => proxy.node.cluster,
};

const OF_STREAM = {
  "xds.cluster_name": always((stream) => stream.cluster),
  "xds.route_name": always((stream) => stream.route),
  "source.address": always((stream) => stream.source),
  "connection.id": always((stream) => int64(stream.id)),
  "request.path": header(":path"),
  "request.url_path": notInResponse((stream) => find(stream.request, ":path")?.split("?")[0]),
  "request.method": header(":method"),
  "request.host": header(":authority"),
  "request.scheme": header(":scheme"),
  "request.id": header("x-request-id"),
  "request.useragent": header("user-agent"),
  "request.protocol": always(() => "HTTP/1.1"),
  "request.time": always((stream) => int64(stream.began * 1e6)),
  // Of the attempts so far: none until the router has the request.
  "upstream.request_attempt_count": always((stream) => int64(stream.attempts)),
  "upstream.address": fromResponseOn((stream) => (stream.attempts ? "127.0.0.1:8080" : undefined)),
  "response.code": fromResponseOn((stream) => stream.code && int64(stream.code)),
  "response.code_details": fromResponseOn((stream) => stream.details),
  "response.flags": always((stream) => int64(stream.flags)),
};

/** The attribute at this path, as the bytes that the module gets. */
export function attribute(context, path) {
  const name = path.replaceAll("\0", ".");
  if (name === "plugin_name") return context.root.plugin;
  if (name in OF_PROXY) return OF_PROXY[name](context.vm.proxy);
  if (!context.isStream) return undefined;
  const [, map, key] = /^(request|response)\.headers\.(.*)$/.exec(name) ?? [];
  if (map === "request") return header(key)(context);
  if (map === "response") return fromResponseOn((stream) => find(stream.response, key))(context);
  if (!(name in OF_STREAM)) throw new Error(`attribute ${name}: not known to the mock host; known: attributes.mjs`);
  return OF_STREAM[name](context);
}
