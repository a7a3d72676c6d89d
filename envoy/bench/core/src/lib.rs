//! What is measured on: a policy with so many releases, all upstreams Ready, and a request.

use std::borrow::Cow;

use graygate::decision::{self, Decision};
use graygate::value::lifecycle::Lifecycle;
use graygate::policy::Policy;
use graygate::policy::upstream::UpstreamId;
use graygate::readiness::{UpstreamStatus, Permit, Readiness, Admission};
use graygate::decision::release::split::Split;
use graygate::value::request::Request;
use graygate::value::time::Time;
use serde_json::{Value, json};

const NOW: Time = Time::from_millis(1_767_225_600_000);

/// One request, about to be decided on.
pub struct Scene {
    policy: Policy,
    splits: Vec<Split>,
    request: &'static Headers,
}

/// A request's headers, by name.
type Pairs = [(&'static str, &'static str)];

struct Headers(&'static Pairs);

/// None of the releases is for it.
static PASSED: Headers = Headers(&[(":authority", "shop.test"), (":path", "/orders/17"), (":method", "GET")]);

/// The last release is for it.
static SPLIT: Headers =
    Headers(&[(":authority", "shop.test"), (":path", "/reviews/7"), (":method", "GET"), ("x-user", "alice")]);

impl Scene {
    /// A request that is let pass, past so many releases.
    pub fn passed(releases: usize) -> &'static mut Self {
        Self::new(releases, &PASSED, 0)
    }

    /// A request that gets a version by the last of so many releases.
    pub fn split(releases: usize) -> &'static mut Self {
        Self::new(releases, &SPLIT, 1)
    }

    /// It gets so many versions, and is never freed: that is not what is measured.
    fn new(releases: usize, request: &'static Headers, versions: usize) -> &'static mut Self {
        let document = document(releases).to_string();
        let policy = Policy::from_json(document.as_bytes()).expect("a policy with no problem");
        let split = |release| Split::new(release, NOW, NOW, &[], 7);
        let mut splits: Vec<_> = policy.releases.iter().map(split).collect();
        let decision = decision::decide(&policy, request, &mut Ready, &mut splits);
        assert_eq!(decision.assignments.len(), versions);
        Box::leak(Box::new(Scene { policy, splits, request }))
    }

    /// What is to happen to the request.
    pub fn decide(&'static mut self) -> Decision<'static> {
        decision::decide(&self.policy, self.request, &mut Ready, &mut self.splits)
    }
}

/// Probes, a gate, and releases: each for an authority and a path of its own, and the last one for a path.
fn document(releases: usize) -> Value {
    let release = |name: String, condition: Value| {
        json!({
            "name": name,
            "match": [condition],
            "steer": {"header": "x-gray-version"},
            "hashOn": [{"httpHeaderName": "x-user"}],
            "versions": [
                {"name": "v1", "upstream": "reviews-v1", "weight": 90, "default": true},
                {"name": "v2", "upstream": "reviews-v2", "weight": 10},
            ],
        })
    };
    let others = (1..releases).map(|number| {
        let own = json!({"authority": {"exact": format!("shop-{number}.test")}, "uri": {"prefix": format!("/shop-{number}/")}});
        release(format!("shop-{number}"), own)
    });
    let last = release("reviews".to_owned(), json!({"uri": {"prefix": "/reviews"}}));
    json!({
        "name": "shop",
        "upstreams": {
            "app": {"cluster": "app"},
            "reviews-v1": {"cluster": "reviews-v1"},
            "reviews-v2": {"cluster": "reviews-v2"},
        },
        "probes": {"liveness": {"path": "/livez"}, "readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}},
        "releases": others.chain([last]).collect::<Vec<_>>(),
        "gates": [{"upstream": "app"}],
    })
}

impl Request for Headers {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        // A copy, as the filter gets one from its host.
        found.map(|(_, value)| Cow::Owned(value.as_bytes().to_vec()))
    }
}

/// Every upstream is Ready.
struct Ready;

impl Readiness for Ready {
    fn admission(&mut self, _: UpstreamId) -> Admission {
        Admission::Ready
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn status(&self, _: UpstreamId) -> UpstreamStatus {
        UpstreamStatus::unknown()
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { started: true, ..Lifecycle::default() }
    }

    fn now(&self) -> Time {
        NOW
    }

    fn random(&self) -> u64 {
        7
    }
}
