//! The verdict on a probe: what each of its checks says, and what that comes to.

use core::fmt;
use core::time::Duration;

use crate::policy::Policy;
use crate::policy::probe::{Checks, Component, Kind};
use crate::policy::upstream::Upstream;
use crate::readiness::{Knowledge, Readiness, Reason, Standing};
use crate::time::Time;

/// What a probe comes to.
pub struct Verdict<'p> {
    /// Yes, yes but, or no.
    pub outcome: Outcome,
    /// What each check says.
    pub findings: Vec<Finding<'p>>,
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
pub enum Outcome {
    /// All is well.
    Passed,
    /// Something is wrong or in doubt, but not enough for a no.
    Degraded,
    /// No.
    Failed,
}

impl Outcome {
    /// The word in bodies and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Degraded => "degraded",
            Outcome::Failed => "failed",
        }
    }
}

/// What one check says.
pub struct Finding<'p> {
    /// The upstream's name.
    pub name: &'p str,
    /// Its part in the answer.
    pub component: Component,
    /// What is found.
    pub health: Health,
    /// When a check was last answered, and how long ago that is.
    pub heard: Option<(Time, Duration)>,
}

/// What is found of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
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
    NotReady(Reason),
    /// It may be ready, but has not shown it: too few checks have passed, or none was answered yet.
    Unproven {
        /// Whether one was.
        heard: bool,
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
            Fault::Unproven { heard: false } => Doubt::NotChecked.fmt(f),
            Fault::Unproven { heard: true } => f.write_str("too few checks have passed yet"),
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

impl<'p> Verdict<'p> {
    /// The verdict on a probe of this kind with these checks, save those whose names are `excluded`.
    pub fn of(
        policy: &'p Policy,
        kind: Kind,
        checks: &Checks,
        readiness: &impl Readiness,
        excluded: &[&[u8]],
    ) -> Self {
        let lifecycle = readiness.lifecycle();
        let mut held = Vec::new();
        if kind == Kind::Startup && lifecycle.started {
            // Once it has, for good: what the checks say by now is for other probes.
            return Verdict::new(Vec::new(), held, checks);
        }
        if kind == Kind::Readiness && !lifecycle.started {
            held.push(("startup", "not started yet"));
        }
        if kind == Kind::Readiness && lifecycle.draining {
            held.push(("drain", "draining"));
        }
        let findings = find(policy, checks, readiness, kind == Kind::Startup, excluded);
        let unknown = excluded
            .iter()
            .filter(|name| !findings.iter().any(|finding: &Finding<'_>| finding.name.as_bytes() == **name));
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
        let mut verdict = Verdict { unknown: shown, ..Verdict::new(findings, held, checks) };
        verdict.news_in = periods.min().unwrap_or_default();
        // By the flag alone, which all workers see: a yes that another worker takes back would be none.
        if kind == Kind::Startup && verdict.outcome != Outcome::Failed {
            verdict.held.push(("startup", "not started yet"));
            verdict.outcome = Outcome::Failed;
        }
        verdict
    }

    /// Whether startup's checks have passed by now, whatever was said of it before.
    pub fn of_startup(policy: &'p Policy, checks: &Checks, readiness: &impl Readiness) -> Self {
        Verdict::new(find(policy, checks, readiness, true, &[]), Vec::new(), checks)
    }

    fn new(findings: Vec<Finding<'p>>, held: Vec<(&'static str, &'static str)>, checks: &Checks) -> Self {
        let fails = |finding: &&Finding<'_>| matches!(finding.health, Health::Failed(_));
        let reached = findings.iter().filter(|finding| !fails(finding));
        let reached = reached.fold(0_u32, |sum, finding| sum.saturating_add(finding.component.weight));
        let score = Score { reached, possible: checks.weights(), minimum: checks.minimum_score };
        let score = (!findings.is_empty() && score.possible > 0).then_some(score);
        let required_fails = findings.iter().filter(fails).any(|finding| finding.component.required);
        let well = |finding: &Finding<'_>| matches!(finding.health, Health::Ok | Health::Excluded);
        let outcome =
            if !held.is_empty() || required_fails || score.is_some_and(|score| score.reached < score.minimum)
            {
                Outcome::Failed
            } else if findings.iter().all(well) {
                Outcome::Passed
            } else {
                Outcome::Degraded
            };
        let rests_on = findings.iter().filter(|finding| finding.health != Health::Excluded);
        let oldest = rests_on.filter_map(|finding| finding.heard.map(|(_, age)| age)).max();
        Verdict { outcome, findings, held, score, unknown: Vec::new(), oldest, news_in: Duration::ZERO }
    }
}

/// What each check says. With `proof`, an assumption is not enough.
fn find<'p>(
    policy: &'p Policy,
    checks: &Checks,
    readiness: &impl Readiness,
    proof: bool,
    excluded: &[&[u8]],
) -> Vec<Finding<'p>> {
    if checks.components.is_empty() {
        return Vec::new();
    }
    let now = readiness.now();
    let components = checks.components.iter();
    let found = components.filter_map(|component| {
        let upstream = policy.upstream(component.upstream)?;
        let knowledge = readiness.knowledge(component.upstream);
        let health = match excluded.contains(&upstream.name.as_bytes()) {
            true => Health::Excluded,
            false if proof && !knowledge.proven => Health::Failed(fault(knowledge)),
            false => health(policy, upstream, knowledge, now),
        };
        let heard =
            knowledge.heard.filter(|_| upstream.check.is_some()).map(|heard| (heard, now.since(heard)));
        Some(Finding { name: &upstream.name, component: *component, health, heard })
    });
    found.collect()
}

/// Why an upstream fails that is not ready, or not by evidence.
fn fault(knowledge: Knowledge) -> Fault {
    match knowledge.standing {
        Standing::NotReady(reason) if reason != Reason::Assumed => Fault::NotReady(reason),
        _ => Fault::Unproven { heard: knowledge.heard.is_some() },
    }
}

fn health(policy: &Policy, upstream: &Upstream, knowledge: Knowledge, now: Time) -> Health {
    match (knowledge.standing, &upstream.check, knowledge.heard) {
        (Standing::NotReady(_), ..) => Health::Failed(fault(knowledge)),
        (Standing::Trial(_), ..) => Health::Doubtful(Doubt::OnTrial),
        // What is known of an upstream never says that it is on a ramp: to a probe, that is Ready.
        (Standing::Ramp { .. }, ..) => Health::Ok,
        (Standing::Ready, None, _) => Health::Ok,
        (Standing::Ready, Some(_), None) => Health::Doubtful(Doubt::NotChecked),
        (Standing::Ready, Some(check), Some(heard)) => {
            let age = now.since(heard);
            let stale = age > policy.probes.stale_after.unwrap_or_else(|| check.stale_after());
            if stale { Health::Doubtful(Doubt::Stale(age)) } else { Health::Ok }
        }
    }
}
