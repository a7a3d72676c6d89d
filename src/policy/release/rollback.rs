//! `rollback` of a release: by what a version loses what it holds.

use core::time::Duration;

use super::version::Version;
use crate::policy::reader::Value;
use crate::policy::upstream::{UpstreamDraft, read_fail_on};
use crate::value::response::{Classifier, FailOn};

/// When, and how fast. At least one of the criteria is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rollback {
    /// `failurePercent`, 1 to 99: more of the version's responses fail.
    pub failure_percent: Option<u32>,
    /// Which responses are failures. Default `5xx`.
    pub fail_on: Vec<FailOn>,
    /// `latency`: more of its responses are slow.
    pub latency: Option<Latency>,
    /// `checks.failurePercent`, 1 to 99: more of the active checks of its upstream fail.
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
    /// Reads `rollback`; `known` are the versions, and the upstreams, as far as they could be read.
    pub fn read(value: &Value<'_>, known: Option<(&[Version], &[UpstreamDraft])>) -> Option<Self> {
        let criteria = ["failurePercent", "latency", "checks"];
        let others = ["failOn", "minimumRequests", "window", "over"];
        let fields = value.object(&[&criteria[..], &others].concat())?;
        let failure_percent = fields.read("failurePercent", None, |value| percent(value).map(Some));
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
    /// Which responses are failures.
    pub fn classifier(&self) -> Classifier<'_> {
        Classifier { fail_on: &self.fail_on, ignore_on: &[] }
    }
}

/// Reads `checks`. An upstream that could not be read has a stand-in, of which nothing can be said.
fn read_checks(value: &Value<'_>, known: Option<(&[Version], &[UpstreamDraft])>) -> Option<u32> {
    let fields = value.object(&["failurePercent"])?;
    let share = fields.require("failurePercent", "a whole number from 1 to 99").and_then(percent);
    let known = known.filter(|_| value.is_first_problem());
    let upstreams = known.iter().flat_map(|(versions, upstreams)| {
        versions.iter().filter_map(|version| Some((version, upstreams.get(version.upstream.0)?)))
    });
    for (version, upstream) in upstreams.filter(|(_, upstream)| upstream.check.is_none()) {
        value.problem::<()>(format!(
            "upstream {:?} of {} has no checks; allowed: with a readinessProbe",
            upstream.name, version.name
        ));
    }
    share
}

/// A share that can be exceeded.
fn percent(value: &Value<'_>) -> Option<u32> {
    value.integer(1..=99)
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
