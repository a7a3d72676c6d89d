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
//! The counts are those that [`users`] limits, so no single user decides. A release with fewer than three users is judged
//! only when a window has lasted as long as the policy says. More users may come until then. If its default version has
//! had no response by then, none may ever come, so it counts as holding nothing.
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

mod count;
pub mod users;

use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::release::Release;
use crate::policy::release::rollback::Rollback;
use crate::value::code::CodeSpec;
use crate::value::date::Date;
use crate::value::time::Time;
pub use count::BadCount;
use users::{ENOUGH_USERS, KnownUsers, Tally, UserId};

/// What a worker observed of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// The responses that are evidence. A bad one has failed.
    failures: Tally,
    /// The same responses. A bad one is slow.
    latency: Tally,
    /// The active checks of its upstream.
    checks: Tally,
    /// The users that had the responses.
    users: KnownUsers,
}

impl Observations {
    /// Adds a response that is evidence. `user` is `None` if the request is a user of its own.
    pub fn add_response(&mut self, user: Option<UserId>, failed: bool, slow: bool) {
        self.failures.add(user, failed);
        self.latency.add(user, slow);
        self.users.add(user);
    }

    /// Makes a response that was added before a failed one.
    pub fn add_break_off(&mut self, user: Option<UserId>) {
        self.failures.turn_bad(user);
    }

    /// Adds an active check of its upstream.
    pub fn add_check(&mut self, failed: bool) {
        self.checks.add(None, failed);
    }
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
    /// The users that the release has had.
    users: KnownUsers,
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
    /// What is kept of the default version's past.
    past: Tally,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CauseWindow {
    from: Time,
    version: Tally,
    default: Tally,
}

/// The cause of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
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

/// Where the codes of causes appear.
const OF_ROLLBACKS: &str = "`reason` of `graygate_rollbacks_total`, log";

impl RollbackCause {
    /// All causes, in the order in which they are judged.
    pub const ALL: [RollbackCause; 3] =
        [RollbackCause::Failures, RollbackCause::Latency, RollbackCause::Checks];

    /// Returns the code in metrics.
    pub fn code(self) -> &'static str {
        self.spec().code
    }

    /// Returns the code with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            RollbackCause::Failures => {
                const {
                    CodeSpec::new(
                        "failures",
                        OF_ROLLBACKS,
                        "The version's share of failures is above `rollback.failurePercent` and above the default version's.",
                        "Look at the version's own errors. The log line has the numbers of both versions.",
                    )
                }
            }
            RollbackCause::Latency => {
                const {
                    CodeSpec::new(
                        "latency",
                        OF_ROLLBACKS,
                        "The version's share of responses slower than `rollback.latency.above` is above the limit and above the default version's.",
                        "Look at the version's own response times. The log line has the numbers of both versions.",
                    )
                }
            }
            RollbackCause::Checks => {
                const {
                    CodeSpec::new(
                        "checks",
                        OF_ROLLBACKS,
                        "The share of failed checks of the version's upstream is above `rollback.checks.failurePercent` and above the default version's.",
                        "Send the check's request to the version by hand.",
                    )
                }
            }
        }
    }

    /// Returns whether the policy judges by it.
    pub fn is_judged(self, rollback: &Rollback) -> bool {
        self.rule(rollback).is_some()
    }

    fn tally(self, observations: &Observations) -> &Tally {
        match self {
            RollbackCause::Failures => &observations.failures,
            RollbackCause::Latency => &observations.latency,
            RollbackCause::Checks => &observations.checks,
        }
    }

    /// Returns the number of users to judge by. A check has none.
    fn users(self, known: &KnownUsers) -> usize {
        if self == RollbackCause::Checks { ENOUGH_USERS } else { known.count() }
    }

    /// Returns the rule by which the policy judges this cause, if it does.
    fn rule(self, rollback: &Rollback) -> Option<Rule> {
        if !rollback.judges {
            return None;
        }
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
        let windows = CauseWindows { short: window.clone(), long: window, past: Tally::default() };
        let version =
            VersionState { rolled_back_at: None, causes: [windows.clone(), windows.clone(), windows] };
        let judged = if release.judging_rollback().is_some() { release.versions.len() } else { 0 };
        ReleaseState {
            identity,
            versions: vec![version; judged],
            users: KnownUsers::default(),
            steps_begun: release.schedule.steps_begun(date) as u64,
        }
    }

    /// Returns the time at which each version was rolled back, if it was.
    pub fn rolled_back(&self) -> Vec<Option<Time>> {
        self.versions.iter().map(|state| state.rolled_back_at).collect()
    }

    /// Returns what a version is judged by at present: for each judged cause, when its window began, and the counts of the
    /// version and of the default version in it. Nothing for the default version, which is not judged.
    #[inline(never)]
    pub fn counts(&self, release: &Release, version: usize) -> Vec<(RollbackCause, Time, [BadCount; 2])> {
        let (Some(rollback), Some(state)) = (&release.rollback, self.versions.get(version)) else {
            return Vec::new();
        };
        let causes = RollbackCause::ALL.into_iter().zip(&state.causes);
        let judged = causes.filter(|(cause, _)| version != release.default && cause.is_judged(rollback));
        let counts = judged.map(|(cause, windows)| {
            let (window, users) = (&windows.long, cause.users(&self.users));
            (cause, window.from, [window.version.counted(users), window.default.counted(users)])
        });
        counts.collect()
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
        let Some(rollback) = release.judging_rollback() else {
            return Vec::new();
        };
        let none = Observations::default();
        let default = seen.get(release.default).unwrap_or(&none);
        seen.iter().for_each(|observations| self.users.merge(&observations.users));
        let mut findings = Vec::new();
        for (version, (state, observations)) in self.versions.iter_mut().zip(seen).enumerate() {
            if version == release.default || state.rolled_back_at.is_some() {
                continue;
            }
            for (cause, windows) in RollbackCause::ALL.into_iter().zip(&mut state.causes) {
                let Some(rule) = cause.rule(rollback) else {
                    continue;
                };
                let users = cause.users(&self.users);
                windows.add(cause.tally(observations), cause.tally(default), &rule, users);
                if let Some((counts, default)) = windows.judge(&rule, default_holds, users, now) {
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
    fn add(&mut self, version: &Tally, default: &Tally, rule: &Rule, users: usize) {
        for window in [&mut self.long, &mut self.short] {
            window.version.merge(version);
            window.default.merge(default);
        }
        self.past.merge(default);
        // Halving gives the latest counts the most weight.
        if self.past.counted(users).all > MAX_PAST * rule.minimum {
            self.past.halve();
        }
    }

    /// Returns the version's counts and the default version's counts if the version must be rolled back.
    /// Starts ended windows over.
    fn judge(
        &mut self,
        rule: &Rule,
        default_holds: bool,
        users: usize,
        now: Time,
    ) -> Option<(BadCount, BadCount)> {
        let min_g_of_long =
            if rule.window < FREQUENT { MIN_G_ABOVE_DEFAULT_FREQUENT } else { MIN_G_ABOVE_DEFAULT };
        let has_enough_users = users >= ENOUGH_USERS;
        let is_compared = default_holds && (has_enough_users || !self.past.is_empty());
        let past = is_compared.then(|| self.past.counted(users));
        for (window, min_g, span) in [
            (&mut self.long, min_g_of_long, rule.window),
            (&mut self.short, MIN_G_ABOVE_DEFAULT_FREQUENT, Duration::ZERO),
        ] {
            let (version, default) = (window.version.counted(users), window.default.counted(users));
            let from = window.from;
            let has_lasted = |span| now >= from + span;
            let may_judge = has_enough_users || has_lasted(rule.window);
            if may_judge && is_bad(version, default, rule, past, min_g) {
                return Some((version, past.unwrap_or(default)));
            }
            let is_full = version.all >= rule.room();
            // While the version has no responses, the default version's counts do not bear on later ones.
            let is_idle = window.version.is_empty() && has_lasted(rule.window);
            if (is_full && has_lasted(span)) || is_idle {
                *window = CauseWindow::new(now);
            }
        }
        None
    }
}

impl CauseWindow {
    fn new(now: Time) -> Self {
        CauseWindow { from: now, version: Tally::default(), default: Tally::default() }
    }
}

/// Returns whether the version is bad by these counts of one window. `past` is the default version's past, if the
/// version is compared with it.
fn is_bad(version: BadCount, default: BadCount, rule: &Rule, past: Option<BadCount>, min_g: f64) -> bool {
    let limit = f64::from(rule.limit) / 100.0;
    if version.all < rule.minimum || version.share() <= limit {
        return false;
    }
    let g_above_limit = version.g_against(limit);
    let is_worse_than_default = match past {
        Some(past) => {
            default.share() <= limit
                && version.g_above(past) >= min_g
                && (default.all < rule.minimum || version.g_above(default) >= MIN_G_ABOVE)
        }
        None => g_above_limit >= min_g,
    };
    g_above_limit >= MIN_G_ABOVE && is_worse_than_default
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
