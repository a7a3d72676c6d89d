// Policies and requests that tests share.

const STEER = "x-gray-version";

const version = (name, weight, more = {}) => ({ name, upstream: `reviews-${name}`, weight, ...more });

/** A release of two versions that is for requests which meet `match`. */
export const release = (name, match, more = {}) => ({
  name,
  match: [match],
  steer: { header: STEER },
  hashOn: [{ httpHeaderName: "x-user" }],
  versions: [version("v1", 90, { default: true }), version("v2", 10)],
  ...more,
});

/** So many releases, each for an authority and a path of its own. */
export const others = (count) =>
  Array.from({ length: count }, (_, number) =>
    release(`shop-${number}`, { authority: { exact: `shop-${number}.test` }, uri: { prefix: `/shop-${number}/` } }),
  );

/** An upstream that is Ready, or not, because the policy says so or because its checks do. */
export const forced = (word) => ({ cluster: "app", force: word });
export const checked = {
  cluster: "app",
  readinessProbe: { httpGet: { path: "/healthz" }, periodSeconds: 1, failureThreshold: 1 },
};

/**
 * Probes, one gate on `app` for every request, and these releases. Neither breaker nor rollback, unless `app` has
 * one.
 */
export const policy = ({ app = forced("ready"), releases = others(1), ...more } = {}) => ({
  name: "shop",
  upstreams: { app, "reviews-v1": { cluster: "reviews-v1" }, "reviews-v2": { cluster: "reviews-v2" } },
  probes: { liveness: { path: "/livez" }, readiness: { path: "/readyz", checks: [{ upstream: "app" }] } },
  releases,
  gates: [{ match: [{ uri: { prefix: "/" } }], upstream: "app" }],
  ...more,
});

/** A document of so many policies, each for a host of its own. */
export const teams = (count, more = {}) => ({
  policies: Array.from({ length: count }, (_, number) =>
    policy({ ...more, name: `team-${number}`, hosts: [`team-${number}.test`, `*.team-${number}.test`] }),
  ),
});

/** So many upstreams, each with a check, a breaker and a gate of its own. */
export function wide(count) {
  const names = Array.from({ length: count }, (_, number) => `backend-${number}`);
  const upstreams = names.map((name) => [
    name,
    {
      cluster: name,
      readinessProbe: { httpGet: { path: "/healthz" }, periodSeconds: 5 },
      circuitBreaker: { consecutiveFailures: 5, failurePercent: 50, slowPercent: 80, slowerThan: "2s" },
    },
  ]);
  const own = policy({ releases: others(3) });
  return {
    ...own,
    upstreams: { ...own.upstreams, ...Object.fromEntries(upstreams) },
    probes: {
      liveness: { path: "/livez" },
      startup: { path: "/startupz", checks: [{ upstream: names[0] }] },
      readiness: { path: "/readyz", checks: names.slice(0, 5).map((upstream) => ({ upstream })) },
    },
    gates: names.map((name) => ({ match: [{ uri: { prefix: `/${name}/` } }], upstream: name })),
  };
}

/** A request as Envoy has it: what the client sent, less hop-by-hop headers, and what Envoy adds. */
export const request = (path, headers = [], method = "GET") => ({
  headers: [
    [":authority", "shop.test"],
    [":path", path],
    [":method", method],
    [":scheme", "http"],
    ["user-agent", "Mozilla/5.0 (X11; Linux x86_64)"],
    ["accept", "*/*"],
    ["accept-encoding", "gzip"],
    ["x-forwarded-proto", "http"],
    ["x-request-id", "1d2f3b5e-7f0c-4c4e-9d57-5a0c8f8e2d11"],
    ...headers,
  ],
});

/** As the kubelet asks. */
export const kubelet = (path) => {
  const { headers } = request(path);
  const own = { ":authority": "10.244.0.17:10000", "user-agent": "kube-probe/1.34" };
  return { headers: headers.map(([name, value]) => [name, own[name] ?? value]) };
};

/** A response as an upstream gives it. */
export const response = (status = 200, more = {}) => ({
  headers: [
    [":status", `${status}`],
    ["content-type", "application/json"],
    ["date", "Thu, 01 Jan 2026 00:00:00 GMT"],
    ["server", "envoy"],
    ["x-envoy-upstream-service-time", "3"],
  ],
  // Envoy tells that an HTTP/1.1 body has ended by a part with nothing in it.
  body: ['{"items":[]}', ""],
  ...more,
});

/** One with every part that a message can have. */
export const whole = (message) => ({ ...message, body: ["first ", "second"], trailers: [["x-checksum", "17"]] });
