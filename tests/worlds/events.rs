//! Log lines and metrics. Dashboards and alerts depend on each line and each name.

use std::collections::BTreeSet;

use graygate::proxy::Level;
use graygate::worker::event::Event;
use graygate::worker::metric::{Metric, spec};
use serde_json::{Value, json};

use super::sim::{Manner, Request, World};
use super::{MS, SECOND, world};

/// Fails to compile if an event is added, so that a test is added for it.
const _: fn(&Event<'_>) = |event| match event {
    Event::Problem(_)
    | Event::MoreProblems(_)
    | Event::Instead { .. }
    | Event::PolicyLoaded { .. }
    | Event::Transition { .. }
    | Event::ScheduleStep { .. }
    | Event::RolledBack { .. }
    | Event::Misrouted { .. }
    | Event::Unreached { .. }
    | Event::FailsOpen { .. }
    | Event::NoLongerFailsOpen { .. }
    | Event::Lifecycle { .. }
    | Event::CheckResult { .. }
    | Event::CheckNotSent { .. }
    | Event::ReplyRefused { .. }
    | Event::VmDied { .. }
    | Event::AppNotCalled { .. }
    | Event::AnswerNotShared { .. } => {}
};

/// Fails to compile if a metric is added.
const _: fn(Metric) = |metric| match metric {
    Metric::Assignment { .. }
    | Metric::ProbeAnswer { .. }
    | Metric::Gated { .. }
    | Metric::FailedOpen { .. }
    | Metric::Fallback { .. }
    | Metric::Transition { .. }
    | Metric::Check { .. }
    | Metric::Lifecycle { .. }
    | Metric::Response { .. }
    | Metric::Rollback { .. }
    | Metric::ScheduleStep { .. }
    | Metric::Misrouted { .. }
    | Metric::Share { .. }
    | Metric::Ready { .. }
    | Metric::Enforced
    | Metric::Draining
    | Metric::Document => {}
};

/// Returns the full name of a metric with these labels.
fn named(name: &str, labels: &[(&str, &str)]) -> String {
    let labels: String = labels.iter().map(|(label, value)| format!("{label}=.={value};.;")).collect();
    format!("graygate_{name}.{labels}")
}

/// Returns the value of the metric with exactly these labels, if it is defined.
fn value(world: &World, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
    world.metrics().get(&named(name, labels)).copied()
}

/// Returns the log without its first `count` lines.
fn lines_since(world: &World, count: usize) -> Vec<(Level, String)> {
    world.around.log.borrow()[count..].to_vec()
}

fn lines(world: &World) -> usize {
    world.around.log.borrow().len()
}

/// Returns a policy with a gate and a check on `app`.
fn checked() -> Value {
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": {"httpGet": {}, "periodSeconds": 1}}},
        "probes": {"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}, "drain": {"path": "/drainz"}},
        "gates": [{"upstream": "app"}],
    })
}

fn with(mut document: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[last] = value.clone();
    }
    document
}

// -- policies -----------------------------------------------------------------

#[test]
fn a_loaded_policy_is_logged_once_per_proxy() {
    let mut world = World::new(&checked(), 4);
    world.pass(SECOND);
    let line = "policy shop: loaded: 1 upstream, 2 probes, 0 releases, 1 gate, one tick every 250 ms";
    assert_eq!(world.logged_at("loaded"), [(Level::Info, line.to_owned())]);
    // The same document is not logged again, for example after the death of a VM.
    world.configure(&checked());
    assert_eq!(world.logged("loaded").len(), 1);
    let shadow = with(checked(), &[("/mode", json!("shadow"))]);
    world.configure(&shadow);
    world.configure(&json!({"name": "shop", "mode": "off"}));
    let loaded = world.logged("loaded");
    let expected = [
        "policy shop: loaded: 1 upstream, 2 probes, 0 releases, 1 gate (mode: shadow), one tick every 250 ms",
        "policy shop: loaded: 0 upstreams, 0 probes, 0 releases, 0 gates (mode: off)",
    ];
    assert_eq!(loaded[1..], expected);
}

#[test]
fn a_refused_policy_is_logged_with_each_problem_and_counted_once() {
    let mut world = World::new(&checked(), 1);
    let before = lines(&world);
    let wrong =
        json!({"name": "shop", "upstreams": {"app": {"clutser": "app"}}, "gates": [{"upstream": "db"}]});
    assert!(!world.configure(&wrong));
    let lines = lines_since(&world, before);
    assert!(lines.iter().all(|(level, line)| *level == Level::Error && line.starts_with("policy refused: ")));
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    let misspelt = "policy refused: upstreams.app.clutser: unknown field; did you mean \"cluster\"?";
    assert!(lines.iter().any(|line| line == misspelt), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("policy refused: gates[0].upstream: ")), "{lines:?}");
    assert_eq!(value(&world, "policies_refused_total", &[("plugin", "plugin")]), Some(1));
}

#[test]
fn after_twenty_problems_one_line_has_the_number_of_further_ones() {
    let mut world = World::new(&checked(), 1);
    let before = lines(&world);
    let gates: Vec<Value> = (0..23).map(|_| json!({"upstream": "db"})).collect();
    assert!(
        !world.configure(&json!({"name": "shop", "upstreams": {"app": {"cluster": "app"}}, "gates": gates}))
    );
    let lines = lines_since(&world, before);
    assert_eq!(lines.len(), 21);
    let last = "policy refused: 3 more problems. Run `graygate check` to see all of them";
    assert_eq!(lines.last(), Some(&(Level::Error, last.to_owned())));
    assert_eq!(value(&world, "policies_refused_total", &[("plugin", "plugin")]), Some(1));
}

// -- upstreams ----------------------------------------------------------------

/// Returns the logged transitions without their common prefix. Checks that each counts once, with its labels, and that it
/// is a warning exactly if the upstream begins to serve, or stops.
fn transitions(world: &World, upstream: &str) -> Vec<String> {
    let prefix = format!("policy shop: upstream {upstream}: ");
    let logged: Vec<(Level, String)> =
        world.logged_at(" -> ").into_iter().filter(|(_, line)| line.starts_with(&prefix)).collect();
    for (level, line) in &logged {
        let is_trial_step = ["not-ready -> trial", "trial -> not-ready", "ready -> ramp", "ramp -> ready"]
            .iter()
            .any(|step| line.strip_prefix(&prefix).unwrap().starts_with(step));
        assert_eq!(*level, if is_trial_step { Level::Info } else { Level::Warn }, "{line}");
    }
    let lines: Vec<String> =
        logged.iter().map(|(_, line)| line.strip_prefix(&prefix).unwrap().to_owned()).collect();
    for line in &lines {
        let (phases, reason) = line.strip_suffix(')').unwrap().split_once(" (").unwrap();
        let (from, to) = phases.split_once(" -> ").unwrap();
        let code = reason.split(':').next().unwrap();
        let same = |other: &&String| {
            other.starts_with(&format!("{phases} (")) && other.contains(&format!("({code}"))
        };
        let labels =
            [("policy", "shop"), ("upstream", upstream), ("from", from), ("to", to), ("reason", code)];
        let count = u64::try_from(lines.iter().filter(same).count()).unwrap();
        assert_eq!(value(world, "transitions_total", &labels), Some(count), "{line}");
    }
    assert_eq!(world.metric("transitions_total", &[&format!("upstream={upstream}")]), lines.len() as u64);
    lines
}

#[test]
fn each_change_of_phase_by_checks_is_logged_and_counted_once() {
    let mut world = World::new(&checked(), 4);
    world.pass(2 * SECOND);
    world.set_checks("app", Manner::Status(500));
    world.pass(5 * SECOND);
    world.set_checks("app", Manner::Status(200));
    world.pass(5 * SECOND);
    let expected = ["ready -> not-ready (check-failed: status 500)", "not-ready -> ready (check-passed)"];
    assert_eq!(transitions(&world, "app"), expected);
}

#[test]
fn each_change_of_phase_by_responses_is_logged_and_counted_once() {
    let trial = json!({"requests": 1, "successes": 1, "leaseFor": "1s", "rampOver": "2s"});
    let mut world = world(&json!({"notReadyFor": "1s", "maxNotReadyFor": "1s", "trial": trial}));
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    world.pass(2 * SECOND);
    world.get(0);
    world.pass(2 * SECOND);
    world.set("app", Manner::Hangs);
    world.start(0, &Request::get("/"));
    world.pass(4 * SECOND);
    world.set("app", Manner::Status(200));
    world.get(0);
    world.pass(4 * SECOND);
    let expected = [
        "ready -> not-ready (consecutive-failures: 5)",
        "not-ready -> trial (wait-over)",
        "trial -> not-ready (trial-failed)",
        "not-ready -> trial (wait-over)",
        "trial -> not-ready (trial-unanswered)",
        "not-ready -> trial (wait-over)",
        "trial -> ramp (trial-passed)",
        "ramp -> ready (ramp-over)",
    ];
    assert_eq!(transitions(&world, "app"), expected);
}

#[test]
fn each_threshold_of_a_breaker_has_its_own_reason() {
    let cases = [
        (
            json!({"consecutiveFailures": 90, "consecutiveLocalOriginFailures": 3}),
            Manner::Refuses,
            "local-origin-failures: 3",
        ),
        (
            json!({"consecutiveFailures": 90, "failurePercent": 50, "minimumRequests": 4}),
            Manner::Status(500),
            "failure-share: 4 of 4",
        ),
        (
            json!({"consecutiveFailures": 90, "slowPercent": 50, "slowerThan": "1s", "minimumRequests": 4}),
            Manner::Slow(2 * SECOND),
            "slow-share: 4 of 4",
        ),
    ];
    for (breaker, manner, reason) in cases {
        let mut world = world(&breaker);
        world.set("app", manner);
        for _ in 0..4 {
            world.get(0);
        }
        assert_eq!(transitions(&world, "app"), [format!("ready -> not-ready ({reason})")]);
    }
}

#[test]
fn a_transition_because_a_policy_removes_the_breaker_is_logged_and_counted() {
    let check = ("/upstreams/app/readinessProbe/periodSeconds", json!(60));
    let breaker = json!({"consecutiveFailures": 5, "notReadyFor": "1h", "maxNotReadyFor": "1h"});
    let judged = ("/upstreams/app/circuitBreaker", breaker);
    let mut world = World::new(&with(checked(), &[check.clone(), judged]), 2);
    world.pass(SECOND);
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    world.pass(SECOND);
    world.configure(&with(checked(), &[check]));
    world.pass(SECOND);
    let expected = ["ready -> not-ready (consecutive-failures: 5)", "not-ready -> ready (policy-changed)"];
    assert_eq!(transitions(&world, "app"), expected);
}

#[test]
fn a_check_that_cannot_be_sent_is_logged_once_and_counted_each_time() {
    let no_host = r#"cluster "app" has no host to connect to, is at its limits, or does not exist"#;
    let cases = [
        (Manner::Missing, r#"the proxy has no cluster "app""#),
        (Manner::NoHost, no_host),
        (Manner::Overflows, no_host),
    ];
    for (manner, why) in cases {
        let mut world = World::new(&checked(), 2);
        world.set("app", manner);
        world.pass(60 * SECOND);
        let line = format!("policy shop: upstream app: check not sent: {why}");
        assert_eq!(world.logged_at("check not sent"), [(Level::Warn, line)]);
        let errors =
            value(&world, "checks_total", &[("policy", "shop"), ("upstream", "app"), ("result", "error")]);
        assert!((58..=62).contains(&errors.unwrap()), "{errors:?}");
        assert_eq!(world.phase("app"), "ready");
        // Once a check is sent, the next one that cannot be sent is logged again.
        world.set("app", Manner::Status(200));
        world.pass(3 * SECOND);
        world.set("app", Manner::Missing);
        world.pass(3 * SECOND);
        assert_eq!(world.logged("check not sent").len(), 2);
    }
}

// -- releases -----------------------------------------------------------------

/// Returns a policy with two versions that have a cluster each and alternate.
fn released(changes: &[(&str, Value)]) -> World {
    let document = json!({
        "name": "shop",
        "upstreams": {"app-v1": {"cluster": "v1"}, "app-v2": {"cluster": "v2"}},
        "releases": [{
            "name": "web",
            "steer": {"header": "x-version"},
            "versions": [
                {"name": "v1", "upstream": "app-v1", "weight": 50, "default": true},
                {"name": "v2", "upstream": "app-v2", "weight": 50},
            ],
        }],
    });
    let mut world = World::new(&with(document, changes), 2);
    world.routes = [("v1", "v1"), ("v2", "v2")].map(|(value, to)| (value.to_owned(), to.to_owned())).into();
    world
}

const RELEASE: [(&str, &str); 2] = [("policy", "shop"), ("release", "web")];

#[test]
fn each_step_of_a_schedule_is_logged_and_counted_once() {
    // The clock of the world starts at eight o'clock.
    let schedule = json!([
        {"at": "2027-01-15T08:00:20Z", "weights": {"v1": 70, "v2": 30}},
        {"at": "2027-01-15T08:00:30Z", "over": "10s", "weights": {"v1": 0, "v2": 100}},
    ]);
    let mut world = released(&[
        ("/releases/0/startsAt", json!("2027-01-15T08:00:10Z")),
        ("/releases/0/schedule", schedule.clone()),
    ]);
    let share = |world: &World, version| {
        value(world, "version_share_basis_points", &[RELEASE[0], RELEASE[1], ("version", version)])
    };
    world.pass(5 * SECOND);
    assert_eq!(value(&world, "schedule_steps_total", &RELEASE), Some(0));
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (Some(10_000), Some(0)));
    world.pass(16 * SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (Some(7_000), Some(3_000)));
    world.pass(25 * SECOND);
    assert_eq!((share(&world, "v1"), share(&world, "v2")), (Some(0), Some(10_000)));
    let line = |step: &str| (Level::Info, format!("policy shop: release web: {step} of its schedule"));
    assert_eq!(world.logged_at("of its schedule"), [line("start"), line("step 1"), line("step 2")]);
    assert_eq!(value(&world, "schedule_steps_total", &RELEASE), Some(3));

    let mut shadow = released(&[("/mode", json!("shadow")), ("/releases/0/schedule", schedule)]);
    shadow.pass(32 * SECOND);
    let line = "policy shop: release web: step 1 of its schedule (mode: shadow)";
    assert_eq!(shadow.logged("step 1"), [line]);
    assert_eq!(
        value(&shadow, "schedule_steps_total", &[RELEASE[0], RELEASE[1], ("mode", "shadow")]),
        Some(2)
    );
}

/// Makes `v2` behave like this for a number of requests.
fn load(world: &mut World, requests: usize, manner: &Manner) {
    world.set("v2", manner.clone());
    for index in 0..requests {
        world.start(index % 2, &Request::get("/"));
        world.pass(20 * MS);
    }
    world.pass(5 * SECOND);
}

#[test]
fn a_rollback_is_logged_with_its_counts_and_counted_once() {
    let cases = [
        (json!({"failurePercent": 5}), Manner::Status(500), "failures", "failures", 5),
        (
            json!({"latency": {"percentile": 99, "above": "300ms"}}),
            Manner::Slow(SECOND),
            "latency",
            "slower than 300ms",
            1,
        ),
    ];
    for (rollback, manner, cause, what, limit) in cases {
        let mut world = released(&[("/releases/0/rollback", rollback)]);
        let labels = [&RELEASE[..], &[("version", "v2"), ("reason", cause)]].concat();
        world.pass(SECOND);
        assert_eq!(value(&world, "rollbacks_total", &labels), Some(0));
        load(&mut world, 600, &manner);
        let begins = format!("policy shop: release web: v2 rolled back: {what} 100.0 % of ");
        let goes_on = format!(" requests, above {limit} %; v1 0.0 % of ");
        numbers(&world, &begins, &goes_on, "");
        assert_eq!(value(&world, "rollbacks_total", &labels), Some(1));
    }
}

/// Checks that a rollback is logged in one line, with the counts of its responses or checks.
fn numbers(world: &World, begins: &str, goes_on: &str, ends: &str) {
    let logged = world.logged_at("rolled back");
    let [(Level::Warn, line)] = &logged[..] else { panic!("{logged:?}") };
    let counts = line.strip_prefix(begins).and_then(|rest| rest.strip_suffix(ends)).expect(line);
    let (of_version, of_default) = counts.split_once(goes_on).expect(line);
    for count in [of_version, of_default] {
        assert!(count.parse::<u64>().is_ok_and(|count| count >= 5), "{line}");
    }
}

#[test]
fn a_rollback_by_checks_is_logged_with_its_counts_and_counted_once() {
    let check = json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 1000});
    for (mode, mark) in [("enforce", ""), ("shadow", " (mode: shadow)")] {
        let mut world = released(&[
            ("/mode", json!(mode)),
            ("/upstreams/app-v1/readinessProbe", check.clone()),
            ("/upstreams/app-v2/readinessProbe", check.clone()),
            ("/releases/0/rollback", json!({"checks": {"failurePercent": 50}})),
        ]);
        world.set_checks("v2", Manner::Status(500));
        world.pass(120 * SECOND);
        let begins = "policy shop: release web: v2 rolled back: failed checks 100.0 % of ";
        numbers(&world, begins, " checks, above 50 %; v1 0.0 % of ", mark);
        let mut labels = [&RELEASE[..], &[("version", "v2"), ("reason", "checks")]].concat();
        labels.extend((mode == "shadow").then_some(("mode", mode)));
        assert_eq!(value(&world, "rollbacks_total", &labels), Some(1));
    }
}

// -- gates --------------------------------------------------------------------

#[test]
fn a_gate_that_starts_or_stops_to_fail_open_is_logged_once() {
    for (mode, mark) in [("enforce", ""), ("shadow", " (mode: shadow)")] {
        let open = [("/mode", json!(mode)), ("/gates/0/whenAllNotReady", json!("forward"))];
        let mut world = World::new(&with(checked(), &open), 4);
        for _ in 0..2 {
            world.set_checks("app", Manner::Status(500));
            world.pass(20 * SECOND);
            world.set_checks("app", Manner::Status(200));
            world.pass(20 * SECOND);
        }
        let begins =
            format!("policy shop: upstream app: not ready, and its gate fails open (all-not-ready){mark}");
        let ends = format!("policy shop: upstream app: its gate no longer fails open{mark}");
        let both = [(Level::Warn, begins), (Level::Warn, ends)];
        assert_eq!(world.logged_at("open"), [&both[..], &both[..]].concat());
    }
}

#[test]
fn a_reply_that_the_proxy_refuses_is_logged_and_the_request_is_forwarded() {
    let forced = with(checked(), &[("/upstreams/app/force", json!("notReady"))]);
    let mut world = World::new(&forced, 1);
    world.around.refuses_replies.set(true);
    assert_eq!(world.get(0).cluster, "app");
    world.ask(0, &Request::get("/readyz"));
    let line =
        |details: &str| (Level::Error, format!("policy shop: the proxy did not accept a reply: {details}"));
    let expected = [line("graygate_gate{shop|app|forced}"), line("graygate_probe{shop|readiness}")];
    assert_eq!(world.logged_at("did not accept a reply"), expected);
}

#[test]
fn a_probe_response_of_the_app_that_cannot_be_shared_is_logged() {
    let through = json!({"path": "/readyz", "passThrough": {"cacheSeconds": 5}});
    let mut world = World::new(&with(checked(), &[("/probes/readiness", through)]), 1);
    world.send(0, &Request::get("/readyz"));
    world.lose(16);
    world.pass(MS);
    let line = "policy shop: a response of the app could not be cached";
    assert_eq!(world.logged_at("could not be cached"), [(Level::Warn, line.to_owned())]);
}

#[test]
fn an_app_that_cannot_be_called_is_logged_once_in_a_row() {
    let through = json!({"path": "/readyz", "passThrough": {"cacheSeconds": 5}});
    let mut world = World::new(&with(checked(), &[("/probes/readiness", through)]), 3);
    let line = |why: &str| {
        let remedy = "Set passThrough.upstream to an upstream that can be called";
        let line =
            "policy shop: probe readiness: the app could not be called, so each request is forwarded to it";
        (Level::Warn, format!("{line}: {why}. {remedy}"))
    };
    for (manner, why) in [
        (Manner::Missing, "the proxy has no cluster \"app\""),
        (Manner::NoHost, "cluster \"app\" has no host to connect to, is at its limits, or does not exist"),
    ] {
        world.set("app", manner);
        for vm in [0, 1, 2, 0] {
            world.ask(vm, &Request::get("/readyz"));
        }
        assert_eq!(world.logged_at("app could not be called").last(), Some(&line(why)));
        world.set("app", Manner::Status(200));
        world.ask(0, &Request::get("/readyz"));
        world.pass(5 * SECOND);
    }
    assert_eq!(world.logged("app could not be called").len(), 2);
}

// -- the proxy itself ---------------------------------------------------------

#[test]
fn the_start_and_each_drain_are_logged_and_counted_once() {
    let startup = json!({"path": "/startupz", "checks": [{"upstream": "app"}]});
    let mut world = World::new(&with(checked(), &[("/probes/startup", startup)]), 4);
    world.pass(5 * SECOND);
    for method in ["POST", "POST", "DELETE", "DELETE"] {
        for vm in 0..4 {
            world.ask(vm, &Request::of(method, "/drainz"));
        }
    }
    world.pass(60 * SECOND);
    let log = world.around.log.borrow()[1..].to_vec();
    let line = |level, words: &str| (level, format!("policy shop: {words}"));
    let drain = ["draining", "no longer draining"].map(|words| line(Level::Warn, words));
    assert_eq!(log, [&[line(Level::Info, "started")], &drain[..]].concat());
    for to in ["started", "draining", "not-draining"] {
        assert_eq!(value(&world, "lifecycle_changes_total", &[("policy", "shop"), ("to", to)]), Some(1));
    }
}

// -- names --------------------------------------------------------------------

/// Returns a policy that uses every feature.
fn everything(mode: &str) -> Value {
    json!({
        "name": "shop",
        "mode": mode,
        "upstreams": {
            "v1": {"cluster": "v1", "readinessProbe": {"httpGet": {}, "periodSeconds": 1, "failureThreshold": 1}},
            "v2": {"cluster": "v2", "circuitBreaker": {"consecutiveFailures": 5}},
            "db": {"cluster": "db", "force": "notReady"},
            "spare": {"cluster": "spare"},
        },
        "probes": {
            "liveness": {"path": "/livez"},
            "startup": {"path": "/startupz", "checks": [{"upstream": "v1"}]},
            "readiness": {
                "path": "/readyz",
                "checks": [{"upstream": "v1"}, {"upstream": "v2", "required": false}],
                "statuses": {"degraded": 203},
            },
            "grpc": {"services": [""]},
            "drain": {"path": "/drainz"},
        },
        "releases": [{
            "name": "web",
            "match": [{"uri": {"prefix": "/web"}}],
            "steer": {"header": "x-version"},
            "versions": [
                {"name": "v1", "upstream": "v1", "weight": 50, "default": true},
                {"name": "v2", "upstream": "v2", "weight": 50},
            ],
            "schedule": [{"at": "2027-01-15T07:00:00Z", "weights": {"v1": 50, "v2": 50}}],
            "rollback": {"failurePercent": 5, "latency": {"percentile": 99, "above": "1s"}},
        }],
        "gates": [
            {"match": [{"uri": {"prefix": "/db"}}], "upstream": "db"},
            {
                "match": [{"uri": {"prefix": "/spare"}}],
                "upstream": "db",
                "fallback": {"upstream": "spare", "clusterHeader": "x-cluster"},
            },
            {"match": [{"uri": {"prefix": "/answer"}}], "upstream": "db", "fallback": {"answer": {"body": "none"}}},
            {"match": [{"uri": {"prefix": "/open"}}], "upstream": "v1", "whenAllNotReady": "forward"},
        ],
    })
}

/// The metrics of that policy that are defined before any event, on the first ticks.
fn defined_at_once() -> Vec<String> {
    let mut names = Vec::new();
    for version in ["v1", "v2"] {
        for reason in [
            "incoming",
            "no-such-version",
            "match",
            "allowed",
            "existing-session",
            "sticky",
            "denied",
            "rotation",
            "fallback",
        ] {
            names.push((
                "assignments_total",
                vec![("release", "web"), ("version", version), ("reason", reason)],
            ));
        }
        for result in ["success", "slow", "failure", "broken-off"] {
            names.push((
                "responses_total",
                vec![("release", "web"), ("version", version), ("result", result)],
            ));
        }
        for reason in ["failures", "latency"] {
            names.push((
                "rollbacks_total",
                vec![("release", "web"), ("version", version), ("reason", reason)],
            ));
        }
    }
    names.push(("schedule_steps_total", vec![("release", "web")]));
    for version in ["v1", "v2"] {
        names.push(("misrouted_requests_total", vec![("release", "web"), ("version", version)]));
    }
    for to in ["started", "draining", "not-draining"] {
        names.push(("lifecycle_changes_total", vec![("to", to)]));
    }
    for (upstream, from, to, reason) in [
        ("v1", "ready", "not-ready", "check-failed"),
        ("v1", "not-ready", "ready", "check-passed"),
        ("v2", "ready", "not-ready", "consecutive-failures"),
        ("v2", "not-ready", "trial", "wait-over"),
        ("v2", "trial", "ready", "trial-passed"),
        ("v2", "trial", "not-ready", "trial-failed"),
        ("v2", "trial", "not-ready", "trial-unanswered"),
    ] {
        let labels = vec![("upstream", upstream), ("from", from), ("to", to), ("reason", reason)];
        names.push(("transitions_total", labels));
    }
    for result in ["passed", "failed", "error"] {
        names.push(("checks_total", vec![("upstream", "v1"), ("result", result)]));
    }
    for upstream in ["v1", "db"] {
        for reason in ["all-not-ready", "max-gated"] {
            names.push(("failed_open_requests_total", vec![("upstream", upstream), ("reason", reason)]));
        }
    }
    for (upstream, reason) in [("v1", "check-failed"), ("db", "forced")] {
        names.push(("gated_requests_total", vec![("upstream", upstream), ("reason", reason)]));
    }
    for to in ["spare", "answer"] {
        names.push(("fallback_requests_total", vec![("upstream", "db"), ("to", to)]));
    }
    for (probe, code, result) in [
        ("liveness", "200", "passed"),
        ("liveness", "503", "failed"),
        ("startup", "200", "passed"),
        ("startup", "503", "failed"),
        ("startup", "404", "not-found"),
        ("readiness", "200", "passed"),
        ("readiness", "203", "degraded"),
        ("readiness", "503", "failed"),
        ("readiness", "404", "not-found"),
        ("startup/v1", "200", "passed"),
        ("startup/v1", "200", "degraded"),
        ("startup/v1", "503", "failed"),
        ("readiness/v1", "200", "passed"),
        ("readiness/v1", "203", "degraded"),
        ("readiness/v1", "503", "failed"),
        ("readiness/v2", "200", "passed"),
        ("readiness/v2", "203", "degraded"),
        ("readiness/v2", "503", "failed"),
        ("drain", "200", "draining"),
        ("drain", "200", "not-draining"),
        ("drain", "403", "refused"),
        ("drain", "405", "refused"),
        ("drain", "503", "refused"),
        ("grpc", "0", "serving"),
        ("grpc", "0", "not-serving"),
        ("grpc", "5", "not-found"),
        ("grpc", "12", "unimplemented"),
        ("grpc", "14", "error"),
        ("grpc", "415", "unimplemented"),
    ] {
        names.push(("probe_answers_total", vec![("probe", probe), ("code", code), ("result", result)]));
    }
    names
        .into_iter()
        .map(|(name, labels)| named(name, &[&[("policy", "shop")], &labels[..]].concat()))
        .collect()
}

#[test]
fn metrics_for_alerts_are_defined_as_zero_before_any_event() {
    for mode in ["enforce", "shadow"] {
        let mut world = World::new(&everything(mode), 2);
        let of_policy = world.metric_names().into_iter().find(|name| name.contains("policy=.="));
        assert_eq!(of_policy, None, "a policy that is only validated defines none");
        world.pass(SECOND);
        let metrics = world.metrics();
        for mut name in defined_at_once() {
            // In mode `shadow` no request is steered, and probes are answered in both modes.
            if mode == "shadow" && name.starts_with("graygate_misrouted_requests_total.") {
                assert_eq!(metrics.get(&name), None);
                continue;
            }
            let counts_decisions = spec::METRICS
                .iter()
                .any(|spec| spec.counts_decisions && name.starts_with(&format!("graygate_{}.", spec.name)));
            if mode == "shadow" && counts_decisions {
                name += "mode=.=shadow;.;";
            }
            let passed = name.contains("checks_total") && name.contains("result=.=passed");
            let started = name.contains("to=.=started");
            assert_eq!(metrics.get(&name).map(|value| *value > 0), Some(passed || started), "{name}");
        }
    }
}

/// Causes every event of that policy. In shadow mode, upstreams receive the requests that would be gated.
fn happen(world: &mut World) {
    world.routes = ["v1", "v2"].map(|version| (version.to_owned(), version.to_owned())).into();
    world.route = "v1".to_owned();
    world.pass(3 * SECOND);
    for path in ["/web", "/web", "/db", "/spare", "/answer", "/livez", "/readyz", "/readyz/v1"] {
        world.ask(0, &Request::get(path));
    }
    for path in ["/grpc.health.v1.Health/Watch", "/drainz"] {
        let request = Request::of("POST", path).with("content-type", "application/grpc");
        world.ask(0, &request);
    }
    world.ask(0, &Request::of("DELETE", "/drainz"));
    world.set("v1", Manner::Status(500));
    world.pass(3 * SECOND);
    world.ask(0, &Request::get("/open"));
    world.set("v1", Manner::Missing);
    world.pass(3 * SECOND);
}

#[test]
fn each_metric_has_the_name_and_labels_that_dashboards_use() {
    let mut world = World::new(&everything("enforce"), 2);
    let at_first = defined_at_once();
    happen(&mut world);
    let metrics = world.metrics();
    let new: Vec<&String> = metrics.keys().filter(|name| !at_first.contains(name)).collect();
    let policy = ("policy", "shop");
    let app = ("upstream", "v1");
    let mut expected = vec![
        named("policy_enforced", &[policy]),
        named("policy_document", &[policy]),
        named("policy_refused", &[("plugin", "plugin")]),
        named("build_info", &[("version", env!("CARGO_PKG_VERSION")), ("revision", "unknown")]),
        named("version_share_basis_points", &[policy, ("release", "web"), ("version", "v1")]),
        named("version_share_basis_points", &[policy, ("release", "web"), ("version", "v2")]),
        named("upstream_ready", &[policy, app]),
        named("upstream_ready", &[policy, ("upstream", "v2")]),
        named("draining", &[policy]),
        named("policies_refused_total", &[("plugin", "plugin")]),
        named("vm_deaths_total", &[("plugin", "plugin")]),
    ];
    expected.sort();
    assert_eq!(new, expected.iter().collect::<Vec<_>>());
    let opened = [policy, app, ("reason", "all-not-ready")];
    assert_eq!(value(&world, "failed_open_requests_total", &opened), Some(1));
    assert_eq!(
        value(&world, "gated_requests_total", &[policy, ("upstream", "db"), ("reason", "forced")]),
        Some(3)
    );
    assert_eq!(value(&world, "policy_enforced", &[policy]), Some(1));
    assert_eq!(value(&world, "upstream_ready", &[policy, app]), Some(0));
    assert_eq!(value(&world, "upstream_ready", &[policy, ("upstream", "v2")]), Some(1));
}

#[test]
fn in_shadow_mode_the_counters_of_releases_and_gates_have_a_mode_label_and_no_other_metric_has_one() {
    let mut world = World::new(&everything("shadow"), 2);
    happen(&mut world);
    let mut enforced = World::new(&everything("enforce"), 2);
    happen(&mut enforced);
    let names: Vec<String> = world.metrics().into_keys().collect();
    for name in &names {
        let (kind, _) = name.strip_prefix("graygate_").unwrap().split_once('.').unwrap();
        let counts_decisions = [
            "assignments_total",
            "responses_total",
            "rollbacks_total",
            "schedule_steps_total",
            "gated_requests_total",
            "fallback_requests_total",
            "failed_open_requests_total",
        ]
        .contains(&kind);
        assert_eq!(name.ends_with(";.;mode=.=shadow;.;"), counts_decisions, "{name}");
    }
    let without_mode: BTreeSet<String> =
        names.iter().map(|name| name.replace("mode=.=shadow;.;", "")).collect();
    let missing: Vec<String> =
        enforced.metrics().into_keys().filter(|name| !without_mode.contains(name)).collect();
    // No request is steered, so none can go elsewhere.
    let misrouted = ["v1", "v2"].map(|version| {
        named("misrouted_requests_total", &[("policy", "shop"), ("release", "web"), ("version", version)])
    });
    assert_eq!(missing, misrouted);
    assert_eq!(value(&world, "policy_enforced", &[("policy", "shop")]), Some(0));
}

#[test]
fn a_policy_with_mode_off_logs_and_counts_only_its_mode() {
    let mut world = World::new(&everything("off"), 2);
    happen(&mut world);
    assert_eq!(value(&world, "policy_enforced", &[("policy", "shop")]), Some(0));
    let counted: Vec<String> =
        world.metrics().into_iter().filter(|(_, value)| *value > 0).map(|(name, _)| name).collect();
    let build = named("build_info", &[("version", env!("CARGO_PKG_VERSION")), ("revision", "unknown")]);
    assert_eq!(counted, [build, named("policy_document", &[("policy", "shop")])]);
    assert_eq!(world.around.log.borrow().len(), 1);
}

#[test]
fn a_proxy_is_in_shadow_mode_before_its_rollout() {
    let document = with(everything("enforce"), &[("/rollout", json!({"percent": 0}))]);
    let mut world = World::new(&document, 2);
    world.pass(SECOND);
    assert_eq!(value(&world, "policy_enforced", &[("policy", "shop")]), Some(0));
    assert_eq!(value(&world, "upstream_ready", &[("policy", "shop"), ("upstream", "v1")]), Some(1));
    assert_eq!(world.ask(0, &Request::get("/livez")).details, "graygate_probe{shop|liveness}");
    world.ask(0, &Request::get("/web"));
    let assigned = |labels: &[&str]| world.metric("assignments_total", labels);
    assert_eq!((assigned(&[]), assigned(&["mode=shadow"])), (1, 1));
}

#[test]
fn equal_documents_have_equal_hashes_and_different_ones_differ() {
    let number = |document: &Value| {
        let mut world = World::new(document, 1);
        world.pass(SECOND);
        value(&world, "policy_document", &[("policy", "shop")]).unwrap()
    };
    assert_eq!(number(&everything("enforce")), number(&everything("enforce")));
    assert_ne!(number(&everything("enforce")), number(&everything("shadow")));
}

#[test]
fn responses_of_a_release_with_rollback_are_counted_by_version_and_result() {
    let rollback = json!({"failurePercent": 5, "latency": {"percentile": 99, "above": "300ms"}});
    let tester = json!([{"headers": {"x-tester": {"exact": "true"}}}]);
    let mut world = released(&[
        ("/releases/0/rollback", rollback),
        ("/releases/0/versions/1/match", tester),
        ("/releases/0/versions/1/weight", json!(0)),
    ]);
    world.set("v1", Manner::Slow(SECOND));
    world.set("v2", Manner::Status(500));
    for _ in 0..10 {
        world.get(0);
        world.ask(0, &Request::get("/").with("x-tester", "true"));
    }
    world.set("v1", Manner::Status(200));
    world.get(0);
    let count = |version, result| {
        value(&world, "responses_total", &[RELEASE[0], RELEASE[1], ("version", version), ("result", result)])
    };
    let of = |version| ["success", "slow", "failure"].map(|result| count(version, result).unwrap());
    assert_eq!((of("v1"), of("v2")), ([1, 10, 0], [0, 0, 10]));
    let given = |version, reason| {
        value(
            &world,
            "assignments_total",
            &[RELEASE[0], RELEASE[1], ("version", version), ("reason", reason)],
        )
    };
    assert_eq!((given("v1", "rotation"), given("v2", "match")), (Some(11), Some(10)));
}
