//! Decides when a version is rolled back. Compares its failures with those of the default version.
//!
//! A version is judged by the share of bad ones among its responses, or among the checks of its upstream. It
//! is rolled back if all of these hold in one window:
//!
//! 1. It has at least the minimum of responses, and as many as it takes to judge so small a share.
//! 2. The share is above the limit. A likelihood-ratio test confirms it with G of at least 2. Chance alone
//!    reaches that in about one of forty cases at the limit itself.
//! 3. The share is above the default version's share, over as much of its past as is kept. The same test
//!    confirms it with G of at least 12, or 16 in a frequent window. Chance alone reaches that once in two
//!    million, or once in a hundred million.
//! 4. The share is above the default version's share in the same window, and that share is within the limit.
//!    A problem that both versions share is not the fault of the new one.
//!
//! If the default version holds nothing, rule 3 compares with the limit and rule 4 does not apply.
//!
//! Rule 3 keeps false alarms rare, however often the version is judged. Rule 2 spares a version that is worse
//! than the default but as good as required.
//!
//! G is the natural logarithm of how much likelier the counts are if the two shares differ than if they are
//! equal. Its double is about the square of a normal deviate (Wilks, 1938).
//!
//! Two windows run at the same time.
//!
//! - The long window lasts as long as the policy says, and at least until it has twice the minimum. Sparse
//!   traffic is therefore judged by all of it.
//! - The short window starts over at twice the minimum, however soon that is. A sudden failure is therefore
//!   not diluted by the good time before it.
//!
//! Short windows are frequent. So are long windows of less than a minute.

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::release::Release;
use crate::policy::release::rollback::Rollback;
use crate::value::date::Date;
use crate::value::time::Time;

/// What a worker observed of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// The number of responses that are evidence.
    pub responses: u64,
    /// The number of failed responses among them.
    pub failures: u64,
    /// The number of slow responses among them.
    pub slow: u64,
    /// The number of active checks of its upstream.
    pub checks: u64,
    /// The number of failed checks among them.
    pub failed_checks: u64,
}

/// The rollback states of a policy's releases, which all workers of a proxy share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackStore {
    /// The time at which its policy was configured.
    pub configured: Time,
    /// The states, by release name. A release that was changed may have several.
    pub states: Vec<(String, ReleaseState)>,
}

/// The maximum number of states of one release.
const MAX_VARIANTS: usize = 4;

impl RollbackStore {
    /// Returns the state of a release with this `identity`, or `None` if there is none.
    pub fn state(&mut self, release: &str, identity: u64) -> Option<&mut ReleaseState> {
        let mut states = self.states.iter_mut();
        let found = states.find(|(name, state)| name == release && state.identity == identity);
        found.map(|(_, state)| state)
    }

    /// Adds a state for a release whose own state is gone although it has requests to judge. Drops the oldest
    /// state of the release if there are too many.
    ///
    /// That happens to a policy that came back without a notice from the proxy, such as that of a listener
    /// that did not end. It also happens to a policy that is about to end.
    pub fn begin(&mut self, release: &str, state: ReleaseState) {
        let variants = self.states.iter().filter(|(name, _)| name == release).count();
        let oldest = self.states.iter().position(|(name, _)| name == release);
        if let Some(oldest) = oldest.filter(|_| variants >= MAX_VARIANTS) {
            self.states.remove(oldest);
        }
        self.states.push((release.to_owned(), state));
    }

    /// Returns the store of a policy that has just come into use, with `own` as its new states.
    ///
    /// The state of a release that has not changed is kept. Returns `None` if the store belongs to a newer
    /// policy.
    pub fn adopted_by(&self, configured: Time, own: Vec<(String, ReleaseState)>) -> Option<RollbackStore> {
        if self.configured > configured {
            return None;
        }
        let mut known = self.clone();
        let mut states = Vec::with_capacity(own.len());
        for (name, new) in own {
            let kept = known.state(&name, new.identity).cloned();
            states.push((name, kept.unwrap_or(new)));
        }
        Some(RollbackStore { configured, states })
    }
}

/// The rollback state of one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseState {
    /// The digest of everything that the policy says about the release. A rollback stands until it changes.
    pub identity: u64,
    versions: Vec<VersionState>,
    /// How many changes of the schedule have been reported. See
    /// [`crate::weights::schedule::Schedule::steps_begun`].
    pub steps_begun: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VersionState {
    rolled_back_at: Option<Time>,
    /// The windows of each cause in [`RollbackCause::ALL`].
    causes: [CauseWindows; 3],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CauseWindows {
    short: CauseWindow,
    long: CauseWindow,
    /// The counts of the default version's past.
    past: BadCount,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CauseWindow {
    from: Time,
    version: BadCount,
    default: BadCount,
}

/// The number of responses or checks, and how many of them are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadCount {
    /// The number of all.
    pub all: u64,
    /// The number of bad ones.
    pub bad: u64,
}

/// The cause of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RollbackCause {
    /// Failed responses.
    Failures,
    /// Slow responses.
    Latency,
    /// Failed checks.
    Checks,
}

/// The evidence for a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackFinding {
    /// The version, by its index in the release.
    pub version: usize,
    /// The cause.
    pub cause: RollbackCause,
    /// The limit, in percent.
    pub limit: u32,
    /// The counts of the version.
    pub counts: BadCount,
    /// The counts of the default version.
    pub default: BadCount,
}

const MINIMUM_CHECKS: u32 = 5;

/// The least G by which the share must be above a threshold.
const MIN_G_ABOVE: f64 = 2.0;

/// The least G by which the share must be above the default version's share.
const MIN_G_ABOVE_DEFAULT: f64 = 12.0;

/// The same for frequent windows.
const MIN_G_ABOVE_DEFAULT_FREQUENT: f64 = 16.0;

/// Windows shorter than this are frequent.
const FREQUENT: Duration = Duration::from_secs(60);

/// The least number of responses that a window has room for. With fewer, chance could explain even a version
/// that always fails beside one that never does.
const MIN_ROOM: u64 = 24;

/// How much of the default version's past is kept, in multiples of the minimum.
const MAX_PAST: u64 = 100;

impl RollbackCause {
    /// All causes, in the order in which they are judged.
    pub const ALL: [RollbackCause; 3] =
        [RollbackCause::Failures, RollbackCause::Latency, RollbackCause::Checks];

    /// Returns the code in metrics.
    pub fn code(self) -> &'static str {
        match self {
            RollbackCause::Failures => "failures",
            RollbackCause::Latency => "latency",
            RollbackCause::Checks => "checks",
        }
    }

    /// Returns whether the policy judges by it.
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

    /// Returns the rule by which the policy judges this cause, if it does.
    fn rule(self, rollback: &Rollback) -> Option<Rule> {
        let (limit, minimum) = match self {
            RollbackCause::Failures => (rollback.failure_percent?, rollback.minimum_requests),
            RollbackCause::Latency => {
                (100u32.saturating_sub(rollback.latency?.percentile), rollback.minimum_requests)
            }
            RollbackCause::Checks => (rollback.check_failure_percent?, MINIMUM_CHECKS),
        };
        Some(Rule { limit, minimum: minimum.max(minimum_to_judge(limit)).into(), window: rollback.window })
    }
}

impl ReleaseState {
    /// Creates a state without evidence, whose windows begin at `now`. Changes of the schedule that have begun
    /// by `date` count as reported.
    pub fn new(release: &Release, identity: u64, now: Time, date: Date) -> Self {
        let window = CauseWindow::new(now);
        let windows = CauseWindows { short: window.clone(), long: window, past: BadCount::default() };
        let version =
            VersionState { rolled_back_at: None, causes: [windows.clone(), windows.clone(), windows] };
        let judged = if release.rollback.is_some() { release.versions.len() } else { 0 };
        ReleaseState {
            identity,
            versions: vec![version; judged],
            steps_begun: release.schedule.steps_begun(date) as u64,
        }
    }

    /// Returns the time at which each version was rolled back, if it was.
    pub fn rolled_back(&self) -> Vec<Option<Time>> {
        self.versions.iter().map(|state| state.rolled_back_at).collect()
    }

    /// Takes what a worker observed of each version, and returns new rollbacks.
    ///
    /// `default_holds` is whether the default version holds a share. A version that is rolled back stays so
    /// and is no longer judged.
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
            if version == release.default || state.rolled_back_at.is_some() {
                continue;
            }
            for (cause, windows) in RollbackCause::ALL.into_iter().zip(&mut state.causes) {
                let Some(rule) = cause.rule(rollback) else {
                    continue;
                };
                windows.add(cause.count(observations), cause.count(&default), &rule);
                if let Some((counts, default)) = windows.judge(&rule, default_holds, now) {
                    state.rolled_back_at = Some(now);
                    findings.push(RollbackFinding { version, cause, limit: rule.limit, counts, default });
                    break;
                }
            }
        }
        findings
    }
}

/// Returns how many responses it takes to tell three times this share, in percent, from the share itself. The
/// result is 290 at 1 %, 140 at 2 %, and 50 at 5 %. With twice as many, nineteen of twenty cases can be
/// distinguished.
fn minimum_to_judge(limit: u32) -> u32 {
    300u32.checked_div(limit).unwrap_or(300).saturating_sub(10)
}

struct Rule {
    /// The limit, in percent.
    limit: u32,
    minimum: u64,
    window: Duration,
}

impl Rule {
    /// Returns how many responses a window has room for before it may start over.
    fn room(&self) -> u64 {
        (2 * self.minimum).max(MIN_ROOM)
    }
}

impl CauseWindows {
    fn add(&mut self, version: BadCount, default: BadCount, rule: &Rule) {
        for window in [&mut self.long, &mut self.short] {
            window.version.add(version);
            window.default.add(default);
        }
        self.past.add(default);
        // Halving gives the latest counts the most weight.
        if self.past.all > MAX_PAST * rule.minimum {
            self.past = BadCount { all: self.past.all / 2, bad: self.past.bad / 2 };
        }
    }

    /// Returns the version's counts and the default version's counts if the version must be rolled back.
    /// Starts ended windows over.
    fn judge(&mut self, rule: &Rule, default_holds: bool, now: Time) -> Option<(BadCount, BadCount)> {
        let min_g_of_long =
            if rule.window < FREQUENT { MIN_G_ABOVE_DEFAULT_FREQUENT } else { MIN_G_ABOVE_DEFAULT };
        let past = default_holds.then_some(self.past);
        for (window, min_g, span) in [
            (&mut self.long, min_g_of_long, rule.window),
            (&mut self.short, MIN_G_ABOVE_DEFAULT_FREQUENT, Duration::ZERO),
        ] {
            if window.is_bad(rule, past, min_g) {
                return Some((window.version, past.unwrap_or(window.default)));
            }
            let has_lasted = |span| now >= window.from + span;
            let is_full = window.version.all >= rule.room();
            // While the version has no responses, the default version's counts do not bear on later ones.
            let is_idle = window.version.all == 0 && has_lasted(rule.window);
            if (is_full && has_lasted(span)) || is_idle {
                *window = CauseWindow::new(now);
            }
        }
        None
    }
}

impl CauseWindow {
    fn new(now: Time) -> Self {
        CauseWindow { from: now, version: BadCount::default(), default: BadCount::default() }
    }

    /// Returns whether the version is bad in this window. `past` is the default version's past, if it holds a
    /// share.
    fn is_bad(&self, rule: &Rule, past: Option<BadCount>, min_g: f64) -> bool {
        let CauseWindow { version, default, .. } = self;
        let limit = f64::from(rule.limit) / 100.0;
        if version.all < rule.minimum || version.share() <= limit {
            return false;
        }
        let g_above_limit = version.g_against(limit);
        let is_worse_than_default = match past {
            Some(past) => {
                default.share() <= limit
                    && version.g_above(past) >= min_g
                    && (default.all < rule.minimum || version.g_above(*default) >= MIN_G_ABOVE)
            }
            None => g_above_limit >= min_g,
        };
        g_above_limit >= MIN_G_ABOVE && is_worse_than_default
    }
}

impl BadCount {
    fn add(&mut self, more: BadCount) {
        self.all += more.all;
        self.bad += more.bad;
    }

    /// Returns the share of bad ones, or 0 without any counts.
    fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.bad as f64 / self.all as f64 }
    }

    /// Returns G for two different shares against one common share. Returns 0 if this share is not above the
    /// `other`.
    fn g_above(self, other: BadCount) -> f64 {
        if self.share() <= other.share() {
            return 0.0;
        }
        let common = BadCount { all: self.all + other.all, bad: self.bad + other.bad }.share();
        self.g_against(common) + other.g_against(common)
    }

    /// Returns the logarithm of how much likelier these counts are by their own share than by `share`.
    fn g_against(self, share: f64) -> f64 {
        let term = |count: u64, expected: f64| {
            if count == 0 { 0.0 } else { count as f64 * (count as f64 / expected).ln() }
        };
        let all = self.all as f64;
        let good = self.all.saturating_sub(self.bad);
        term(self.bad, all * share) + term(good, all * (1.0 - share))
    }
}

impl fmt::Display for BadCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permille = (self.bad * 1_000 + self.all / 2).checked_div(self.all).unwrap_or_default();
        write!(f, "{}.{} % of {}", permille / 10, permille % 10, self.all)
    }
}

impl RollbackFinding {
    /// Describes the evidence for the log.
    pub fn describe(&self, release: &Release) -> String {
        let RollbackFinding { cause, limit, counts, default, .. } = self;
        let (what, of) = match cause {
            RollbackCause::Failures => ("failures".to_owned(), "requests"),
            RollbackCause::Latency => {
                let latency = release.rollback.as_ref().and_then(|rollback| rollback.latency);
                let above = latency.map(|latency| latency.above).unwrap_or_default();
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
