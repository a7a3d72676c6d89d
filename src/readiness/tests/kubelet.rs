//! Tests of the kubelet's rules for its three probes.

use std::borrow::Cow;

use super::*;
use crate::decision::action::Action;
use crate::decision::probe;
use crate::decision::ready::ReadyReplies;
use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::value::date::Date;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::{Headers, Request};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One rule: the initial state, the thresholds, results, and the phase after each result.
///
/// Results are `+` passed and `-` failed. Phases are `R` ready and `N` not ready. A check that could not be
/// sent has no result.
struct KubeletRule {
    rule: &'static str,
    assume_ready: bool,
    failures: u32,
    successes: u32,
    results: &'static str,
    phases: &'static str,
}

const fn row(
    rule: &'static str,
    assume_ready: bool,
    (failures, successes): (u32, u32),
    results: &'static str,
    phases: &'static str,
) -> KubeletRule {
    KubeletRule { rule, assume_ready, failures, successes, results, phases }
}

const RULES: [KubeletRule; 10] = [
    row("a readiness probe starts as failed", false, (3, 1), "", ""),
    row("one success is enough by default", false, (3, 1), "+", "R"),
    row("successes count in a row", false, (3, 2), "+-++", "NNNR"),
    row("a failed one stays failed", false, (3, 3), "---++-", "NNNNNN"),
    row("a liveness probe starts as passed", true, (3, 1), "", ""),
    row("failures count in a row", true, (3, 1), "--+---", "RRRRRN"),
    row("one failure is enough where the threshold is one", true, (1, 1), "-", "N"),
    row("one success brings it back", true, (3, 1), "---+", "RRNR"),
    row("it takes as many failures again after that", true, (3, 1), "---+--+---", "RRNRRRRRRN"),
    row("it takes as many successes as the threshold to come back", true, (2, 2), "--+-++", "RNNNNR"),
];

#[test]
fn results_and_thresholds_follow_the_kubelet() {
    for KubeletRule { rule, assume_ready, failures, successes, results, phases } in RULES {
        let mut bench = Bench::new(Upstream { assume_ready, ..checked(failures, successes) });
        assert_eq!(bench.state.phase == Phase::Ready, assume_ready, "{rule}");
        let reached: String = results.chars().map(|result| bench.take(result)).collect();
        assert_eq!(reached, phases, "{rule}");
    }
}

impl Bench {
    /// Takes one result, a second after the last one. Returns the phase after it.
    fn take(&mut self, result: char) -> char {
        self.after(SECOND);
        let generation = self.state.generation;
        let result = if result == '+' { Ok(()) } else { DOWN };
        self.state.on_check(&self.upstream, self.now, generation, result);
        if self.state.phase == Phase::Ready { 'R' } else { 'N' }
    }
}

/// A proxy with a startup and a readiness probe over one upstream.
struct Pod {
    policy: Policy,
    bench: Bench,
    lifecycle: Lifecycle,
}

impl Pod {
    fn new(fields: &str, assume_ready: bool) -> Self {
        let checks = r#""checks":[{"upstream":"app"}]"#;
        let text = format!(
            r#"{{"name":"p","upstreams":{{"app":{{"cluster":"app","readinessProbe":{{"httpGet":{{}},{fields}}}}}}},
            "probes":{{"startup":{{"path":"/s",{checks}}},"readiness":{{"path":"/r",{checks}}}}}}}"#
        );
        let policy = Policy::from_json(text.as_bytes()).unwrap();
        let bench = Bench::new(Upstream { assume_ready, ..policy.upstreams[0].clone() });
        Pod { policy, bench, lifecycle: Lifecycle::default() }
    }

    /// Returns what the probes report after each result: `S` if startup passes, then `R` if readiness passes.
    fn results_of(&mut self, results: &str) -> String {
        results
            .split("")
            .filter(|result| !result.is_empty())
            .map(|result| self.after(result))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn after(&mut self, result: &str) -> String {
        self.bench.take(result.chars().next().unwrap());
        if probe::has_started(&self.policy, self) {
            self.lifecycle.started = true;
        }
        let verdicts =
            [("/s", "S"), ("/r", "R")].map(|(path, letter)| if self.passes(path) { letter } else { "-" });
        verdicts.concat()
    }

    fn passes(&self, path: &'static str) -> bool {
        let get = Get(path);
        let mut request = Headers::new(&get, &[]);
        let ask = probe::find(&self.policy, &mut request).unwrap();
        match probe::answer(&self.policy, ask, &mut request, self, &mut ReadyReplies::default()) {
            Action::Reply(reply) => reply.status == 200,
            other => panic!("{other:?}"),
        }
    }
}

struct Get(&'static str);

impl Request for Get {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values = [(":method", "GET"), (":path", self.0)];
        values.into_iter().find(|(known, _)| *known == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}

impl Readiness for Pod {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        self.status(id).admission
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn status(&self, _: UpstreamId) -> UpstreamStatus {
        self.bench.state.status(&self.bench.upstream)
    }

    fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    fn now(&self) -> Time {
        self.bench.now
    }

    fn date(&self) -> Date {
        Date::default()
    }

    fn random(&mut self) -> u64 {
        0
    }
}

/// The kubelet runs no other probe before the startup probe has passed. After that it never runs the startup
/// probe again.
#[test]
fn readiness_fails_until_startup_has_passed_once() {
    for assume_ready in [true, false] {
        let results_of = |results| Pod::new(r#""failureThreshold":2"#, assume_ready).results_of(results);
        assert_eq!(results_of("+"), "SR");
        assert_eq!(results_of("---"), "-- -- --");
        assert_eq!(results_of("--+"), "-- -- SR");
        assert_eq!(results_of("+--+"), "SR SR S- SR", "startup stays passed");
        let mut pod = Pod::new(r#""failureThreshold":2"#, assume_ready);
        assert!(!pod.passes("/s") && !pod.passes("/r"), "before the first result");
        assert_eq!(pod.results_of("+"), "SR");
    }
}

#[test]
fn startup_needs_as_many_successes_as_its_threshold() {
    assert_eq!(Pod::new(r#""successThreshold":2"#, true).results_of("+-++"), "-- -- -- SR");
}

/// An upstream without checks cannot be verified, so only failures delay the start.
#[test]
fn startup_does_not_wait_for_the_trial_of_an_upstream_without_checks() {
    let mut pod = Pod::new(r#""failureThreshold":9"#, true);
    pod.bench.upstream = judged(3);
    assert!(probe::has_started(&pod.policy, &pod));
    pod.bench.trip();
    assert!(!probe::has_started(&pod.policy, &pod));
    pod.bench.after(SECOND).tick();
    assert!(matches!(pod.bench.state.phase, Phase::Trial { .. }));
    assert!(probe::has_started(&pod.policy, &pod));
}

/// When the wait after failed responses is over, nothing is known yet.
#[test]
fn startup_needs_evidence_rather_than_the_end_of_a_wait() {
    let mut pod = Pod::new(r#""failureThreshold":9"#, true);
    pod.bench.upstream = Upstream { guarded: false, check: pod.bench.upstream.check.clone(), ..judged(3) };
    pod.bench.trip();
    pod.bench.after(SECOND).tick();
    assert_eq!(
        (pod.bench.state.reason, pod.bench.state.phase.clone()),
        (UpstreamReason::WaitOver, Phase::Ready)
    );
    assert!(!probe::has_started(&pod.policy, &pod));
    assert_eq!(pod.results_of("+"), "SR");
}
