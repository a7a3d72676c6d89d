//! The scenes of the whole filter: a VM with one policy in use, and a request that has come.

use graygate::proxy::Flow;
use graygate::worker::vm::Vm;
use serde_json::{Value, json};

use super::proxy::{Pairs, StillProxy};

/// The root context of the filter.
const ROOT: u32 = 1;

/// How many requests of its kind come before the one that is measured. Where the first ones of a version lead is looked at.
const BEFORE: u32 = 64;

/// The VM of a filter, and a request before its callback.
pub struct Filter {
    vm: Vm<&'static StillProxy>,
    /// The proxy of the VM.
    pub proxy: &'static StillProxy,
    headers: usize,
    stream: u32,
}

const ORDINARY: &Pairs = &[
    (":authority", "shop"),
    (":path", "/items/4711"),
    (":method", "GET"),
    (":scheme", "http"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "3f8a8a3c-6b53-4a0e-9a3e-3f0c5b1d2e4f"),
];

const OF_A_USER: &Pairs = &[
    (":authority", "shop"),
    (":path", "/items/4711"),
    (":method", "GET"),
    (":scheme", "http"),
    ("x-user", "user-4711"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "3f8a8a3c-6b53-4a0e-9a3e-3f0c5b1d2e4f"),
];

const FOR_LIVENESS: &Pairs = &[
    (":authority", "shop"),
    (":path", "/livez"),
    (":method", "GET"),
    (":scheme", "http"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "3f8a8a3c-6b53-4a0e-9a3e-3f0c5b1d2e4f"),
];

const FOR_READINESS: &Pairs = &[
    (":authority", "shop"),
    (":path", "/readyz"),
    (":method", "GET"),
    (":scheme", "http"),
    ("x-forwarded-proto", "http"),
    ("x-request-id", "3f8a8a3c-6b53-4a0e-9a3e-3f0c5b1d2e4f"),
];

impl Filter {
    /// Returns a request that is let pass by a policy with something in each section.
    pub fn let_pass() -> &'static mut Self {
        Self::new(&full(), ORDINARY, Flow::Continue)
    }

    /// Returns a request that is let pass by a policy whose releases are for hosts.
    pub fn let_pass_by_host() -> &'static mut Self {
        let mut policy = full();
        policy["releases"][0]["match"] = json!([{"authority": {"exact": "reviews.test"}}]);
        Self::new(&policy, ORDINARY, Flow::Continue)
    }

    /// Returns a request that is let pass by a policy that only counts what it would do.
    pub fn let_pass_in_shadow() -> &'static mut Self {
        let mut policy = full();
        policy["mode"] = json!("shadow");
        Self::new(&policy, ORDINARY, Flow::Continue)
    }

    /// Returns a request that is split by the header of its user.
    pub fn split() -> &'static mut Self {
        Self::new(&split(), OF_A_USER, Flow::Continue)
    }

    /// Returns a liveness probe, to the same policy as [`Filter::let_pass`].
    pub fn liveness() -> &'static mut Self {
        Self::new(&full(), FOR_LIVENESS, Flow::Pause)
    }

    /// Returns a readiness probe, to the same policy.
    pub fn readiness() -> &'static mut Self {
        Self::new(&full(), FOR_READINESS, Flow::Pause)
    }

    /// Returns a request whose upstream is not ready.
    pub fn gated() -> &'static mut Self {
        Self::new(&gated(), ORDINARY, Flow::Pause)
    }

    /// Leaks the scene, so that freeing it is not measured. Asserts what the request gets.
    fn new(policy: &Value, headers: &'static Pairs, expected: Flow) -> &'static mut Self {
        let proxy: &'static StillProxy = Box::leak(Box::new(StillProxy::new(policy.to_string())));
        let mut vm = Vm::new();
        vm.create(ROOT, 0);
        assert!(vm.configure(ROOT, usize::MAX, || proxy), "a policy with no problem");
        for _ in 0..40 {
            proxy.now.set(proxy.now.get() + 250);
            let calls = proxy.calls.get();
            vm.on_tick(ROOT);
            if proxy.calls.get() > calls {
                vm.on_http_call_response(ROOT, proxy.calls.get(), 1);
            }
        }
        proxy.take(headers);
        let filter = Box::leak(Box::new(Filter { vm, proxy, headers: headers.len(), stream: ROOT }));
        for _ in 0..BEFORE {
            filter.begin();
            assert_eq!(filter.on_request_headers(), expected);
            filter.end();
        }
        filter.begin();
        filter
    }

    /// Begins the next stream.
    pub fn begin(&mut self) {
        self.stream += 1;
        self.vm.create(self.stream, ROOT);
    }

    /// Runs the callback of the request's headers.
    pub fn on_request_headers(&mut self) -> Flow {
        self.vm.on_request_headers(self.stream, self.headers, true)
    }

    /// Ends the stream.
    pub fn end(&mut self) {
        self.vm.delete(self.stream);
    }
}

/// Returns the policy of `full` in `envoy/bench/contestants.py`.
fn full() -> Value {
    json!({
        "name": "bench",
        "upstreams": {
            "app": {"cluster": "app", "readinessProbe": {"httpGet": {"path": "/healthz"}, "periodSeconds": 3600}},
            "v1": {"cluster": "app"},
            "v2": {"cluster": "app"},
        },
        "probes": {"liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}},
        "releases": [release("/reviews")],
        "gates": [gate(json!([{"uri": {"prefix": "/items"}}]))],
    })
}

fn split() -> Value {
    json!({
        "name": "bench",
        "upstreams": {"v1": {"cluster": "app"}, "v2": {"cluster": "app"}},
        "releases": [release("/items")],
    })
}

fn gated() -> Value {
    json!({
        "name": "bench",
        "upstreams": {"app": {"cluster": "app", "force": "notReady"}},
        "gates": [gate(json!([]))],
    })
}

fn release(prefix: &str) -> Value {
    json!({
        "name": "shop",
        "match": [{"uri": {"prefix": prefix}}],
        "steer": {"header": "x-gray-version"},
        "hashOn": [{"httpHeaderName": "x-user"}],
        "versions": [
            {"name": "v1", "upstream": "v1", "weight": 90, "default": true},
            {"name": "v2", "upstream": "v2", "weight": 10},
        ],
    })
}

fn gate(matches: Value) -> Value {
    let mut gate = json!({
        "upstream": "app",
        "reply": {"status": 503, "retryAfterSeconds": 5, "body": "not now, please\n"},
    });
    if matches != json!([]) {
        gate["match"] = matches;
    }
    gate
}
