//! When a version loses what it holds: by its own failures, beside those of the default version.
//!
//! A version is judged by the share of its responses (or of its upstream's checks) that are bad. It is rolled
//! back when, in one window,
//!
//! 1. there are enough of them: the minimum, and as many as tell anything of so small a share;
//! 2. the share is above the limit, and a likelihood-ratio test says so with G of at least 2, which chance
//!    alone does once in some forty cases at the limit itself;
//! 3. the share is above the default version's, of as much of its past as is kept, by the same test with G of at
//!    least 12, or 16 in a window that is one of many: once in two millions, or in a hundred millions;
//! 4. and above the default version's in the same window, which itself is within the limit: what both suffer from
//!    is not the new version's fault.
//!
//! Where the default version holds nothing, the limit stands for it in 3, and there is no 4. The third makes false
//! alarms rare, however often one looks; the second spares a version that is worse than the other, but as good as
//! asked for. G is the logarithm of how much likelier the counts are if the shares differ than if they don't; 2 G
//! is about the square of a normal deviate (S. S. Wilks, 1938).
//!
//! Two windows run at the same time. The long one lasts as long as the policy says and then begins anew, but
//! not before there were twice the minimum: so little traffic is judged by all it has. The short one begins
//! anew at twice the minimum, however soon that is: so a failure that comes suddenly is not thinned out by the
//! good time before it. Short ones are many, and so are long ones of less than a minute.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::release::Release;
use crate::policy::release::rollback::Rollback;
use crate::value::time::Time;

/// What a worker saw of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observations {
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

/// What all workers of a proxy know of a policy's releases that change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackStore {
    /// When the policy was configured that it is of.
    pub configured: Time,
    /// By name. One that has been another lately may have more than one.
    pub records: Vec<(String, ReleaseState)>,
}

/// The most states of one release.
const VARIANTS: usize = 4;

impl RollbackStore {
    /// Returns the state of a release, if it is about what `subject` stands for.
    pub fn record(&mut self, release: &str, subject: u64) -> Option<&mut ReleaseState> {
        let mut records = self.records.iter_mut();
        let record = records.find(|(name, record)| name == release && record.subject == subject);
        record.map(|(_, record)| record)
    }

    /// Begins a state for a policy whose own is gone, though it has requests to judge: one that has come back
    /// without the proxy saying so, as a listener's does that has not ended, or one that is about to end.
    pub fn begin(&mut self, release: &str, record: ReleaseState) {
        let variants = self.records.iter().filter(|(name, _)| name == release).count();
        let oldest = self.records.iter().position(|(name, _)| name == release);
        if let Some(oldest) = oldest.filter(|_| variants >= VARIANTS) {
            self.records.remove(oldest);
        }
        self.records.push((release.to_owned(), record));
    }

    /// Returns the store of a policy that has just come into use, `own` its releases: what is known of each stays where
    /// the release has not changed, and begins anew where it has. Nothing if it is another's, who is newer.
    pub fn adopted_by(&self, configured: Time, own: Vec<(String, ReleaseState)>) -> Option<RollbackStore> {
        let mut known = self.clone();
        let records = own.into_iter().map(|(name, record)| {
            let kept = known.record(&name, record.subject).cloned();
            (name, kept.unwrap_or(record))
        });
        let records = records.collect();
        (self.configured <= configured).then_some(RollbackStore { configured, records })
    }
}

/// What all workers of a proxy know of a release's versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseState {
    /// What it is about: a digest of all that the policy says of the release. A rollback stands until that
    /// changes.
    pub subject: u64,
    versions: Vec<VersionState>,
    /// How much of the schedule has been made known; see [`crate::weights::schedule::Schedule::begun`].
    pub begun: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VersionState {
    since: Option<Time>,
    /// One for each of [`RollbackCause::ALL`].
    causes: [CauseWindows; 3],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CauseWindows {
    short: CauseWindow,
    long: CauseWindow,
    /// The default version's past.
    past: BadCount,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CauseWindow {
    from: Time,
    version: BadCount,
    default: BadCount,
}

/// So many, and so many bad ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadCount {
    /// All.
    pub all: u64,
    /// The bad ones.
    pub bad: u64,
}

/// What a version is rolled back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RollbackCause {
    /// Failed responses.
    Failures,
    /// Slow responses.
    Latency,
    /// Failed checks.
    Checks,
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackFinding {
    /// The version, by its index in the release.
    pub version: usize,
    /// What for.
    pub cause: RollbackCause,
    /// The most that is allowed, in percent.
    pub limit: u32,
    /// The version's counts.
    pub counts: BadCount,
    /// The default version's beside them.
    pub default: BadCount,
}

/// How many checks it takes to judge by them.
const MINIMUM_CHECKS: u32 = 5;

/// How much likelier the counts must be above the threshold, as G.
const ABOVE: f64 = 2.0;

/// How much likelier they must be worse than the default version's.
const WORSE: f64 = 12.0;

/// The same for windows of which many go into an hour.
const WORSE_OFTEN: f64 = 16.0;

/// Windows shorter than this are many.
const OFTEN: Duration = Duration::from_secs(60);

/// How many a window has room for at least: with fewer, even a version that fails always, beside one that never
/// does, could not be told from chance.
const ROOM: u64 = 24;

/// How much of the default version's past is kept, in minimums.
const PAST: u64 = 100;

impl RollbackCause {
    /// All causes, in the order in which they are looked at.
    pub const ALL: [RollbackCause; 3] =
        [RollbackCause::Failures, RollbackCause::Latency, RollbackCause::Checks];

    /// The word in metrics.
    pub fn code(self) -> &'static str {
        match self {
            RollbackCause::Failures => "failures",
            RollbackCause::Latency => "latency",
            RollbackCause::Checks => "checks",
        }
    }

    /// Whether the policy judges by it.
    pub fn is_judged(self, rollback: &Rollback) -> bool {
        self.rule(rollback).is_some()
    }

    fn count(self, observations: &Observations) -> BadCount {
        match self {
            RollbackCause::Failures => BadCount { all: observations.responses, bad: observations.failures },
            RollbackCause::Latency => BadCount { all: observations.responses, bad: observations.slow },
            RollbackCause::Checks => BadCount { all: observations.checks, bad: observations.failed_checks },
        }
    }

    /// The rule by which the policy judges this, if it does.
    fn rule(self, rollback: &Rollback) -> Option<Rule> {
        let (limit, minimum) = match self {
            RollbackCause::Failures => (rollback.failure_percent?, rollback.minimum_requests),
            RollbackCause::Latency => {
                (100u32.saturating_sub(rollback.latency?.percentile), rollback.minimum_requests)
            }
            RollbackCause::Checks => (rollback.check_failure_percent?, MINIMUM_CHECKS),
        };
        Some(Rule { limit, minimum: minimum.max(telling(limit)).into(), window: rollback.window })
    }
}

impl ReleaseState {
    /// Nothing is known yet. What the schedule has done by now is no news.
    pub fn new(release: &Release, subject: u64, now: Time) -> Self {
        let window = CauseWindow { from: now, version: BadCount::default(), default: BadCount::default() };
        let windows = CauseWindows { short: window.clone(), long: window, past: BadCount::default() };
        let state = VersionState { since: None, causes: [windows.clone(), windows.clone(), windows] };
        let state = if release.rollback.is_some() { vec![state; release.versions.len()] } else { Vec::new() };
        ReleaseState { subject, versions: state, begun: release.schedule.begun(now) as u64 }
    }

    /// Since when each version is rolled back, if it is.
    pub fn rolled_back(&self) -> Vec<Option<Time>> {
        self.versions.iter().map(|state| state.since).collect()
    }

    /// Takes what a worker saw of each version; `default_holds` tells whether the default one has a share. What follows is given back once: a version that is rolled back
    /// stays so, and is judged no more.
    pub fn on_observations(
        &mut self,
        release: &Release,
        now: Time,
        seen: &[Observations],
        default_holds: bool,
    ) -> Vec<RollbackFinding> {
        let Some(rollback) = &release.rollback else {
            return Vec::new();
        };
        let default = seen.get(release.default).copied().unwrap_or_default();
        let mut findings = Vec::new();
        for (version, (state, observations)) in self.versions.iter_mut().zip(seen).enumerate() {
            if version == release.default || state.since.is_some() {
                continue;
            }
            for (cause, windows) in RollbackCause::ALL.into_iter().zip(&mut state.causes) {
                let Some(rule) = cause.rule(rollback) else {
                    continue;
                };
                windows.add(cause.count(observations), cause.count(&default), &rule);
                let found = windows.judge(&rule, default_holds, now);
                if let Some((counts, default)) = found {
                    state.since = Some(now);
                    findings.push(RollbackFinding { version, cause, limit: rule.limit, counts, default });
                    break;
                }
            }
        }
        findings
    }
}

/// How many it takes to tell three times this share, in percent, from the share itself: with twice as many, it is
/// told in nineteen of twenty cases. 290 at 1 %, 140 at 2 %, 50 at 5 %.
fn telling(limit: u32) -> u32 {
    300u32.checked_div(limit).unwrap_or(300).saturating_sub(10)
}

/// By what a share of bad ones is judged.
struct Rule {
    /// In percent.
    limit: u32,
    minimum: u64,
    window: Duration,
}

impl Rule {
    /// How many a window has room for before it may begin anew.
    fn room(&self) -> u64 {
        (2 * self.minimum).max(ROOM)
    }
}

impl CauseWindows {
    fn add(&mut self, version: BadCount, default: BadCount, rule: &Rule) {
        for window in [&mut self.long, &mut self.short] {
            window.version.add(version);
            window.default.add(default);
        }
        self.past.add(default);
        // Halved, so that the latest counts most.
        if self.past.all > PAST * rule.minimum {
            self.past = BadCount { all: self.past.all / 2, bad: self.past.bad / 2 };
        }
    }

    /// The counts that the version is to be rolled back for, if it is: its own, and the default version's beside
    /// them. Begins windows anew that are over.
    fn judge(&mut self, rule: &Rule, default_holds: bool, now: Time) -> Option<(BadCount, BadCount)> {
        let often = if rule.window < OFTEN { WORSE_OFTEN } else { WORSE };
        let past = default_holds.then_some(self.past);
        for (window, worse, span) in
            [(&mut self.long, often, rule.window), (&mut self.short, WORSE_OFTEN, Duration::ZERO)]
        {
            if window.is_bad(rule, past, worse) {
                return Some((window.version, past.unwrap_or(window.default)));
            }
            let passed = |span| now.is_due(window.from, window.from + span);
            let full = window.version.all >= rule.room();
            // While nothing comes of the version, what the default one does says nothing of then.
            let idle = window.version.all == 0 && passed(rule.window);
            if (full && passed(span)) || idle {
                *window =
                    CauseWindow { from: now, version: BadCount::default(), default: BadCount::default() };
            }
        }
        None
    }
}

impl CauseWindow {
    /// `past` is the default version's, if it holds anything.
    fn is_bad(&self, rule: &Rule, past: Option<BadCount>, worse: f64) -> bool {
        let CauseWindow { version, default, .. } = self;
        let limit = f64::from(rule.limit) / 100.0;
        if version.all < rule.minimum || version.share() <= limit {
            return false;
        }
        let above = version.against(limit);
        let beyond = match past {
            Some(past) => {
                default.share() <= limit
                    && version.above(past) >= worse
                    && (default.all < rule.minimum || version.above(*default) >= ABOVE)
            }
            None => above >= worse,
        };
        above >= ABOVE && beyond
    }
}

impl BadCount {
    fn add(&mut self, more: BadCount) {
        self.all += more.all;
        self.bad += more.bad;
    }

    /// The share of bad ones; 0 of none.
    fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.bad as f64 / self.all as f64 }
    }

    /// The same for this share and the `other` being two against their being one; 0 where this is not above it.
    fn above(self, other: BadCount) -> f64 {
        let joint = BadCount { all: self.all + other.all, bad: self.bad + other.bad }.share();
        if self.share() > other.share() { self.against(joint) + other.against(joint) } else { 0.0 }
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

impl fmt::Display for BadCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (self.bad * 1_000 + self.all / 2).checked_div(self.all).unwrap_or_default();
        write!(f, "{}.{} % of {}", permille / 10, permille % 10, self.all)
    }
}

impl RollbackFinding {
    /// The numbers in words, for the log.
    pub fn describe(&self, release: &Release) -> String {
        let RollbackFinding { cause, limit, counts, default, .. } = self;
        let (what, of) = match cause {
            RollbackCause::Failures => ("failures".to_owned(), "requests"),
            RollbackCause::Latency => {
                let above = release.rollback.as_ref().and_then(|rollback| rollback.latency);
                let above = above.map(|latency| latency.above).unwrap_or_default();
                (format!("slower than {above:?}"), "requests")
            }
            RollbackCause::Checks => ("failed checks".to_owned(), "checks"),
        };
        let name = release.versions.get(release.default).map_or("", |version| &version.name);
        format!("{what} {counts} {of}, above {limit} %; {name} {default}")
    }
}

#[cfg(test)]
mod tests;
