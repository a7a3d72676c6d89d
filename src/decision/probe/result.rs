//! The verdict on a probe: what each of its checks says, and what that comes to.

use core::fmt;
use core::time::Duration;

use crate::policy::Policy;
use crate::policy::probe::{Component, Probe, ProbeComponents, ProbeKind};
use crate::policy::upstream::Upstream;
use crate::readiness::{Admission, Readiness, UpstreamReason, UpstreamStatus};
use crate::value::time::Time;

/// What a probe comes to.
pub struct ProbeResult<'p> {
    /// Yes, yes but, or no.
    pub status: ProbeStatus,
    /// What each check says.
    pub components: Vec<ComponentResult<'p>>,
    /// What holds readiness back whatever the checks say: name and reason.
    pub held: Vec<(&'static str, &'static str)>,
    /// What the weights add up to, where there are any.
    pub score: Option<Score>,
    /// The first names to exclude that are no check's.
    pub unknown: Vec<String>,
    /// The age of the oldest answer that the verdict rests on.
    pub oldest: Option<Duration>,
    /// The shortest period of its checks while they pass: how long a yes is good for. Zero where there are none.
    pub news_in: Duration,
}

/// Yes, yes but, or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStatus {
    /// All is well.
    Passed,
    /// Something is wrong or in doubt, but not enough for a no.
    Degraded,
    /// No.
    Failed,
}

impl ProbeStatus {
    /// The word in bodies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ProbeStatus::Passed => "passed",
            ProbeStatus::Degraded => "degraded",
            ProbeStatus::Failed => "failed",
        }
    }
}

/// What one check says.
pub struct ComponentResult<'p> {
    /// The upstream's name.
    pub name: &'p str,
    /// Its part in the answer.
    pub part: Component,
    /// What is found.
    pub health: ComponentHealth,
    /// When a check was last answered, and how long ago that is.
    pub last_result: Option<(Time, Duration)>,
}

/// What is found of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentHealth {
    /// It is ready.
    Ok,
    /// It counts as ready, with a doubt.
    Doubtful(Doubt),
    /// It isn't.
    Failed(Fault),
    /// The asker left it out, so it counts as ready.
    Excluded,
}

/// Why an upstream may not be as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A few requests are finding out.
    OnTrial,
    /// No check has been answered for so long.
    Stale(Duration),
    /// No check has been answered at all.
    NotChecked,
}

/// Why an upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not ready.
    NotReady(UpstreamReason),
    /// It may be ready, but has not shown it: too few checks have passed, or none was answered yet.
    Unverified {
        /// Whether one was.
        answered: bool,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::OnTrial => f.write_str("on trial"),
            Doubt::Stale(age) => write!(f, "stale, last answer {} s ago", Seconds(*age)),
            Doubt::NotChecked => f.write_str("not checked yet"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotReady(reason) => reason.fmt(f),
            Fault::Unverified { answered: false } => Doubt::NotChecked.fmt(f),
            Fault::Unverified { answered: true } => f.write_str("too few checks have passed yet"),
        }
    }
}

/// A span in seconds with one decimal, cut off.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.as_secs(), self.0.subsec_millis() / 100)
    }
}

/// What the weights add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Those of the checks that don't fail.
    pub reached: u32,
    /// All.
    pub possible: u32,
    /// What it takes.
    pub minimum: u32,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "score {} of {}, at least {}", self.reached, self.possible, self.minimum)
    }
}

/// The most unknown names that an answer repeats, and how much of each, in characters.
const REPEATED: (usize, usize) = (5, 63);

impl<'p> ProbeResult<'p> {
    /// The verdict on a probe of this kind with these checks, save those whose names are `excluded`.
    pub fn of(
        policy: &'p Policy,
        kind: ProbeKind,
        checks: &ProbeComponents,
        readiness: &impl Readiness,
        excluded: &[&[u8]],
    ) -> Self {
        let lifecycle = readiness.lifecycle();
        let mut held = Vec::new();
        if kind == ProbeKind::Startup && lifecycle.started {
            // Once it has, for good: what the checks say by now is for other probes.
            return ProbeResult::new(Vec::new(), held, checks);
        }
        if kind == ProbeKind::Readiness && !lifecycle.started {
            held.push(("startup", "not started yet"));
        }
        if kind == ProbeKind::Readiness && lifecycle.draining {
            held.push(("drain", "draining"));
        }
        let components = find(policy, checks, readiness, kind == ProbeKind::Startup, excluded);
        let unknown = excluded.iter().filter(|name| {
            !components.iter().any(|component: &ComponentResult<'_>| component.name.as_bytes() == **name)
        });
        let mut shown: Vec<String> = Vec::new();
        for name in unknown {
            let name: String = String::from_utf8_lossy(name).chars().take(REPEATED.1).collect();
            if shown.len() < REPEATED.0 && !shown.contains(&name) {
                shown.push(name);
            }
        }
        let periods = checks
            .components
            .iter()
            .filter_map(|component| Some(policy.upstream(component.upstream)?.check.as_ref()?.periods.ready));
        let mut result = ProbeResult { unknown: shown, ..ProbeResult::new(components, held, checks) };
        result.news_in = periods.min().unwrap_or_default();
        // By the flag alone, which all workers see: a yes that another worker takes back would be none.
        if kind == ProbeKind::Startup && result.status != ProbeStatus::Failed {
            result.held.push(("startup", "not started yet"));
            result.status = ProbeStatus::Failed;
        }
        result
    }

    /// Whether startup's checks have passed by now, whatever was said of it before.
    pub fn of_startup(policy: &'p Policy, checks: &ProbeComponents, readiness: &impl Readiness) -> Self {
        ProbeResult::new(find(policy, checks, readiness, true, &[]), Vec::new(), checks)
    }

    fn new(
        components: Vec<ComponentResult<'p>>,
        held: Vec<(&'static str, &'static str)>,
        checks: &ProbeComponents,
    ) -> Self {
        let fails = |component: &&ComponentResult<'_>| matches!(component.health, ComponentHealth::Failed(_));
        let reached = components.iter().filter(|component| !fails(component));
        let reached = reached.fold(0_u32, |sum, component| sum.saturating_add(component.part.weight));
        let score = Score { reached, possible: checks.weights(), minimum: checks.minimum_score };
        let score = (!components.is_empty() && score.possible > 0).then_some(score);
        let required_fails = components.iter().filter(fails).any(|component| component.part.required);
        let well = |component: &ComponentResult<'_>| {
            matches!(component.health, ComponentHealth::Ok | ComponentHealth::Excluded)
        };
        let status =
            if !held.is_empty() || required_fails || score.is_some_and(|score| score.reached < score.minimum)
            {
                ProbeStatus::Failed
            } else if components.iter().all(well) {
                ProbeStatus::Passed
            } else {
                ProbeStatus::Degraded
            };
        let rests_on = components.iter().filter(|component| component.health != ComponentHealth::Excluded);
        let oldest = rests_on.filter_map(|component| component.last_result.map(|(_, age)| age)).max();
        ProbeResult { status, components, held, score, unknown: Vec::new(), oldest, news_in: Duration::ZERO }
    }
}

/// Whether readiness says yes; without a readiness probe, whether nothing holds it back.
pub fn is_ready(policy: &Policy, readiness: &impl Readiness) -> bool {
    let none = ProbeComponents::default();
    let checks = policy.probes.of(ProbeKind::Readiness).and_then(Probe::checks).unwrap_or(&none);
    ProbeResult::of(policy, ProbeKind::Readiness, checks, readiness, &[]).status != ProbeStatus::Failed
}

/// What each check says. With `proof`, an assumption is not enough.
fn find<'p>(
    policy: &'p Policy,
    checks: &ProbeComponents,
    readiness: &impl Readiness,
    proof: bool,
    excluded: &[&[u8]],
) -> Vec<ComponentResult<'p>> {
    if checks.components.is_empty() {
        return Vec::new();
    }
    let now = readiness.now();
    let components = checks.components.iter();
    let found = components.filter_map(|component| {
        let upstream = policy.upstream(component.upstream)?;
        let status = readiness.status(component.upstream);
        let health = match excluded.contains(&upstream.name.as_bytes()) {
            true => ComponentHealth::Excluded,
            false if proof && !status.verified => ComponentHealth::Failed(fault(status)),
            false => health(policy, upstream, status, now),
        };
        let last_result_at = status.last_result_at.filter(|_| upstream.check.is_some());
        let last_result = last_result_at.map(|at| (at, now.since(at)));
        Some(ComponentResult { name: &upstream.name, part: *component, health, last_result })
    });
    found.collect()
}

/// Why an upstream fails that is not ready, or not by evidence.
fn fault(status: UpstreamStatus) -> Fault {
    match status.admission {
        Admission::NotReady(reason) if reason != UpstreamReason::Assumed => Fault::NotReady(reason),
        _ => Fault::Unverified { answered: status.last_result_at.is_some() },
    }
}

fn health(policy: &Policy, upstream: &Upstream, status: UpstreamStatus, now: Time) -> ComponentHealth {
    match (status.admission, &upstream.check, status.last_result_at) {
        (Admission::NotReady(_), ..) => ComponentHealth::Failed(fault(status)),
        (Admission::Trial(_), ..) => ComponentHealth::Doubtful(Doubt::OnTrial),
        // What is known of an upstream never says that it is on a ramp: to a probe, that is Ready.
        (Admission::Ramp { .. }, ..) => ComponentHealth::Ok,
        (Admission::Ready, None, _) => ComponentHealth::Ok,
        (Admission::Ready, Some(_), None) => ComponentHealth::Doubtful(Doubt::NotChecked),
        (Admission::Ready, Some(check), Some(last_result_at)) => {
            let age = now.since(last_result_at);
            let stale = age > policy.probes.stale_after.unwrap_or_else(|| check.stale_after());
            if stale { ComponentHealth::Doubtful(Doubt::Stale(age)) } else { ComponentHealth::Ok }
        }
    }
}
