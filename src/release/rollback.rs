//! When a version loses what it holds: by its own failures, beside those of the default version.
//!
//! A version is judged by the share of its responses (or of its upstream's checks) that are bad. It is rolled
//! back when, in one window,
//!
//! 1. there are enough of them: the minimum;
//! 2. the share is above the threshold, and a likelihood-ratio test says so with G of at least 2, which chance
//!    alone does once in some forty cases at the threshold itself;
//! 3. the share is above the default version's in the same window, by the same test with G of at least 12, or 16
//!    in windows shorter than a minute: once in two millions, or in a hundred millions. What both suffer from is
//!    not the new version's fault. Where the default version has had fewer than the minimum, the threshold stands
//!    for it, unless it is itself above that.
//!
//! The third makes false alarms rare, however often one looks; the second spares a version that is worse than
//! the other, but as good as asked for. G is the logarithm of how much likelier the counts are if the shares
//! differ than if they don't; 2 G is about the square of a normal deviate (S. S. Wilks, 1938).
//!
//! Two windows run at the same time. The long one lasts as long as the policy says and then begins anew, but
//! not before there were twice the minimum: so little traffic is judged by all it has. The short one begins
//! anew at twice the minimum: so a failure that comes suddenly is not thinned out by the good time before it.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::release::Release;
use crate::policy::release::rollback::Rollback;
use crate::time::Time;

/// What a worker saw of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Responses that say something about it.
    pub responses: u64,
    /// Of these, failures.
    pub failures: u64,
    /// Of these, slow ones.
    pub slow: u64,
    /// Active checks of its upstream.
    pub checks: u64,
    /// Of these, failed ones.
    pub failed_checks: u64,
}

/// What all workers of a proxy know of a release's versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is about: a hash of all that the policy says of the release. A rollback stands until that changes.
    pub subject: u64,
    versions: Vec<Judged>,
    /// How many steps of the schedule have been made known.
    pub steps: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Judged {
    since: Option<Time>,
    /// One for each of [`Cause::ALL`].
    series: [Series; 3],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    short: Window,
    long: Window,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    from: Time,
    version: Count,
    default: Count,
}

/// So many, and so many bad ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// All.
    pub all: u64,
    /// The bad ones.
    pub bad: u64,
}

/// What a version is rolled back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Failed responses.
    Failures,
    /// Slow responses.
    Latency,
    /// Failed checks.
    Checks,
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The version, by its place in the release.
    pub version: usize,
    /// What for.
    pub cause: Cause,
    /// The threshold, in percent.
    pub limit: u32,
    /// The version's counts.
    pub counts: Count,
    /// The default version's in the same window.
    pub default: Count,
}

/// How many checks it takes to judge by them.
const MINIMUM_CHECKS: u64 = 5;

/// How much likelier the counts must be above the threshold.
const ABOVE: f64 = 2.0;

/// A window that is shorter than this is looked at more often.
const LONG: core::time::Duration = core::time::Duration::from_secs(60);

impl Cause {
    /// All causes, in the order in which they are looked at.
    pub const ALL: [Cause; 3] = [Cause::Failures, Cause::Latency, Cause::Checks];

    /// The word in metrics.
    pub fn code(self) -> &'static str {
        match self {
            Cause::Failures => "failures",
            Cause::Latency => "latency",
            Cause::Checks => "checks",
        }
    }

    fn count(self, tally: &Tally) -> Count {
        match self {
            Cause::Failures => Count { all: tally.responses, bad: tally.failures },
            Cause::Latency => Count { all: tally.responses, bad: tally.slow },
            Cause::Checks => Count { all: tally.checks, bad: tally.failed_checks },
        }
    }

    /// The threshold in percent, and the minimum; nothing where the policy does not judge by it.
    fn rule(self, rollback: &Rollback) -> Option<(u32, u64)> {
        let minimum = u64::from(rollback.minimum_requests);
        match self {
            Cause::Failures => Some((rollback.failure_percent?, minimum)),
            Cause::Latency => Some((100u32.saturating_sub(rollback.latency?.percentile), minimum)),
            Cause::Checks => Some((rollback.check_failure_percent?, MINIMUM_CHECKS)),
        }
    }
}

impl Record {
    /// Nothing is known yet. What the schedule has done by now is no news.
    pub fn new(release: &Release, subject: u64, now: Time) -> Self {
        let window = Window { from: now, version: Count::default(), default: Count::default() };
        let series = Series { short: window.clone(), long: window };
        let judged = Judged { since: None, series: [series.clone(), series.clone(), series] };
        let judged =
            if release.rollback.is_some() { vec![judged; release.versions.len()] } else { Vec::new() };
        Record { subject, versions: judged, steps: release.schedule.begun(now) as u64 }
    }

    /// Since when each version is rolled back, if it is.
    pub fn rolled_back(&self) -> Vec<Option<Time>> {
        self.versions.iter().map(|judged| judged.since).collect()
    }

    /// Takes what a worker saw of each version. What follows is given back once: a version that is rolled back
    /// stays so, and is judged no more.
    pub fn observed(&mut self, release: &Release, now: Time, seen: &[Tally]) -> Vec<Finding> {
        let Some(rollback) = &release.rollback else {
            return Vec::new();
        };
        let default = seen.get(release.default).copied().unwrap_or_default();
        let mut findings = Vec::new();
        for (version, (judged, tally)) in self.versions.iter_mut().zip(seen).enumerate() {
            if version == release.default || judged.since.is_some() {
                continue;
            }
            for (cause, series) in Cause::ALL.into_iter().zip(&mut judged.series) {
                let Some((limit, minimum)) = cause.rule(rollback) else {
                    continue;
                };
                let found =
                    series.add(cause.count(tally), cause.count(&default), now, rollback, (limit, minimum));
                if let Some((counts, default)) = found {
                    judged.since = Some(now);
                    findings.push(Finding { version, cause, limit, counts, default });
                    break;
                }
            }
        }
        findings
    }
}

impl Series {
    /// Adds counts of the version and the default version. Gives those that it is to be rolled back for.
    fn add(
        &mut self,
        version: Count,
        default: Count,
        now: Time,
        rollback: &Rollback,
        (limit, minimum): (u32, u64),
    ) -> Option<(Count, Count)> {
        let doubt = if rollback.window < LONG { 16.0 } else { 12.0 };
        for (window, doubt, span) in
            [(&mut self.long, doubt, Some(rollback.window)), (&mut self.short, 16.0, None)]
        {
            window.version.add(version);
            window.default.add(default);
            if window.is_bad(f64::from(limit) / 100.0, minimum, doubt) {
                return Some((window.version, window.default));
            }
            let passed = span.is_none_or(|span| now.since(window.from) >= span);
            let full = window.version.all >= 2 * minimum;
            // While nothing comes of the version, what the default one does says nothing of then.
            let idle = window.version.all == 0 && now.since(window.from) >= rollback.window;
            if (passed && full) || idle {
                *window = Window { from: now, version: Count::default(), default: Count::default() };
            }
        }
        None
    }
}

impl Window {
    fn is_bad(&self, threshold: f64, minimum: u64, doubt: f64) -> bool {
        let Window { version, default, .. } = self;
        if version.all < minimum || version.share() <= threshold {
            return false;
        }
        let above = version.against(threshold);
        let beyond = if default.all >= minimum {
            let joint = Count { all: version.all + default.all, bad: version.bad + default.bad }.share();
            let worse = version.share() > default.share();
            worse && version.against(joint) + default.against(joint) >= doubt
        } else {
            default.share() <= threshold && above >= doubt
        };
        above >= ABOVE && beyond
    }
}

impl Count {
    fn add(&mut self, more: Count) {
        self.all += more.all;
        self.bad += more.bad;
    }

    /// The share of bad ones; 0 of none.
    fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.bad as f64 / self.all as f64 }
    }

    /// The logarithm of how much likelier these counts are by their own share than by `share`.
    fn against(self, share: f64) -> f64 {
        let term = |count: u64, expected: f64| {
            if count == 0 { 0.0 } else { count as f64 * (count as f64 / expected).ln() }
        };
        let all = self.all as f64;
        term(self.bad, all * share) + term(self.all.saturating_sub(self.bad), all * (1.0 - share))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (self.bad * 1_000 + self.all / 2).checked_div(self.all).unwrap_or_default();
        write!(f, "{}.{} % of {}", permille / 10, permille % 10, self.all)
    }
}

impl Finding {
    /// The numbers in words, for the log.
    pub fn words(&self, release: &Release) -> String {
        let Finding { cause, limit, counts, default, .. } = self;
        let (what, of) = match cause {
            Cause::Failures => ("failures".to_owned(), "requests"),
            Cause::Latency => {
                let above = release.rollback.as_ref().and_then(|rollback| rollback.latency);
                let above = above.map(|latency| latency.above).unwrap_or_default();
                (format!("slower than {above:?}"), "requests")
            }
            Cause::Checks => ("failed checks".to_owned(), "checks"),
        };
        let name = release.versions.get(release.default).map_or("", |version| &version.name);
        format!("{what} {counts} {of}, above {limit} %; {name} {default}")
    }
}

#[cfg(test)]
mod tests;
