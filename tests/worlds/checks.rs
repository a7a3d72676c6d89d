//! Active checks: which worker sends them, when, what they ask, and how their responses count.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::sim::{Manner, Request, SentCall, World};
use super::{MS, SECOND};

/// Returns a policy with a gate and a check on `app`, which has these fields.
fn document(fields: &Value) -> Value {
    let mut check = json!({"httpGet": {"path": "/healthz"}, "periodSeconds": 1, "failureThreshold": 1});
    for (name, value) in fields.as_object().unwrap() {
        check[name] = value.clone();
    }
    if fields["grpc"].is_object() {
        check.as_object_mut().unwrap().remove("httpGet");
    }
    json!({
        "name": "shop",
        "upstreams": {"app": {"cluster": "app", "readinessProbe": check}},
        "gates": [{"upstream": "app"}],
    })
}

fn world(fields: &Value) -> World {
    World::new(&document(fields), 4)
}

/// Returns when each check was sent, in milliseconds since `begin`.
fn sent_since(world: &World, begin: u64) -> Vec<u64> {
    let calls = world.calls_to("app");
    calls.iter().filter(|call| call.at >= begin).map(|call| call.at - begin).collect()
}

fn gaps(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn checks_counted(world: &World, result: &str) -> u64 {
    world.metric("checks_total", &["upstream=app", &format!("result={result}")])
}

// -- who sends them, and when -------------------------------------------------

#[test]
fn one_worker_sends_all_checks_at_their_period() {
    for workers in [1, 4] {
        let mut world = World::new(&document(&json!({"periodSeconds": 10})), workers);
        world.pass(900 * SECOND);
        let calls = world.calls_to("app");
        let senders: BTreeSet<usize> = calls.iter().map(|call| call.vm).collect();
        assert_eq!(senders.len(), 1);
        let times: Vec<u64> = calls.iter().map(|call| call.at).collect();
        // A tick is 250 ms here.
        assert!(gaps(&times).iter().all(|gap| (9_875..=10_250).contains(gap)), "{:?}", gaps(&times));
        assert!((88..=92).contains(&calls.len()), "{}", calls.len());
        assert_eq!(checks_counted(&world, "passed"), calls.len() as u64);
    }
}

#[test]
fn probes_and_requests_do_not_change_the_rate_of_checks() {
    let mut document = document(&json!({}));
    document["probes"] = json!({"readiness": {"path": "/readyz", "checks": [{"upstream": "app"}]}});
    let mut world = World::new(&document, 4);
    let begin = world.now();
    for turn in 0..600 {
        world.ask(turn % 4, &Request::get("/readyz"));
        world.get(turn % 4);
        world.pass(20 * MS);
    }
    let sent = sent_since(&world, begin);
    assert!(gaps(&sent).iter().all(|gap| (850..=1_250).contains(gap)), "{:?}", gaps(&sent));
}

#[test]
fn another_worker_sends_the_checks_a_second_after_the_leader_died() {
    let mut world = world(&json!({}));
    for alive in (1..4).rev() {
        world.pass(30 * SECOND);
        let leader = world.calls_to("app").last().unwrap().vm;
        let died = world.now();
        world.kill(leader);
        world.pass(30 * SECOND);
        let sent = sent_since(&world, died);
        assert!(sent[0] <= 2_500, "{alive} {sent:?}");
        assert!(gaps(&sent).iter().all(|gap| (850..=1_250).contains(gap)), "{sent:?}");
        let after: BTreeSet<usize> =
            world.calls_to("app").iter().filter(|call| call.at >= died).map(|call| call.vm).collect();
        assert!(after.len() == 1 && !after.contains(&leader));
    }
}

#[test]
fn after_an_update_only_the_newer_policy_sends_checks_and_keeps_rate_and_state() {
    let mut world = world(&json!({"failureThreshold": 3}));
    world.set_checks("app", Manner::Status(500));
    world.pass(10 * SECOND);
    let before = world.state("app");
    assert_eq!(world.phase("app"), "not-ready");
    let updated = world.now();
    let mut newer = document(&json!({"failureThreshold": 4}));
    newer["gates"][0]["reply"] = json!({"status": 429});
    world.configure(&newer);
    assert_eq!((world.state("app").generation, world.phase("app")), (before.generation, "not-ready"));
    assert_eq!(world.get(2).status, 429);
    world.pass(60 * SECOND);
    let calls = world.calls_to("app");
    // Workers of the earlier policy send checks until its lease has expired.
    let roots: Vec<usize> =
        calls.iter().filter(|call| call.at > updated + 1_500).map(|call| call.root).collect();
    assert!(roots.iter().all(|root| *root == 1), "{roots:?}");
    let times: Vec<u64> = calls.iter().map(|call| call.at).collect();
    assert!(gaps(&times).iter().all(|gap| (850..=2_500).contains(gap)), "{:?}", gaps(&times));
    assert_eq!(world.logged(" -> ").len(), 1);
}

#[test]
fn a_change_of_what_checks_ask_resets_the_state_and_other_changes_do_not() {
    let changes = [
        ("/upstreams/app/readinessProbe/periodSeconds", json!(2), false),
        ("/upstreams/app/readinessProbe/timeoutSeconds", json!(2), false),
        ("/upstreams/app/force", json!("none"), false),
        ("/upstreams/app/readinessProbe/httpGet/path", json!("/other"), true),
        ("/upstreams/app/cluster", json!("other"), true),
    ];
    for (pointer, value, begins) in changes {
        let mut world = world(&json!({}));
        world.set_checks("app", Manner::Status(500));
        world.pass(3 * SECOND);
        let mut newer = document(&json!({}));
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        newer.pointer_mut(parent).unwrap()[last] = value;
        world.set("other", Manner::Status(200));
        world.configure(&newer);
        assert_eq!(world.get(0).is_gated(), !begins, "{pointer}");
    }
}

#[test]
fn the_first_check_waits_for_its_initial_delay() {
    for delay in [0_u64, 5, 60] {
        let mut world = world(&json!({"initialDelaySeconds": delay}));
        let begin = world.now();
        world.pass(Duration::from_secs(delay + 3));
        let first = sent_since(&world, begin)[0];
        assert!((delay * 1_000).saturating_sub(125) <= first && first <= delay * 1_000 + 500, "{first}");
    }
}

#[test]
fn jitter_delays_the_first_check_and_each_period_within_its_bounds() {
    let fields = json!({"periodSeconds": 10, "initialJitterSeconds": 20, "jitterPercent": 50});
    let mut document = document(&fields);
    for index in 0..20 {
        document["upstreams"][format!("app-{index}")] = document["upstreams"]["app"].clone();
    }
    let mut world = World::new(&document, 1);
    let begin = world.now();
    world.pass(20_500 * MS);
    // All upstreams have been checked, each at a time of its own.
    let seconds: BTreeSet<u64> = sent_since(&world, begin).iter().map(|at| at / 1_000).collect();
    assert!(seconds.len() >= 8, "{seconds:?}");
    assert!((0..20).all(|index| world.state(&format!("app-{index}")).checks.started.is_some()));
    // The periods of one upstream differ, too.
    let mut world = self::world(&fields);
    world.pass(300 * SECOND);
    let sent = sent_since(&world, 0);
    let spans = gaps(&sent);
    assert!(spans.iter().all(|gap| (9_875..=15_250).contains(gap)), "{spans:?}");
    assert!(spans.iter().any(|gap| *gap < 11_500) && spans.iter().any(|gap| *gap > 13_500), "{spans:?}");
}

#[test]
fn checks_have_different_periods_near_a_threshold_while_not_ready_and_while_idle() {
    let fields = json!({
        "periodSeconds": 4, "notReadyPeriodSeconds": 2, "edgePeriodSeconds": 1, "idlePeriodSeconds": 30,
        "failureThreshold": 3, "successThreshold": 3,
    });
    let mut world = world(&fields);
    let last_gap_in_use = |world: &mut World| {
        let begin = world.now();
        for _ in 0..160 {
            world.get(1);
            world.pass(250 * MS);
        }
        gaps(&sent_since(world, begin)).last().copied().map(|gap| (gap + 250) / 500)
    };
    // In half seconds: in use, idle, and in use again.
    assert_eq!(last_gap_in_use(&mut world), Some(8));
    world.pass(60 * SECOND);
    let begin = world.now();
    world.pass(120 * SECOND);
    assert!(gaps(&sent_since(&world, begin)).iter().all(|gap| (29_750..=30_500).contains(gap)));
    assert_eq!(last_gap_in_use(&mut world), Some(8));
    world.set_checks("app", Manner::Status(500));
    let begin = world.now();
    world.pass(20 * SECOND);
    let sent = sent_since(&world, begin);
    assert_eq!(world.phase("app"), "not-ready");
    let down: Vec<u64> = gaps(&sent).iter().map(|gap| (gap + 250) / 500).collect();
    assert_eq!(down[..4], [2, 2, 4, 4], "{sent:?}");
    world.set_checks("app", Manner::Status(200));
    let begin = world.now();
    world.pass(6 * SECOND);
    let up: Vec<u64> = gaps(&sent_since(&world, begin)).iter().map(|gap| (gap + 250) / 500).collect();
    assert_eq!(up[..2], [2, 2]);
    assert_eq!(world.phase("app"), "ready");
}

#[test]
fn checks_that_take_longer_than_their_period_do_not_overlap() {
    for grpc in [false, true] {
        let mut fields = json!({"timeoutSeconds": 7});
        if grpc {
            fields["grpc"] = json!({});
        }
        let mut world = world(&fields);
        world.set_checks("app", Manner::Hangs);
        let begin = world.now();
        world.pass(71 * SECOND);
        let sent = sent_since(&world, begin);
        assert!(gaps(&sent).iter().all(|gap| (7_000..=7_500).contains(gap)), "{sent:?}");
        assert_eq!(checks_counted(&world, "failed"), sent.len() as u64 - 1);
    }
}

// -- what they ask ------------------------------------------------------------

#[test]
fn a_check_asks_what_the_probe_stanza_says() {
    let get = json!({
        "path": "/up?x=1", "host": "app.local", "port": 8443, "scheme": "HTTPS", "method": "HEAD",
        "httpHeaders": [{"name": "X-Probe", "value": "graygate"}, {"name": "User-Agent", "value": "mine"}],
    });
    let mut world = world(&json!({"httpGet": get, "timeoutSeconds": 3}));
    world.pass(2 * SECOND);
    let call = world.calls_to("app").remove(0);
    let expected = [
        (":method", "HEAD"),
        (":scheme", "https"),
        (":path", "/up?x=1"),
        (":authority", "app.local:8443"),
        ("x-probe", "graygate"),
        ("user-agent", "mine"),
        ("accept", "*/*"),
        ("x-envoy-retry-on", "reset"),
        ("x-envoy-max-retries", "1"),
    ];
    assert_eq!(call.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(call.timeout, 3 * SECOND);
    let mut plain = self::world(&json!({}));
    plain.pass(2 * SECOND);
    let call = plain.calls_to("app").remove(0);
    assert_eq!((call.header(":method"), call.header(":path")), (Some("GET"), Some("/healthz")));
    assert_eq!(call.header("user-agent"), Some(concat!("graygate/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(call.timeout, SECOND);
}

#[test]
fn accept_and_user_agent_are_left_out_if_they_are_given_as_empty() {
    let header = |name, value| json!({"name": name, "value": value});
    let call = |headers: &[Value]| {
        let mut world = world(&json!({"httpGet": {"httpHeaders": headers}}));
        world.pass(2 * SECOND);
        world.calls_to("app").remove(0)
    };
    let empty = call(&[header("Accept", ""), header("User-Agent", ""), header("X-Empty", "")]);
    assert_eq!((empty.header("accept"), empty.header("user-agent")), (None, None));
    assert_eq!(empty.header("x-empty"), Some(""));
    assert_eq!(call(&[header("Accept", "text/html")]).header("accept"), Some("text/html"));
    let twice = call(&[header("X-A", "1"), header("X-A", "2")]);
    let values: Vec<&str> =
        twice.headers.iter().filter(|(name, _)| name == "x-a").map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["1", "2"]);
}

// -- their connections --------------------------------------------------------

/// Returns for each call whether it has `connection: close`, and whether the proxy sends it again after a reset.
fn connections(world: &World) -> Vec<(bool, bool)> {
    let calls = world.calls_to("app");
    let is_closed = |call: &SentCall| call.header("connection") == Some("close");
    calls.iter().map(|call| (is_closed(call), call.header("x-envoy-retry-on").is_some())).collect()
}

#[test]
fn each_check_after_the_first_two_has_a_connection_of_its_own_and_is_sent_once() {
    for confirms in [true, false] {
        let mut world = world(&json!({}));
        world.around.confirms_close.set(confirms);
        world.pass(5 * SECOND);
        let sent = connections(&world);
        assert_eq!(sent[..2], [(false, true), (true, true)]);
        // Without a proof of HTTP/1, a reset may be due to the header.
        assert!(sent.len() > 3 && sent[2..].iter().all(|sent| *sent == (true, !confirms)), "{sent:?}");
    }
}

#[test]
fn an_upstream_that_speaks_http_2_never_fails_a_check() {
    for refusal in [Manner::Resets, Manner::Status(400), Manner::BreaksOff, Manner::Hangs] {
        let mut world = world(&json!({}));
        world.set_checks("app", Manner::Http2(Box::new(refusal.clone())));
        world.pass(60 * SECOND);
        let sent = connections(&world);
        assert_eq!(sent[..3], [(false, true), (true, true), (false, true)], "{refusal:?}");
        assert!(sent.len() > 50 && sent[3..].iter().all(|sent| *sent == (false, true)), "{refusal:?}");
        assert_eq!((checks_counted(&world, "failed"), checks_counted(&world, "error")), (0, 0));
        assert!(checks_counted(&world, "passed") > 50);
    }
}

#[test]
fn an_upstream_that_changes_to_http_2_fails_one_check() {
    let mut world = world(&json!({"failureThreshold": 2}));
    world.pass(5 * SECOND);
    world.set_checks("app", Manner::Http2(Box::new(Manner::Resets)));
    world.pass(20 * SECOND);
    assert_eq!((checks_counted(&world, "failed"), world.phase("app")), (1, "ready"));
}

#[test]
fn a_check_that_fails_has_the_policys_threshold_and_is_sent_once() {
    for manner in [Manner::Hangs, Manner::Resets, Manner::Status(500)] {
        let mut world = world(&json!({"failureThreshold": 3, "timeoutSeconds": 0.5}));
        world.pass(5 * SECOND);
        let (sent, failed) = (connections(&world).len(), checks_counted(&world, "failed"));
        world.set_checks("app", manner.clone());
        while world.phase("app") == "ready" {
            world.pass(50 * MS);
        }
        assert_eq!((connections(&world).len() - sent, checks_counted(&world, "failed") - failed), (3, 3));
    }
}

#[test]
fn a_vm_that_serves_no_requests_sends_the_checks() {
    let mut world = world(&json!({}));
    let vms_since = |world: &World, since: u64| -> BTreeSet<usize> {
        world.calls_to("app").iter().filter(|call| call.at >= since).map(|call| call.vm).collect()
    };
    for served in 0..3 {
        world.get(served);
        let since = world.now();
        world.pass(10 * SECOND);
        let senders = vms_since(&world, since);
        assert!(senders.len() == 1 && senders.iter().all(|vm| *vm > served), "{senders:?}");
    }
    assert!(gaps(&sent_since(&world, 0)).into_iter().all(|gap| gap <= 1_250));
    // The last one is the main thread's VM. If it dies, a VM that serves requests sends the checks through its own
    // connections, and closes none of them.
    world.kill(3);
    let since = world.now();
    world.pass(10 * SECOND);
    let calls = world.calls_to("app");
    let after: Vec<_> = calls.iter().filter(|call| call.at >= since).collect();
    assert!(after.len() > 7 && after[0].at - since <= 2_500);
    assert!(after.iter().all(|call| call.vm < 3 && call.header("connection").is_none()));
    assert!(after.iter().all(|call| call.header("x-envoy-retry-on") == Some("reset")));
}

// -- how their responses count ------------------------------------------------

/// Lets checks run until their thresholds are met. Returns the reason if `app` is not ready.
fn verdict(world: &mut World) -> Option<String> {
    world.pass(5 * SECOND);
    let answer = world.get(3);
    assert_eq!(answer.is_gated(), world.phase("app") == "not-ready");
    let said = answer.body.strip_prefix("policy shop: upstream app is not ready: check-failed: ");
    said.and_then(|said| said.strip_suffix('\n')).map(str::to_owned)
}

#[test]
fn a_status_from_200_to_399_passes_as_with_the_kubelet() {
    let mut world = world(&json!({}));
    for (passes, fails) in
        [(200, 400), (204, 404), (300, 429), (301, 500), (399, 503), (304, 504), (302, 199)]
    {
        world.set_checks("app", Manner::Status(fails));
        assert_eq!(verdict(&mut world), Some(format!("status {fails}")));
        world.set_checks("app", Manner::Status(passes));
        assert_eq!(verdict(&mut world), None, "{passes}");
    }
}

#[test]
fn with_expected_statuses_only_these_pass_and_no_redirect_is_followed() {
    let expected = json!([204, {"start": 300, "end": 303}, 418, {"start": 500, "end": 502}]);
    let mut world = world(&json!({"expectedStatuses": expected}));
    let moved = |status| Manner::With(status, vec![("location", "/moved".to_owned())]);
    for (passes, fails) in [(204, 200), (300, 205), (302, 303), (418, 417), (500, 299), (501, 502)] {
        world.set_checks("app", moved(fails));
        assert_eq!(verdict(&mut world), Some(format!("status {fails}")));
        world.set_checks("app", moved(passes));
        assert_eq!(verdict(&mut world), None, "{passes}");
    }
    assert!(world.calls_to("app").iter().all(|call| call.header(":path") == Some("/healthz")));
}

#[test]
fn each_cause_of_a_failed_check_is_named_and_a_local_reply_is_not_a_status() {
    for fields in [json!({}), json!({"expectedStatuses": [200, 503, 504]})] {
        let mut world = world(&fields);
        for (manner, reason) in [
            (Manner::Refuses, "could not be reached"),
            (Manner::Resets, "could not be reached"),
            (Manner::Hangs, "no response in time"),
            (Manner::Slow(1_001 * MS), "no response in time"),
            (Manner::BreaksOff, "the response broke off or was invalid"),
            (Manner::Status(500), "status 500"),
        ] {
            world.set_checks("app", manner.clone());
            assert_eq!(verdict(&mut world).as_deref(), Some(reason), "{manner:?}");
            world.set_checks("app", Manner::Slow(999 * MS));
            assert_eq!(verdict(&mut world), None);
        }
    }
}

#[test]
fn a_grpc_check_passes_if_the_service_serves_and_names_each_other_result() {
    let mut world = world(&json!({"grpc": {"service": "shop.App"}}));
    for (manner, reason) in [
        (Manner::Grpc(2), "NOT_SERVING"),
        (Manner::Grpc(0), "not serving: serving status 0"),
        (Manner::Grpc(3), "not serving: serving status 3"),
        (Manner::GrpcFails(5, "unknown service"), "grpc-status 5"),
        (Manner::GrpcFails(12, "unimplemented"), "grpc-status 12"),
        (Manner::GrpcFails(14, "db connection timeout"), "grpc-status 14"),
        (Manner::GrpcFails(4, ""), "no response in time"),
        (Manner::Refuses, "could not be reached"),
        (Manner::Hangs, "no response in time"),
    ] {
        world.set_checks("app", manner.clone());
        assert_eq!(verdict(&mut world).as_deref(), Some(reason), "{manner:?}");
        world.set_checks("app", Manner::Grpc(1));
        assert_eq!(verdict(&mut world), None);
    }
}

#[test]
fn thresholds_count_consecutive_checks_so_alternating_results_change_nothing() {
    for (failures, successes) in [(3_u64, 1_u64), (1, 3), (3, 3)] {
        let mut world = world(&json!({"failureThreshold": failures, "successThreshold": successes}));
        world.pass(3 * SECOND);
        world.set_checks("app", Manner::Status(500));
        let before = checks_counted(&world, "failed");
        while world.phase("app") == "ready" {
            world.pass(250 * MS);
        }
        assert_eq!(checks_counted(&world, "failed") - before, failures);
        world.set_checks("app", Manner::Status(200));
        let before = checks_counted(&world, "passed");
        while world.phase("app") != "ready" {
            world.pass(250 * MS);
        }
        assert_eq!(checks_counted(&world, "passed") - before, successes);
    }
    // Checks that pass and fail in turn never meet thresholds of two.
    for (failures, successes, ends) in [(2, 2, "ready"), (2, 1, "ready"), (1, 2, "not-ready")] {
        let mut world = world(&json!({"failureThreshold": failures, "successThreshold": successes}));
        let mut seen = 0;
        while seen < 120 {
            let sent = world.calls_to("app").len();
            let bad = sent % 2 == 1;
            world.set_checks("app", Manner::Status(if bad { 500 } else { 200 }));
            world.pass(250 * MS);
            seen += 1;
        }
        assert_eq!(world.phase("app"), ends, "{failures} {successes}");
        assert_eq!(world.metric("transitions_total", &[]), u64::from(ends == "not-ready"));
    }
}

#[test]
fn a_check_that_cannot_be_sent_does_not_count() {
    for (fields, assume, gated) in [
        (json!({}), "ready", false),
        (json!({}), "notReady", true),
        (json!({"grpc": {}}), "ready", false),
        (json!({"grpc": {}}), "notReady", true),
    ] {
        for manner in [Manner::Missing, Manner::NoHost, Manner::Overflows, Manner::Overloads] {
            let mut document = document(&fields);
            document["upstreams"]["app"]["assume"] = json!(assume);
            let mut world = World::new(&document, 4);
            world.set_checks("app", manner.clone());
            world.pass(12 * SECOND);
            assert!(checks_counted(&world, "error") > 10);
            assert_eq!((checks_counted(&world, "failed"), checks_counted(&world, "passed")), (0, 0));
            assert_eq!((world.state("app").generation, world.get(0).is_gated()), (0, gated), "{manner:?}");
            // It does not end a row of failures either.
            assert_eq!(world.logged("check not sent").len(), 1);
        }
    }
}

#[test]
fn a_check_that_cannot_be_sent_does_not_end_a_row_of_failures() {
    let mut world = world(&json!({"failureThreshold": 2}));
    world.pass(3 * SECOND);
    world.set_checks("app", Manner::Status(500));
    while checks_counted(&world, "failed") == 0 {
        world.pass(250 * MS);
    }
    world.set_checks("app", Manner::NoHost);
    world.pass(30 * SECOND);
    assert_eq!(world.phase("app"), "ready");
    world.set_checks("app", Manner::Status(500));
    while checks_counted(&world, "failed") == 1 {
        world.pass(250 * MS);
    }
    assert_eq!(world.phase("app"), "not-ready");
}

#[test]
fn a_check_result_of_an_earlier_phase_does_not_count() {
    let mut document = document(&json!({"periodSeconds": 5, "timeoutSeconds": 4}));
    document["upstreams"]["app"]["circuitBreaker"] =
        json!({"consecutiveFailures": 5, "notReadyFor": "1h", "maxNotReadyFor": "1h"});
    let mut world = World::new(&document, 4);
    world.set_checks("app", Manner::Slow(3 * SECOND));
    while world.calls_to("app").len() < 3 {
        world.pass(250 * MS);
    }
    // Requests fail while a check that will pass is in flight.
    world.set("app", Manner::Status(500));
    for _ in 0..5 {
        world.get(0);
    }
    assert_eq!(world.phase("app"), "not-ready");
    let (generation, passed) = (world.state("app").generation, checks_counted(&world, "passed"));
    while checks_counted(&world, "passed") == passed {
        world.pass(100 * MS);
    }
    assert_eq!((world.phase("app"), world.state("app").generation), ("not-ready", generation));
    // A check that was sent after that counts.
    world.pass(10 * SECOND);
    assert_eq!((world.phase("app"), world.reason("app").as_str()), ("ready", "check-passed"));
}

// -- redirects ----------------------------------------------------------------

fn to(location: &str) -> Manner {
    Manner::With(302, vec![("location", location.to_owned())])
}

fn deep() -> Value {
    let headers = json!([{"name": "X-Probe", "value": "graygate"}]);
    json!({"httpGet": {"path": "/deep/healthz", "host": "app.local", "port": 8080, "httpHeaders": headers}})
}

#[test]
fn a_redirect_to_the_same_host_is_followed_in_the_cluster() {
    for (location, path, authority) in [
        ("/absolute", "/absolute", "app.local:8080"),
        ("relative?x=1", "/deep/relative?x=1", "app.local:8080"),
        ("../up", "/up", "app.local:8080"),
        ("http://app.local:8080/whole", "/whole", "app.local:8080"),
        ("http://app.local:9090/port", "/port", "app.local:9090"),
        ("https://app.local/no-port", "/no-port", "app.local"),
        ("/first,/second", "/first", "app.local:8080"),
        ("//app.local:8080/no-scheme#part", "/no-scheme", "app.local:8080"),
    ] {
        let mut world = world(&deep());
        world.set_call_path("app", "/deep/healthz", to(location));
        assert_eq!(verdict(&mut world), None, "{location}");
        let followed: Vec<_> = world.calls_to("app");
        let followed: Vec<_> =
            followed.iter().filter(|call| call.header(":path") != Some("/deep/healthz")).collect();
        assert!(!followed.is_empty(), "{location}");
        for call in followed {
            assert_eq!((call.header(":path"), call.header(":authority")), (Some(path), Some(authority)));
            assert_eq!(call.header("x-probe"), Some("graygate"));
        }
        // The response at the redirect's target decides.
        world.set_call_path("app", path, Manner::Status(500));
        assert_eq!(verdict(&mut world).as_deref(), Some("status 500"), "{location}");
        world.set_call_path("app", path, Manner::Status(200));
        assert_eq!(verdict(&mut world), None, "{location}");
        for manner in [Manner::NoHost, Manner::Overloads] {
            let errors = checks_counted(&world, "error");
            world.set_call_path("app", path, manner);
            assert_eq!(verdict(&mut world), None, "{location}");
            assert!(checks_counted(&world, "error") > errors);
        }
    }
}

#[test]
fn only_the_statuses_of_a_redirect_are_followed() {
    for (status, followed) in [
        (301, true),
        (302, true),
        (303, true),
        (307, true),
        (308, true),
        (300, false),
        (304, false),
        (305, false),
    ] {
        let mut world = world(&json!({}));
        world.set_call_path("app", "/healthz", Manner::With(status, vec![("location", "/next".to_owned())]));
        world.set_call_path("app", "/next", Manner::Status(500));
        assert_eq!(verdict(&mut world).is_some(), followed, "{status}");
    }
}

#[test]
fn a_redirect_to_another_host_passes_and_is_not_followed() {
    let hosts = ["login.example.com", "app.local.example.com", "app:8080", "127.0.0.1"];
    let locations = hosts.map(|host| format!("http://{host}/login"));
    for location in locations.iter().map(String::as_str).chain(["http://", "mailto:app.local", ""]) {
        let mut world = world(&deep());
        world.set_checks("app", Manner::Status(500));
        assert!(verdict(&mut world).is_some());
        world.set_call_path("app", "/deep/healthz", to(location));
        assert_eq!(verdict(&mut world), None, "{location}");
        assert!(world.calls_to("app").iter().all(|call| call.header(":path") == Some("/deep/healthz")));
    }
}

#[test]
fn a_check_fails_after_ten_requests_or_with_an_invalid_location() {
    let too_often = Some("redirected too often or to an invalid address".to_owned());
    let mut world = world(&json!({}));
    world.set_call_path("app", "/healthz", to("/1"));
    for number in 1..12 {
        world.set_call_path("app", &format!("/{number}"), to(&format!("/{}", number + 1)));
    }
    assert_eq!(verdict(&mut world), too_often);
    let paths: BTreeSet<String> =
        world.calls_to("app").iter().map(|call| call.header(":path").unwrap().to_owned()).collect();
    assert!(paths.contains("/9") && !paths.contains("/10"), "{paths:?}");
    world.set_call_path("app", "/9", Manner::Status(200));
    assert_eq!(verdict(&mut world), None);
    for location in ["http://[::1/", "ftp://app/", "127.0.0.1:8080/x"] {
        world.set_call_path("app", "/healthz", to(location));
        assert_eq!(verdict(&mut world), too_often, "{location}");
        world.set_call_path("app", "/healthz", Manner::Status(200));
        assert_eq!(verdict(&mut world), None);
    }
}

#[test]
fn a_followed_redirect_names_where_it_came_from_and_the_user_of_its_location() {
    let get =
        json!({"host": "app.local", "method": "OPTIONS", "httpHeaders": [{"name": "Host", "value": "shop"}]});
    let mut world = world(&json!({"httpGet": get}));
    world.set_call_path("app", "/", to("http://u:p%40@app.local/a"));
    world.set_call_path("app", "/a", to("b"));
    world.pass(2 * SECOND);
    let calls = world.calls_to("app");
    let sent = |path: &str| {
        let call = calls.iter().find(|call| call.header(":path") == Some(path)).unwrap();
        [":method", ":authority", "authorization", "referer"].map(|name| call.header(name).unwrap_or("-"))
    };
    assert_eq!(sent("/"), ["OPTIONS", "shop", "-", "-"]);
    assert_eq!(sent("/a"), ["GET", "app.local", "Basic dTpwQA==", "http://app.local/"]);
    assert_eq!(sent("/b"), ["GET", "app.local", "Basic dTpwQA==", "http://app.local/a"]);
}

#[test]
fn one_timeout_applies_to_a_check_with_all_its_redirects() {
    let mut world = world(&json!({"timeoutSeconds": 2, "periodSeconds": 4}));
    world.set_call_path("app", "/healthz", to("/next"));
    world.around.call_takes.set(900 * MS);
    world.pass(10 * SECOND);
    assert_eq!(verdict(&mut world), None);
    world.around.call_takes.set(1_100 * MS);
    world.pass(10 * SECOND);
    assert_eq!(verdict(&mut world).as_deref(), Some("no response in time"));
    let next: Vec<Duration> = world
        .calls_to("app")
        .iter()
        .filter(|call| call.header(":path") == Some("/next"))
        .map(|call| call.timeout)
        .collect();
    assert!(next.contains(&(1_100 * MS)) && next.contains(&(900 * MS)), "{next:?}");
}

#[test]
fn in_shadow_mode_checks_are_sent_and_counted_as_in_any_other() {
    let mut document = document(&json!({}));
    document["mode"] = json!("shadow");
    let mut world = World::new(&document, 4);
    world.pass(10 * SECOND);
    let passed = world.metric("checks_total", &["upstream=app", "result=passed"]);
    assert!((9..=11).contains(&passed), "{passed}");
    assert_eq!(world.metric("checks_total", &["mode=shadow"]), 0);
}
