//! `rollback` of a release: the criteria by which a version loses its buckets.

use core::time::Duration;

use super::version::Version;
use crate::policy::reader::Value;
use crate::policy::upstream::{UpstreamDraft, read_fail_on};
use crate::value::response::{Classifier, FailOn};

/// When a version is rolled back, and how fast. If it judges, at least one of the criteria is set: `failure_percent`,
/// `latency` or `check_failure_percent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rollback {
    /// `judge`: whether a version can be rolled back. If not, its responses are only counted. Default true.
    pub judges: bool,
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
    /// The share of responses that must stay within the limit, in percent. 1 to 99, default 99.
    pub percentile: u32,
    /// The limit. 1 ms to 1 h.
    pub above: Duration,
}

impl Rollback {
    /// Returns whether a response that took so long is slow.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.latency.is_some_and(|latency| took > latency.above)
    }

    /// Reads `rollback`. `known` are the versions and the upstreams, or `None` if either could not be read.
    pub fn read(value: &Value<'_>, known: Option<(&[Version], &[UpstreamDraft])>) -> Option<Self> {
        let fields = value.object()?;
        let judges = fields.boolean("judge");
        let failure_percent = fields.optional("failurePercent", Value::whole);
        let latency = fields.optional("latency", Latency::read);
        let check_failure_percent = fields.optional("checks", |value| read_checks(value, known));
        let fail_on = read_fail_on(&fields);
        let minimum_requests = fields.whole("minimumRequests");
        let window = fields.duration("window");
        let over = fields.duration("over");
        Some(Rollback {
            judges: judges?,
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
    let failure_percent = value.object()?.whole("failurePercent");
    let known = known.filter(|_| value.policy_is_valid_so_far());
    let upstreams = known.iter().flat_map(|(versions, upstreams)| {
        versions.iter().filter_map(|version| Some((version, upstreams.get(version.upstream.0)?)))
    });
    for (version, upstream) in upstreams.filter(|(_, upstream)| upstream.check.is_none()) {
        value.problem::<()>(format!(
            "upstream {:?} of {} has no checks; add a readinessProbe to it",
            upstream.name, version.name
        ));
    }
    failure_percent
}

impl Latency {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object()?;
        let percentile = fields.whole("percentile");
        let above = fields.duration("above");
        Some(Latency { percentile: percentile?, above: above? })
    }
}
