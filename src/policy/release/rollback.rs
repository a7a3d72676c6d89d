//! `rollback` of a release: by what a version loses what it holds.

use core::time::Duration;

use super::version::Version;
use crate::policy::reader::{Fields, Value};
use crate::policy::upstream::{FailOn, Upstream};

/// When, and how fast. At least one of the criteria is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rollback {
    /// `failurePercent`, 1 to 100: more of the version's responses fail.
    pub failure_percent: Option<u32>,
    /// Which responses are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// `latency`: more of its responses are slow.
    pub latency: Option<Latency>,
    /// `checks.failurePercent`, 1 to 100: more of the active checks of its upstream fail.
    pub check_failure_percent: Option<u32>,
    /// How many responses it takes to judge. 1 to 1,000,000, default 50.
    pub minimum_requests: u32,
    /// What is judged together. 1 s to 1 h, default 60 s.
    pub window: Duration,
    /// How long the version takes to lose what it holds. 0 s to 24 h, default 0 s: at once.
    pub over: Duration,
}

/// `latency`: the time to a response's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Latency {
    /// This share of the responses, 1 to 99 %, …
    pub percentile: u32,
    /// … must not take longer than this. 1 ms to 1 h.
    pub above: Duration,
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

impl Rollback {
    /// Reads `rollback`.
    pub fn read(value: &Value<'_>) -> Option<Self> {
        let criteria = ["failurePercent", "latency", "checks"];
        let others = ["failOn", "minimumRequests", "window", "over"];
        let fields = value.object(&[&criteria[..], &others].concat())?;
        let percent = |value: &Value<'_>| value.integer(1..=100).map(Some);
        let failure_percent = fields.read("failurePercent", None, percent);
        let latency = fields.read("latency", None, |value| Latency::read(value).map(Some));
        let check_failure_percent = fields.read("checks", None, |value| {
            let fields = value.object(&["failurePercent"])?;
            fields.require("failurePercent", "a whole number from 1 to 100").and_then(percent)
        });
        let fail_on = FailOn::read_list(&fields);
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

    /// Notes versions that the checks can't judge, as they have none.
    pub(super) fn judge(&self, fields: &Fields<'_>, versions: &[Version], upstreams: &[Upstream]) {
        let unchecked = |version: &&Version| {
            upstreams.get(version.upstream.0).is_some_and(|upstream| upstream.check.is_none())
        };
        let rollback = fields.get("rollback").filter(|_| self.check_failure_percent.is_some());
        if let (Some(rollback), Some(version)) = (rollback, versions.iter().find(unchecked)) {
            rollback.problem::<()>(format!(
                "checks: the upstream of {} has none; allowed: a readinessProbe for the upstream of each version",
                version.name
            ));
        }
    }
}

impl Latency {
    fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.object(&["percentile", "above"])?;
        let percentile = fields.require("percentile", "a whole number from 1 to 99");
        let percentile = percentile.and_then(|value| value.integer(1..=99));
        let above = fields.require("above", "a duration such as \"300ms\"");
        let above = above.and_then(|value| value.duration(MS..=HOUR));
        Some(Latency { percentile: percentile?, above: above? })
    }
}
