//! The scenes that are measured. Each has a policy with a number of releases, upstreams that are all Ready,
//! and a request. [`filter`] has those of the whole filter.

pub mod filter;
pub mod proxy;

use std::borrow::Cow;

use graygate::decision::release::split::Split;
use graygate::decision::{self, Decision};
use graygate::policy::Policy;
use graygate::policy::upstream::UpstreamId;
use graygate::readiness::{Admission, Permit, Readiness, UpstreamStatus};
use graygate::value::date::Date;
use graygate::value::lifecycle::Lifecycle;
use graygate::value::request::Request;
use graygate::value::time::Time;
use proxy::Pairs;
use serde_json::{Value, json};

const NOW: Time = Time::from_millis(60_000);
const TODAY: Date = Date::from_millis(1_767_225_600_000);

/// One request before its decision.
pub struct Scene {
    policy: Policy,
    splits: Vec<Split>,
    request: &'static Headers,
}

struct Headers(&'static Pairs);

/// A request that no release matches.
static FORWARDED: Headers =
    Headers(&[(":authority", "shop.test"), (":path", "/orders/17"), (":method", "GET")]);

/// A request that the last release matches.
static SPLIT: Headers =
    Headers(&[(":authority", "shop.test"), (":path", "/reviews/7"), (":method", "GET"), ("x-user", "alice")]);

impl Scene {
    /// Returns a request that is forwarded past this many releases.
    pub fn passed(releases: usize) -> &'static mut Self {
        Self::new(releases, &FORWARDED, 0)
    }

    /// Returns a request that gets a version by the last of this many releases.
    pub fn split(releases: usize) -> &'static mut Self {
        Self::new(releases, &SPLIT, 1)
    }

    /// Leaks the scene, so that freeing it is not measured. Asserts the number of versions that the request
    /// gets.
    fn new(releases: usize, request: &'static Headers, versions: usize) -> &'static mut Self {
        let document = document(releases).to_string();
        let policy = Policy::from_json(document.as_bytes()).expect("a policy with no problem");
        let split = |release| Split::new(release, TODAY, NOW, &[], 7);
        let mut splits: Vec<_> = policy.releases.iter().map(split).collect();
        let decision = decision::decide(&policy, request, &mut Ready, &mut splits);
        assert_eq!(decision.assignments.len(), versions);
        Box::leak(Box::new(Scene { policy, splits, request }))
    }

    /// Decides on the request.
    pub fn decide(&'static mut self) -> Decision<'static> {
        decision::decide(&self.policy, self.request, &mut Ready, &mut self.splits)
    }
}

/// Returns a document with probes, a gate and releases. Each release but the last matches an authority and a
/// path, and the last one matches a path.
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
        // The filter gets a copy from its host, too.
        found.map(|(_, value)| Cow::Owned(value.as_bytes().to_vec()))
    }
}

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

    fn date(&self) -> Date {
        TODAY
    }

    fn random(&mut self) -> u64 {
        7
    }
}
