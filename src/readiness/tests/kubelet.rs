//! The kubelet's rules for its three probes, held against the state machine.

use super::*;
use crate::policy::Policy;
use crate::probe;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One row: an initial state, the two thresholds, then results one after the other and the phase after each.
/// `+` passed, `-` failed, `e` could not be sent; `R` ready, `N` not ready.
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

const ROWS: [Row; 12] = [
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
    row("what could not be sent is no result", true, (2, 1), "eeee", "RRRR"),
    row("what could not be sent breaks no row", true, (2, 2), "-e-+e+", "RRNNNR"),
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
        let result = match result {
            '+' => Some(Ok(())),
            '-' => Some(DOWN),
            _ => None,
        };
        if let Some(result) = result {
            self.state.checked(&self.upstream, self.now, generation, result);
        }
        if self.state.phase == Phase::Ready { 'R' } else { 'N' }
    }
}

/// What is known of the one upstream of a policy, and whether its startup has passed.
struct Pod {
    bench: Bench,
    started: bool,
}

impl Readiness for Pod {
    fn standing(&self, id: UpstreamId) -> Standing {
        self.knowledge(id).standing
    }

    fn lend(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn knowledge(&self, _: UpstreamId) -> Knowledge {
        self.bench.state.knowledge(&self.bench.upstream, self.bench.now)
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { started: self.started, draining: false }
    }

    fn now(&self) -> Time {
        self.bench.now
    }
}

/// The kubelet runs no other probe before the startup probe has passed, and that one never again.
#[test]
fn startup_gates_the_others_until_it_has_passed_once() {
    let rows = [
        ("", ""),
        ("+", "S"),
        ("---", "..."),
        ("--+", "..S"),
        ("-e+", "..S"),
        // For good, whatever follows.
        ("+---", "SSSS"),
    ];
    let text = br#"{"name":"p","upstreams":{"app":{"cluster":"app","readinessProbe":{"httpGet":{},
        "failureThreshold":2}}},"probes":{"startup":{"path":"/s","checks":[{"upstream":"app"}]}}}"#;
    let policy = Policy::from_json(text).unwrap();
    for assume_ready in [true, false] {
        for (results, expected) in rows {
            let upstream = Upstream { assume_ready, ..policy.upstreams[0].clone() };
            let mut pod = Pod { bench: Bench::new(upstream), started: false };
            assert!(!probe::has_started(&policy, &pod), "before the first result");
            let reached: String = results
                .chars()
                .map(|result| {
                    pod.bench.take(result);
                    pod.started |= probe::has_started(&policy, &pod);
                    if pod.started { 'S' } else { '.' }
                })
                .collect();
            assert_eq!(reached, expected, "{results}, assumed ready: {assume_ready}");
        }
    }
}

#[test]
fn startup_takes_as_many_successes_as_its_threshold() {
    let text = br#"{"name":"p","upstreams":{"app":{"cluster":"app","readinessProbe":{"httpGet":{},
        "successThreshold":2}}},"probes":{"startup":{"path":"/s","checks":[{"upstream":"app"}]}}}"#;
    let policy = Policy::from_json(text).unwrap();
    let mut pod = Pod { bench: Bench::new(policy.upstreams[0].clone()), started: false };
    pod.bench.take('+');
    assert!(!probe::has_started(&policy, &pod));
    pod.bench.take('+');
    assert!(probe::has_started(&policy, &pod));
}
