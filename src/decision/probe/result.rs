//! The result of a probe, which consists of the results of its checks and the verdict that follows.

use core::fmt;
use core::time::Duration;

use crate::policy::Policy;
use crate::policy::probe::{Component, Probe, ProbeComponents, ProbeKind};
use crate::policy::upstream::Upstream;
use crate::readiness::{Admission, Readiness, UpstreamReason, UpstreamStatus};
use crate::value::code::CodeSpec;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;

/// The result of a probe.
pub struct ProbeResult<'p> {
    /// The verdict.
    pub status: ProbeStatus,
    /// The result of each check.
    pub components: Vec<ComponentResult<'p>>,
    /// The reasons that hold readiness back whatever the checks report, as name and reason.
    pub held: Vec<HeldBack<'p>>,
    /// The score, if the checks have weights.
    pub score: Option<Score>,
    /// The names to exclude that are not those of checks. Only the first ones are kept.
    pub unknown: Vec<String>,
    /// The age of the oldest check result that the verdict depends on.
    pub oldest: Option<Duration>,
    /// The shortest period of its checks while they pass, for which a passed result may be cached. Zero
    /// without checks.
    pub fresh_for: Duration,
}

/// What holds a probe back whatever the checks report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack<'p> {
    /// The proxy has not started. It holds readiness back, and startup, too.
    NotStarted,
    /// The proxy drains.
    Draining(DrainReason<'p>),
}

/// The reason for which the proxy drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainReason<'p> {
    /// Someone ordered it.
    Ordered,
    /// This upstream drains.
    Upstream(&'p str),
    /// Both.
    Both(&'p str),
}

impl HeldBack<'_> {
    /// Returns the name that stands in place of a check's.
    pub fn name(self) -> &'static str {
        match self {
            HeldBack::NotStarted => "startup",
            HeldBack::Draining(_) => "drain",
        }
    }
}

impl<'p> DrainReason<'p> {
    /// Returns the reason for which the proxy drains. `None` if it does not.
    pub fn of(policy: &'p Policy, lifecycle: &Lifecycle) -> Option<Self> {
        let also_when = policy.probes.drain.as_ref()?.also_when;
        let upstream = also_when.filter(|_| lifecycle.upstream.draining).map(|id| policy.name_of(id));
        match (lifecycle.draining, upstream) {
            (false, None) => None,
            (true, None) => Some(DrainReason::Ordered),
            (false, Some(name)) => Some(DrainReason::Upstream(name)),
            (true, Some(name)) => Some(DrainReason::Both(name)),
        }
    }
}

impl fmt::Display for HeldBack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeldBack::NotStarted => f.write_str("not started yet"),
            HeldBack::Draining(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for DrainReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainReason::Ordered => f.write_str("draining"),
            DrainReason::Upstream(name) => write!(f, "draining (upstream {name})"),
            DrainReason::Both(name) => write!(f, "draining (by order, and upstream {name})"),
        }
    }
}

/// The verdict on a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum ProbeStatus {
    /// Every check passed without doubt.
    Passed,
    /// A check failed or is in doubt, but the probe still passes.
    Degraded,
    /// The probe fails.
    Failed,
}

impl ProbeStatus {
    /// Returns the name in bodies and metrics.
    pub fn name(self) -> &'static str {
        self.spec().code
    }

    /// Returns the name with its meaning.
    pub fn spec(self) -> CodeSpec {
        match self {
            ProbeStatus::Passed => {
                const { CodeSpec::new("passed", OF_ANSWERS, "Every check of the probe passes without doubt.", "") }
            }
            ProbeStatus::Degraded => {
                const {
                    CodeSpec::new(
                        "degraded",
                        OF_ANSWERS,
                        "A check fails or is in doubt, and the probe passes all the same.",
                        "Ask the probe with `?verbose` to see which check it is.",
                    )
                }
            }
            ProbeStatus::Failed => {
                const {
                    CodeSpec::new(
                        "failed",
                        OF_ANSWERS,
                        "The probe fails.",
                        "Ask the probe with `?verbose` to see which check fails.",
                    )
                }
            }
        }
    }
}

/// Where the names of verdicts appear.
pub const OF_ANSWERS: &str = "`result` of `graygate_probe_answers_total`, body";

/// The result of one check.
pub struct ComponentResult<'p> {
    /// The upstream's name.
    pub name: &'p str,
    /// Its part in the verdict.
    pub part: Component,
    /// The health of the upstream.
    pub health: ComponentHealth,
    /// The age of the last check result.
    pub age: Option<Duration>,
}

/// The health of one upstream, as a probe counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentHealth {
    /// It is ready.
    Ok,
    /// It counts as ready, but is in doubt.
    Doubtful(Doubt),
    /// It fails.
    Failed(Fault),
    /// The client excluded it, so it counts as ready.
    Excluded,
}

/// The reason for which an upstream that counts as ready is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "tool", derive(strum::EnumIter))]
pub enum Doubt {
    /// It is on trial.
    OnTrial,
    /// There has been no check result for this long.
    Stale(Duration),
    /// There has been no check result at all.
    NotChecked,
}

/// The reason for which an upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not ready.
    NotReady(UpstreamReason),
    /// It may be ready but is not verified, because too few checks have passed or none has a result.
    Unverified {
        /// Whether a check has a result.
        answered: bool,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::OnTrial => f.write_str("on trial"),
            Doubt::Stale(age) => write!(f, "stale: last answer {} s ago", Seconds(*age)),
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

/// A span in seconds, truncated to one decimal.
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.as_secs(), self.0.subsec_millis() / 100)
    }
}

/// The score of a probe whose checks have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// The sum of the weights of checks that do not fail.
    pub reached: u32,
    /// The sum of all weights.
    pub possible: u32,
    /// The least sum with which the probe passes.
    pub minimum: u32,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "score {} of {}, at least {}", self.reached, self.possible, self.minimum)
    }
}

/// The maximum number of unknown names that a reply repeats, and their maximum length in characters.
const MAX_UNKNOWN: (usize, usize) = (5, 63);

impl<'p> ProbeResult<'p> {
    /// Returns the result of a probe with these checks. Those whose names are `excluded` count as ready.
    pub fn of(
        policy: &'p Policy,
        probe: &Probe,
        checks: &ProbeComponents,
        readiness: &impl Readiness,
        excluded: &[&[u8]],
    ) -> Self {
        let drain = policy.probes.fails_after(probe.kind, probe.fails_at_once);
        Self::of_kind(policy, probe.kind, checks, readiness, excluded, drain)
    }

    /// Returns the result of these checks, whatever the lifecycle is.
    pub fn of_checks(policy: &'p Policy, checks: &ProbeComponents, readiness: &impl Readiness) -> Self {
        Self::of_kind(policy, ProbeKind::Group, checks, readiness, &[], None)
    }

    /// Returns the result of a probe of this kind. It fails after the proxy has drained for `drain`.
    fn of_kind(
        policy: &'p Policy,
        kind: ProbeKind,
        checks: &ProbeComponents,
        readiness: &impl Readiness,
        excluded: &[&[u8]],
        drain: Option<Duration>,
    ) -> Self {
        let lifecycle = readiness.lifecycle();
        let mut held = Vec::new();
        if kind == ProbeKind::Startup && lifecycle.started {
            // A start is permanent, so later check results do not matter to startup.
            return ProbeResult::new(Vec::new(), held, checks);
        }
        if kind == ProbeKind::Readiness && !lifecycle.started {
            held.push(HeldBack::NotStarted);
        }
        if drain.is_some_and(|delay| lifecycle.has_drained_for(delay, readiness.now())) {
            held.extend(DrainReason::of(policy, &lifecycle).map(HeldBack::Draining));
        }
        let components = component_results(policy, checks, readiness, kind == ProbeKind::Startup, excluded);
        let unknown = unknown_names(&components, excluded);
        let periods = checks
            .components
            .iter()
            .filter_map(|component| Some(policy.upstream(component.upstream)?.check.as_ref()?.periods.ready));
        let mut result = ProbeResult { unknown, ..ProbeResult::new(components, held, checks) };
        result.fresh_for = periods.min().unwrap_or_default();
        // Only the flag counts, because all workers share it. Otherwise another worker could contradict this
        // one.
        if kind == ProbeKind::Startup && result.status != ProbeStatus::Failed {
            result.held.push(HeldBack::NotStarted);
            result.status = ProbeStatus::Failed;
        }
        result
    }

    /// Returns whether the checks of startup pass now, whatever the lifecycle is.
    pub fn of_startup(policy: &'p Policy, checks: &ProbeComponents, readiness: &impl Readiness) -> Self {
        let components = component_results(policy, checks, readiness, true, &[]);
        ProbeResult::new(components, Vec::new(), checks)
    }

    fn new(components: Vec<ComponentResult<'p>>, held: Vec<HeldBack<'p>>, checks: &ProbeComponents) -> Self {
        let score = Score::of(&components, checks);
        let required_fails =
            components.iter().any(|component| component.part.required && component.has_failed());
        let score_is_too_low = score.is_some_and(|score| score.reached < score.minimum);
        let is_well = |component: &ComponentResult<'_>| {
            matches!(component.health, ComponentHealth::Ok | ComponentHealth::Excluded)
        };
        let status = if !held.is_empty() || required_fails || score_is_too_low {
            ProbeStatus::Failed
        } else if components.iter().all(is_well) {
            ProbeStatus::Passed
        } else {
            ProbeStatus::Degraded
        };
        let included = components.iter().filter(|component| component.health != ComponentHealth::Excluded);
        let oldest = included.filter_map(|component| component.age).max();
        let fresh_for = Duration::ZERO;
        ProbeResult { status, components, held, score, unknown: Vec::new(), oldest, fresh_for }
    }
}

impl ComponentResult<'_> {
    fn has_failed(&self) -> bool {
        matches!(self.health, ComponentHealth::Failed(_))
    }
}

impl Score {
    /// Returns the score of these results, or `None` if no check has a weight.
    fn of(components: &[ComponentResult<'_>], checks: &ProbeComponents) -> Option<Score> {
        let possible = checks.weights();
        if components.is_empty() || possible == 0 {
            return None;
        }
        let reached = components
            .iter()
            .filter(|component| !component.has_failed())
            .fold(0_u32, |sum, component| sum.saturating_add(component.part.weight));
        Some(Score { reached, possible, minimum: checks.minimum_score })
    }
}

/// Returns the first of the `excluded` names that are not those of checks.
fn unknown_names(components: &[ComponentResult<'_>], excluded: &[&[u8]]) -> Vec<String> {
    let (max_names, max_length) = MAX_UNKNOWN;
    let mut unknown = Vec::new();
    for name in excluded {
        if components.iter().any(|component| component.name.as_bytes() == *name) {
            continue;
        }
        let shown: String = String::from_utf8_lossy(name).chars().take(max_length).collect();
        if unknown.len() < max_names && !unknown.contains(&shown) {
            unknown.push(shown);
        }
    }
    unknown
}

/// Returns whether readiness passes. Without a readiness probe, returns whether nothing holds it back.
pub fn is_ready(policy: &Policy, readiness: &impl Readiness) -> bool {
    let none = ProbeComponents::default();
    let checks = policy.probes.of(ProbeKind::Readiness).and_then(Probe::checks).unwrap_or(&none);
    let drain = policy.probes.fails_after(ProbeKind::Readiness, false);
    let result = ProbeResult::of_kind(policy, ProbeKind::Readiness, checks, readiness, &[], drain);
    result.status != ProbeStatus::Failed
}

/// Returns the result of each check. If `must_be_verified`, an assumption is not enough.
fn component_results<'p>(
    policy: &'p Policy,
    checks: &ProbeComponents,
    readiness: &impl Readiness,
    must_be_verified: bool,
    excluded: &[&[u8]],
) -> Vec<ComponentResult<'p>> {
    if checks.components.is_empty() {
        return Vec::new();
    }
    let now = readiness.now();
    let mut results = Vec::with_capacity(checks.components.len());
    for component in &checks.components {
        let Some(upstream) = policy.upstream(component.upstream) else {
            continue;
        };
        let status = readiness.status(component.upstream);
        let health = if excluded.contains(&upstream.name.as_bytes()) {
            ComponentHealth::Excluded
        } else if must_be_verified && !status.verified {
            ComponentHealth::Failed(fault(status))
        } else {
            health(policy, upstream, status, now)
        };
        let last_result_at = status.last_result_at.filter(|_| upstream.check.is_some());
        let age = last_result_at.map(|at| now.since(at));
        results.push(ComponentResult { name: &upstream.name, part: *component, health, age });
    }
    results
}

/// Returns the fault of an upstream that is not Ready or not verified.
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
        // The status of an upstream on a ramp is Ready.
        (Admission::Ramp { .. }, ..) => ComponentHealth::Ok,
        (Admission::Ready, None, _) => ComponentHealth::Ok,
        (Admission::Ready, Some(_), None) => ComponentHealth::Doubtful(Doubt::NotChecked),
        (Admission::Ready, Some(check), Some(last_result_at)) => {
            let age = now.since(last_result_at);
            let stale_after = policy.probes.stale_after.unwrap_or_else(|| check.stale_after());
            if age > stale_after { ComponentHealth::Doubtful(Doubt::Stale(age)) } else { ComponentHealth::Ok }
        }
    }
}
