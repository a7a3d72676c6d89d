//! The kubelet's rules for its three probes, held against the state machine.

use std::borrow::Cow;

use super::*;
use crate::decision::action::Action;
use crate::decision::probe;
use crate::policy::Policy;
use crate::policy::upstream::UpstreamId;
use crate::value::lifecycle::Lifecycle;
use crate::value::request::{Headers, Request};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One row: an initial state, the two thresholds, then results one after the other and the phase after each.
/// `+` passed, `-` failed; `R` ready, `N` not ready. What could not be sent is no result, and not here.
struct Row {
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
) -> Row {
    Row { rule, assume_ready, failures, successes, results, phases }
}

const ROWS: [Row; 10] = [
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
fn results_and_thresholds() {
    for Row { rule, assume_ready, failures, successes, results, phases } in ROWS {
        let mut bench = Bench::new(Upstream { assume_ready, ..checked(failures, successes) });
        assert_eq!(bench.state.phase == Phase::Ready, assume_ready, "{rule}");
        let reached: String = results.chars().map(|result| bench.take(result)).collect();
        assert_eq!(reached, phases, "{rule}");
    }
}

impl Bench {
    /// Takes one result, a second after the last; the phase after it.
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

    /// What the two probes say after each result: `S` for startup, `R` for readiness, in this order.
    fn says(&mut self, results: &str) -> String {
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
        let said = [("/s", "S"), ("/r", "R")].map(|(path, word)| if self.passes(path) { word } else { "-" });
        said.concat()
    }

    fn passes(&self, path: &'static str) -> bool {
        let get = Get(path);
        let mut request = Headers::new(&get, &[]);
        let ask = probe::find(&self.policy, &mut request).unwrap();
        match probe::answer(&self.policy, ask, &mut request, self) {
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

    fn random(&self) -> u64 {
        0
    }
}

/// The kubelet runs no other probe before the startup probe has passed, and that one never again.
#[test]
fn startup_gates_readiness_until_it_has_passed_once() {
    for assume_ready in [true, false] {
        let says = |results| Pod::new(r#""failureThreshold":2"#, assume_ready).says(results);
        assert_eq!(says("+"), "SR");
        assert_eq!(says("---"), "-- -- --");
        assert_eq!(says("--+"), "-- -- SR");
        assert_eq!(says("+--+"), "SR SR S- SR", "for good, whatever follows");
        let mut pod = Pod::new(r#""failureThreshold":2"#, assume_ready);
        assert!(!pod.passes("/s") && !pod.passes("/r"), "before the first result");
        assert_eq!(pod.says("+"), "SR");
    }
}

#[test]
fn startup_takes_as_many_successes_as_its_threshold() {
    assert_eq!(Pod::new(r#""successThreshold":2"#, true).says("+-++"), "-- -- -- SR");
}

/// What has no checks can't be proven: all that may hold up the start is what speaks against it.
#[test]
fn startup_waits_for_no_trial_of_what_has_no_checks() {
    let mut pod = Pod::new(r#""failureThreshold":9"#, true);
    pod.bench.upstream = judged(3);
    assert!(probe::has_started(&pod.policy, &pod));
    pod.bench.trip();
    assert!(!probe::has_started(&pod.policy, &pod));
    pod.bench.after(SECOND).tick();
    assert!(matches!(pod.bench.state.phase, Phase::Trial { .. }));
    assert!(probe::has_started(&pod.policy, &pod));
}

/// Responses may have shut an upstream out, and the wait for it be over: nobody knows yet how it is.
#[test]
fn startup_takes_evidence_and_no_end_of_a_wait() {
    let mut pod = Pod::new(r#""failureThreshold":9"#, true);
    pod.bench.upstream = Upstream { guarded: false, check: pod.bench.upstream.check.clone(), ..judged(3) };
    pod.bench.trip();
    pod.bench.after(SECOND).tick();
    assert_eq!(
        (pod.bench.state.reason, pod.bench.state.phase.clone()),
        (UpstreamReason::WaitOver, Phase::Ready)
    );
    assert!(!probe::has_started(&pod.policy, &pod));
    assert_eq!(pod.says("+"), "SR");
}
