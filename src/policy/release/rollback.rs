//! `rollback` of a release: the criteria by which a version loses its buckets.

use core::time::Duration;

use super::version::Version;
use crate::policy::keys;
use crate::policy::reader::Value;
use crate::policy::upstream::{UpstreamDraft, read_fail_on};
use crate::value::response::{Classifier, FailOn};

/// When a version is rolled back, and how fast. At least one of the criteria is set: `failure_percent`, `latency` or
/// `check_failure_percent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rollback {
    /// `failurePercent`: the version is rolled back if a larger share of its responses fails. 1 to 99.
    pub failure_percent: Option<u32>,
    /// The responses that are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// `latency`: the version is rolled back if too many of its responses are slow.
    pub latency: Option<Latency>,
    /// `checks.failurePercent`: the version is rolled back if a larger share of its upstream's checks fails. 1 to 99.
    pub check_failure_percent: Option<u32>,
    /// The least number of responses in the window. With fewer, its responses are not judged. 1 to 1,000,000, default
    /// 50.
    pub minimum_requests: u32,
    /// The length of the window. 1 s to 1 h, default 60 s.
    pub window: Duration,
    /// How long the version takes to lose its buckets. 0 s to 24 h. Default 0 s, which means at once.
    pub over: Duration,
}

/// `latency`: a limit on the time to a response's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Latency {
    /// The share of responses that must stay within the limit, in percent. 1 to 99.
    pub percentile: u32,
    /// The limit. 1 ms to 1 h.
    pub above: Duration,
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

impl Rollback {
    /// Returns whether a response that took so long is slow.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.latency.is_some_and(|latency| took > latency.above)
    }

    /// Reads `rollback`. `known` are the versions and the upstreams, or `None` if either could not be read.
    pub fn read(value: &Value<'_>, known: Option<(&[Version], &[UpstreamDraft])>) -> Option<Self> {
        let criteria = ["failurePercent", "latency", "checks"];
        let fields = value.object(&keys::ROLLBACK)?;
        let failure_percent = fields.read("failurePercent", None, |value| read_percent(value).map(Some));
        let latency = fields.read("latency", None, |value| Latency::read(value).map(Some));
        let check_failure_percent = fields.read("checks", None, |value| read_checks(value, known).map(Some));
        let fail_on = read_fail_on(&fields);
        let minimum_requests = fields.read("minimumRequests", 50, |value| value.integer(1..=1_000_000));
        let window = fields.read("window", 60_000 * MS, |value| value.duration(1_000 * MS..=HOUR));
        let over = fields.read("over", Duration::ZERO, |value| value.duration(Duration::ZERO..=24 * HOUR));
        if !criteria.iter().any(|key| fields.get(key).is_some()) {
            return value
                .problem("nothing to judge by; allowed: at least one of failurePercent, latency, checks");
        }
        Some(Rollback {
            failure_percent: failure_percent?,
            fail_on: fail_on?,
            latency: latency?,
            check_failure_percent: check_failure_percent?,
            minimum_requests: minimum_requests?,
            window: window?,
            over: over?,
        })
    }
}

impl Rollback {
    /// Returns the classifier for this rollback's `failOn`.
    pub fn classifier(&self) -> Classifier<'_> {
        Classifier { fail_on: &self.fail_on, ignore_on: &[] }
    }
}

/// Reads `checks`. Refuses versions whose upstream has no checks, unless the policy has problems already. An invalid
/// upstream is a placeholder then, and may have had checks.
fn read_checks(value: &Value<'_>, known: Option<(&[Version], &[UpstreamDraft])>) -> Option<u32> {
    let fields = value.object(&keys::CHECK_FAILURES)?;
    let failure_percent =
        fields.require("failurePercent", "a whole number from 1 to 99").and_then(read_percent);
    let known = known.filter(|_| value.policy_is_valid_so_far());
    let upstreams = known.iter().flat_map(|(versions, upstreams)| {
        versions.iter().filter_map(|version| Some((version, upstreams.get(version.upstream.0)?)))
    });
    for (version, upstream) in upstreams.filter(|(_, upstream)| upstream.check.is_none()) {
        value.problem::<()>(format!(
            "upstream {:?} of {} has no checks; allowed: with a readinessProbe",
            upstream.name, version.name
        ));
    }
    failure_percent
}

/// Reads a share in percent that can be exceeded, which 100 cannot.
fn read_percent(value: &Value<'_>) -> Option<u32> {
    value.integer(1..=99)
}

impl Latency {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&keys::LATENCY)?;
        let percentile = fields
            .require("percentile", "a whole number from 1 to 99")
            .and_then(|value| value.integer(1..=99));
        let above = fields
            .require("above", "a duration such as \"300ms\"")
            .and_then(|value| value.duration(MS..=HOUR));
        Some(Latency { percentile: percentile?, above: above? })
    }
}
