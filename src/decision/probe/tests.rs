use core::time::Duration;
use std::borrow::Cow;

use super::*;
use crate::decision::reply::ReplyCause;
use crate::policy::upstream::UpstreamId;
use crate::readiness::check::CheckFailure;
use crate::readiness::{Admission, Permit, UpstreamReason, UpstreamStatus};
use crate::value::date::Date;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const DOWN: Admission = Admission::NotReady(UpstreamReason::CheckFailed(CheckFailure::Status(500)));
const NOW: Time = Time::from_millis(1_000_000);

struct ProbeGet {
    method: &'static str,
    path: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Request for ProbeGet {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match name {
            ":method" => Some(Cow::Borrowed(self.method.as_bytes())),
            ":path" => Some(Cow::Borrowed(&self.path)),
            _ => self
                .headers
                .iter()
                .find(|(readiness, _)| *readiness == name)
                .map(|(_, value)| Cow::Borrowed(value.as_bytes())),
        }
    }
}

/// The status of the upstreams in the policy's order, and the lifecycle of the proxy.
struct TestReadiness(Vec<UpstreamStatus>, Lifecycle);

impl Readiness for TestReadiness {
    fn admission(&mut self, upstream: UpstreamId) -> Admission {
        self.0[upstream.0].admission
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        panic!("a probe needs no permit")
    }

    fn status(&self, upstream: UpstreamId) -> UpstreamStatus {
        self.0[upstream.0]
    }

    fn lifecycle(&self) -> Lifecycle {
        self.1
    }

    fn now(&self) -> Time {
        NOW
    }

    fn date(&self) -> Date {
        Date::from_rfc3339("2026-12-01T10:00:00Z").unwrap()
    }

    fn random(&mut self) -> u64 {
        0
    }
}

/// A policy with the upstreams `db`, `cache`, `api` and `queue`, each checked every ten seconds.
struct Bench {
    policy: Policy,
    readiness: TestReadiness,
}

impl Bench {
    fn new(probes: &str) -> Self {
        let check =
            |name: &str| format!(r#""{name}":{{"cluster":"{name}","readinessProbe":{{"httpGet":{{}}}}}}"#);
        let upstreams = ["db", "cache", "api", "queue"].map(check).join(",");
        let text = format!(r#"{{"name":"shop","upstreams":{{{upstreams}}},"probes":{{{probes}}}}}"#);
        let status =
            UpstreamStatus { last_result_at: Some(Time::from_millis(999_600)), ..UpstreamStatus::unknown() };
        let lifecycle = Lifecycle { started: true, ..Lifecycle::default() };
        let readiness = TestReadiness(vec![status; 4], lifecycle);
        Bench { policy: Policy::from_json(text.as_bytes()).unwrap(), readiness }
    }

    fn set(mut self, upstream: &str, admission: Admission) -> Self {
        self.of(upstream).admission = admission;
        self
    }

    fn of(&mut self, upstream: &str) -> &mut UpstreamStatus {
        let index = self.policy.upstreams.iter().position(|readiness| readiness.name == upstream).unwrap();
        &mut self.readiness.0[index]
    }

    fn reply(&self, path: impl AsRef<[u8]>, headers: &[(&'static str, &'static str)]) -> Option<Reply> {
        let get = ProbeGet { method: "GET", path: path.as_ref().to_vec(), headers: headers.to_vec() };
        let mut request = Headers::new(&get, &[]);
        let ask = find(&self.policy, &mut request)?;
        match answer(&self.policy, ask, &mut request, &self.readiness, &mut ReadyReplies::default()) {
            Action::Reply(reply) => Some(Reply::clone(&reply)),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the status and the body of the reply to a GET.
    fn get(&self, path: impl AsRef<[u8]>) -> (u32, String) {
        let reply = self.reply(path, &[]).unwrap();
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    /// Returns the status and the document of the reply to a GET that asks for JSON.
    fn json(&self, path: &str) -> (u32, serde_json::Value) {
        let reply = self.reply(path, &[("accept", "application/json")]).unwrap();
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }
}

fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    reply.headers.iter().find(|(readiness, _)| readiness == name).map(|(_, value)| value.as_ref())
}

const LIVENESS: &str = r#""liveness":{"path":"/livez"}"#;
const REQUIRED: &str = r#""readiness":{"path":"/readyz","checks":[{"upstream":"db"},{"upstream":"cache"}]}"#;
const SCORED: &str = r#""readiness":{"path":"/readyz","minimumScore":70,"checks":[{"upstream":"db","weight":40},
    {"upstream":"cache","weight":30},{"upstream":"api","weight":20},{"upstream":"queue","weight":10}]}"#;
const DRAIN: &str = r#""drain":{"path":"/d"}"#;
const STARTUP: &str = r#""startup":{"path":"/startupz","checks":[{"upstream":"db"}]}"#;

#[test]
fn a_get_or_head_of_the_exact_path_is_a_probe_with_any_query() {
    let bench = Bench::new(&format!("{LIVENESS},{REQUIRED}"));
    for path in [&b"/livez"[..], b"/livez?", b"/readyz?verbose&x=/livez", b"/livez?\xff"] {
        for method in ["GET", "HEAD"] {
            let get = ProbeGet { method, path: path.to_vec(), headers: Vec::new() };
            assert!(find(&bench.policy, &mut Headers::new(&get, &[])).is_some(), "{method} {path:?}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", ""] {
            let get = ProbeGet { method, path: path.to_vec(), headers: Vec::new() };
            assert_eq!(find(&bench.policy, &mut Headers::new(&get, &[])), None, "{method} {path:?}");
        }
    }
    for path in [&b"/"[..], b"", b"/livez/", b"/livezz", b"/LIVEZ", b"/a?/livez", b"/livez\xff", b"livez"] {
        assert_eq!(bench.reply(path, &[]), None, "{path:?}");
    }
}

#[test]
fn a_name_after_the_path_asks_for_one_check() {
    let bench = Bench::new(REQUIRED).set("cache", DOWN);
    assert_eq!(bench.get("/readyz/db"), (200, "policy shop: readiness/db passed\n".to_owned()));
    let (status, body) = bench.get("/readyz/cache?verbose");
    assert_eq!(status, 503);
    assert!(body.starts_with("[-]cache failed: check-failed: status 500\n"), "{body}");
}

#[test]
fn a_name_that_no_check_has_is_not_found() {
    let bench = Bench::new(&format!("{LIVENESS},{REQUIRED}"));
    let text = "policy shop: readiness has no check of this name. It has: db, cache\n";
    for path in ["/readyz/TYPO", "/readyz/api", "/readyz/d", "/readyz/db.x", "/readyz/dbb?verbose"] {
        assert_eq!(bench.get(path), (404, text.to_owned()), "{path}");
    }
    let reply = bench.reply("/readyz/TYPO", &[]).unwrap();
    let cause = ReplyCause::Probe { asked: ProbeTarget::Endpoint(1), code: 404, result: "not-found" };
    assert_eq!((reply.cause, header(&reply, "cache-control")), (cause, Some("no-store")));
    let secretive = Bench::new(&format!(r#"{REQUIRED},"details":"never""#));
    let text = "policy shop: readiness has no check of this name\n";
    assert_eq!(secretive.get("/readyz/TYPO"), (404, text.to_owned()));
}

/// Whatever else is below the path of a probe may be a page of the app.
#[test]
fn a_path_below_a_probe_that_can_name_no_check_is_no_probe() {
    let bench = Bench::new(&format!(r#"{LIVENESS},{REQUIRED},"groups":{{"own":{{"path":"/own"}}}}"#));
    let long = format!("/readyz/{}", "x".repeat(64));
    for path in [
        "/readyz/",
        "/readyz/db/",
        "/readyz//db",
        "/readyz/a/b",
        "/readyz/.a",
        "/readyz/%20",
        "/readyz/a:b",
        "/readyzdb",
        "/livez/db",
        "/livez/x",
        "/own/db",
        "/own/x",
        &long,
    ] {
        assert_eq!(bench.reply(path, &[]), None, "{path}");
    }
    for method in ["POST", "OPTIONS"] {
        let get = ProbeGet { method, path: b"/readyz/TYPO".to_vec(), headers: Vec::new() };
        assert_eq!(find(&bench.policy, &mut Headers::new(&get, &[])), None, "{method}");
    }
    for root in ["/", "/health/"] {
        let bench = Bench::new(&format!(r#""readiness":{{"path":"{root}","checks":[{{"upstream":"db"}}]}}"#));
        assert_eq!(bench.get(format!("{root}db")).0, 200, "{root}");
        assert_eq!(bench.reply(format!("{root}cart"), &[]), None, "{root}");
    }
}

/// A name may be misspelt below the path of one probe and right below another's.
#[test]
fn a_check_is_found_below_any_probe_before_a_name_counts_as_unknown() {
    let groups = r#""groups":{"deep":{"path":"/readyz/db","checks":[{"upstream":"api"}]},
        "wide":{"path":"/","checks":[{"upstream":"queue"}]}}"#;
    let bench = Bench::new(&format!("{REQUIRED},{groups}"));
    assert_eq!(bench.get("/readyz/db").1, "policy shop: deep passed\n");
    assert_eq!(bench.get("/readyz/db/api").1, "policy shop: deep/api passed\n");
    assert_eq!(bench.get("/readyz/db/TYPO").1, "policy shop: deep has no check of this name. It has: api\n");
    assert_eq!(bench.get("/queue").1, "policy shop: wide/queue passed\n");
    assert_eq!(bench.reply("/cart", &[]), None);
}

/// The path of another probe takes precedence over the name of a check.
#[test]
fn a_full_path_takes_precedence_over_a_name_after_a_path() {
    let bench =
        Bench::new(&format!(r#"{REQUIRED},"groups":{{"own":{{"path":"/readyz/db"}}}}"#)).set("db", DOWN);
    assert_eq!(bench.get("/readyz/db"), (200, "policy shop: own passed\n".to_owned()));
}

#[test]
fn a_probe_must_also_meet_the_match() {
    let bench = Bench::new(&format!(
        r#"{LIVENESS},"match":[{{"headers":{{"user-agent":{{"prefix":"kube-probe/"}}}}}}]"#
    ));
    assert!(bench.reply("/livez", &[("user-agent", "kube-probe/1.34")]).is_some());
    assert!(bench.reply("/livez", &[("user-agent", "curl/8")]).is_none());
    assert!(bench.reply("/livez", &[]).is_none());
}

#[test]
fn liveness_depends_on_nothing() {
    let mut bench = Bench::new(&format!("{LIVENESS},{REQUIRED},{STARTUP}")).set("db", DOWN);
    bench.readiness.1 = Lifecycle { started: false, draining: true, ..Lifecycle::default() };
    assert_eq!(bench.get("/livez"), (200, "policy shop: liveness passed\n".to_owned()));
}

#[test]
fn a_probe_with_no_checks_passes() {
    let bench = Bench::new(r#""readiness":{"path":"/readyz"}"#);
    assert_eq!(bench.get("/readyz?verbose"), (200, "policy shop: readiness passed\n".to_owned()));
}

#[test]
fn a_failed_required_check_fails_the_probe_and_is_listed() {
    let bench = Bench::new(REQUIRED).set("cache", DOWN);
    let body = "[+]db ok\n[-]cache failed: check-failed: status 500\npolicy shop: readiness failed; oldest answer 0.4 s\n";
    assert_eq!(bench.get("/readyz"), (503, body.to_owned()));
}

/// Weights are database 40, cache 30, external API 20 and queue 10. The minimum is 70.
#[test]
fn weights_add_up_to_a_score() {
    let rows: [(&[&str], u32, &str); 8] = [
        (&[], 200, "passed"),
        (&["queue"], 200, "passed, degraded"),
        (&["api"], 200, "passed, degraded"),
        (&["api", "queue"], 200, "passed, degraded"),
        (&["cache"], 200, "passed, degraded"),
        (&["cache", "queue"], 503, "failed"),
        (&["db"], 503, "failed"),
        (&["db", "cache", "api", "queue"], 503, "failed"),
    ];
    for (down, status, result) in rows {
        let bench = down.iter().fold(Bench::new(SCORED), |bench, name| bench.set(name, DOWN));
        let (got, body) = bench.get("/readyz");
        assert_eq!(got, status, "{down:?}");
        assert!(body.contains(&format!("policy shop: readiness {result}")), "{down:?} {body}");
    }
    let (_, body) = Bench::new(SCORED).set("cache", DOWN).set("queue", DOWN).get("/readyz");
    assert!(body.contains("[-]cache failed: check-failed: status 500 (weight 30)\n"), "{body}");
    assert!(body.contains("score 60 of 100, at least 70\n"), "{body}");
}

#[test]
fn a_failed_optional_check_degrades_the_probe() {
    let bench = Bench::new(
        r#""readiness":{"path":"/readyz","checks":[{"upstream":"db"},{"upstream":"queue","required":false}]}"#,
    );
    let (status, body) = bench.set("queue", DOWN).get("/readyz");
    assert_eq!(status, 200);
    assert!(body.contains("[-]queue failed: check-failed: status 500 (optional)\n"), "{body}");
    assert!(body.contains("readiness passed, degraded"), "{body}");
}

#[test]
fn a_check_in_doubt_degrades_the_probe_and_is_listed() {
    let line = |change: fn(&mut UpstreamStatus)| {
        let mut bench = Bench::new(REQUIRED);
        change(bench.of("db"));
        let (status, body) = bench.get("/readyz");
        assert_eq!(status, 200);
        assert!(body.contains("readiness passed, degraded"), "{body}");
        body.lines().next().unwrap().to_owned()
    };
    assert_eq!(line(|db| db.admission = Admission::Trial(UpstreamReason::WaitOver)), "[+]db ok: on trial");
    assert_eq!(line(|db| db.last_result_at = None), "[+]db ok: not checked yet");
    // The default is three periods of ten seconds and a timeout of one.
    assert_eq!(
        line(|db| db.last_result_at = Some(Time::from_millis(968_900))),
        "[+]db ok: stale: last answer 31.1 s ago"
    );
}

#[test]
fn the_age_at_which_a_result_is_stale_can_be_configured() {
    let mut bench = Bench::new(&format!(r#"{REQUIRED},"staleAfterSeconds":12"#));
    bench.of("db").last_result_at = Some(Time::from_millis(988_000));
    assert!(!bench.get("/readyz?verbose").1.contains("stale"));
    bench.of("db").last_result_at = Some(Time::from_millis(987_999));
    assert!(bench.get("/readyz").1.starts_with("[+]db ok: stale: last answer 12.0 s ago\n"));
}

#[test]
fn a_reply_states_the_age_of_its_oldest_check_result() {
    let mut bench = Bench::new(REQUIRED);
    bench.of("cache").last_result_at = Some(Time::from_millis(992_500));
    let reply = bench.reply("/readyz?verbose", &[]).unwrap();
    assert_eq!(header(&reply, "age"), Some("7"));
    assert!(reply.body.ends_with(b"; oldest answer 7.5 s\n"));
    assert_eq!(header(&Bench::new(LIVENESS).reply("/livez", &[]).unwrap(), "age"), None);
}

#[test]
fn details_determines_when_checks_are_listed() {
    let shown = |details: &str, path: &str, db: Admission| {
        let bench = Bench::new(&format!(r#"{REQUIRED},"details":"{details}""#)).set("db", db);
        bench.get(path).1.contains("db")
    };
    for (details, plain, verbose, failing) in
        [("never", false, false, false), ("onFailure", false, true, true), ("always", true, true, true)]
    {
        assert_eq!(shown(details, "/readyz", Admission::Ready), plain, "{details}");
        assert_eq!(shown(details, "/readyz?verbose", Admission::Ready), verbose, "{details}");
        assert_eq!(shown(details, "/readyz?exclude=cache", DOWN), failing, "{details}");
    }
}

#[test]
fn without_details_no_reply_names_an_upstream_or_a_reason() {
    let probes =
        format!(r#"{SCORED},{STARTUP},"drain":{{"path":"/d"}},"markerHeaders":true,"details":"never""#);
    let mut bench = ["db", "cache", "api", "queue"]
        .into_iter()
        .fold(Bench::new(&probes), |bench, upstream| bench.set(upstream, DOWN));
    for (started, draining) in [(true, false), (false, false), (true, true)] {
        bench.readiness.1 = Lifecycle { started, draining, ..Lifecycle::default() };
        for path in
            ["/readyz", "/readyz?verbose", "/readyz?exclude=nope", "/startupz?verbose", "/readyz/db?verbose"]
        {
            for accept in ["*/*", "application/json"] {
                let reply = bench.reply(path, &[("accept", accept)]).unwrap();
                let mut told = format!("{:?} {}", reply.headers, String::from_utf8(reply.body).unwrap());
                // Who asks for one check knows its name.
                told = told.replace("readiness/db", "readiness");
                for word in [
                    "db",
                    "cache,",
                    "api",
                    "queue",
                    "500",
                    "check-failed",
                    "score",
                    "nope",
                    "drain",
                    "started",
                ] {
                    assert!(!told.contains(word), "{path} {accept}: {word} in {told}");
                }
            }
        }
    }
}

#[test]
fn an_excluded_check_counts_as_passed() {
    let bench = Bench::new(SCORED).set("db", DOWN).set("queue", DOWN);
    let (status, body) = bench.get("/readyz?verbose&exclude=db");
    assert_eq!(status, 200);
    assert!(body.starts_with("[+]db excluded\n[+]cache ok\n"), "{body}");
    assert!(body.contains("score 90 of 100"), "{body}");
    assert_eq!(
        bench.get("/readyz?exclude=db&exclude=queue"),
        (200, "policy shop: readiness passed\n".to_owned())
    );
}

#[test]
fn unknown_names_to_exclude_are_listed_up_to_a_limit() {
    let bench = Bench::new(REQUIRED);
    let (status, body) = bench.get("/readyz?verbose&exclude=mq");
    assert_eq!(status, 200);
    assert!(body.contains("warning: no check \"mq\" to exclude\n"), "{body}");
    let hostile =
        [b"/readyz?verbose".to_vec(), b"&exclude=\xff\n\0".repeat(5_000), vec![b'x'; 60_000]].concat();
    let (_, body) = bench.get(&hostile);
    assert!(body.len() < 1_000, "{}", body.len());
    let (_, body) = bench.get([b"/readyz?verbose&exclude=".to_vec(), vec![b'x'; 60_000]].concat());
    assert!(body.len() < 1_000, "{}", body.len());
}

#[test]
fn statuses_can_be_configured() {
    let statuses = r#""statuses":{"passed":201,"degraded":299,"failed":500}"#;
    let probe = format!(
        r#""readiness":{{"path":"/r",{statuses},"checks":[{{"upstream":"db"}},{{"upstream":"api","required":false}}]}}"#
    );
    assert_eq!(Bench::new(&probe).get("/r").0, 201);
    assert_eq!(Bench::new(&probe).set("api", DOWN).get("/r").0, 299);
    assert_eq!(Bench::new(&probe).set("db", DOWN).get("/r").0, 500);
}

#[test]
fn a_status_without_a_body_gets_an_empty_one() {
    for status in [204, 205, 304] {
        let liveness =
            format!(r#""liveness":{{"path":"/livez","statuses":{{"passed":{status}}}}},"details":"always""#);
        assert_eq!(Bench::new(&liveness).get("/livez"), (status, String::new()));
    }
}

#[test]
fn readiness_fails_before_the_start_and_while_draining() {
    let mut bench = Bench::new(&format!("{REQUIRED},{STARTUP},{DRAIN}"));
    bench.readiness.1 = Lifecycle { started: false, draining: true, ..Lifecycle::default() };
    let (status, body) = bench.get("/readyz");
    assert_eq!(status, 503);
    let held = "[-]startup failed: not started yet\n[-]drain failed: draining\n";
    assert_eq!(
        body,
        format!("[+]db ok\n[+]cache ok\n{held}policy shop: readiness failed; oldest answer 0.4 s\n")
    );
    // A single check is not held back.
    assert_eq!(bench.get("/readyz/db").0, 200);
}

#[test]
fn startup_fails_until_the_start_and_then_passes_permanently() {
    let mut bench = Bench::new(STARTUP);
    bench.readiness.1.started = false;
    assert_eq!(bench.get("/startupz").0, 503);
    bench.readiness.1.started = true;
    let bench = bench.set("db", DOWN);
    assert_eq!(bench.get("/startupz"), (200, "policy shop: startup passed\n".to_owned()));
}

#[test]
fn a_start_needs_more_than_an_assumption() {
    let mut bench = Bench::new(STARTUP);
    assert!(has_started(&bench.policy, &bench.readiness));
    bench.of("db").verified = false;
    bench.readiness.1.started = false;
    assert!(!has_started(&bench.policy, &bench.readiness));
    assert!(bench.get("/startupz").1.starts_with("[-]db failed: too few checks have passed yet\npolicy"));
    assert!(has_started(&Bench::new(LIVENESS).policy, &bench.readiness));
}

#[test]
fn neither_startup_nor_drain_holds_back_a_group() {
    let mut bench = Bench::new(&format!(
        r#""groups":{{"deep":{{"path":"/deepz","checks":[{{"upstream":"db"}}]}}}},{DRAIN}"#
    ));
    bench.readiness.1 = Lifecycle { started: false, draining: true, ..Lifecycle::default() };
    assert_eq!(bench.get("/deepz"), (200, "policy shop: deep passed\n".to_owned()));
}

/// Readiness follows ten seconds after the groups `lb` and `mesh`. The group `deep` takes no part.
const STAGED: &str = r#""groups":{"lb":{"path":"/lbz"},"mesh":{"path":"/meshz"},"deep":{"path":"/deepz"}},
    "drain":{"path":"/d","alsoWhen":{"upstream":"queue"},"groups":["lb","mesh"],"readinessAfter":"10s"},
    "markerHeaders":true"#;

/// Returns a proxy that has drained for this many seconds.
fn draining_for(seconds: u64) -> Bench {
    let mut bench = Bench::new(&format!("{LIVENESS},{REQUIRED},{STAGED}"));
    let since = Some(Time::from_millis(NOW.as_millis() - seconds * 1_000));
    bench.readiness.1 = Lifecycle { started: true, draining: true, since, ..Lifecycle::default() };
    bench
}

#[test]
fn groups_that_the_drain_names_fail_at_once_and_readiness_after_its_delay() {
    let statuses = |bench: &Bench| {
        ["/lbz", "/meshz", "/readyz", "/deepz", "/livez", "/readyz/db"].map(|path| bench.get(path).0)
    };
    for (seconds, readiness) in [(0, 200), (9, 200), (10, 503), (600, 503)] {
        let bench = draining_for(seconds);
        assert_eq!(statuses(&bench), [503, 503, readiness, 200, 200, 200], "{seconds}");
        assert_eq!(result::is_ready(&bench.policy, &bench.readiness), readiness == 200, "{seconds}");
    }
    let (_, body) = draining_for(3).get("/lbz");
    assert_eq!(body, "[-]drain failed: draining\npolicy shop: lb failed\n");
    let mut idle = draining_for(600);
    idle.readiness.1 = Lifecycle { started: true, ..Lifecycle::default() };
    assert_eq!(statuses(&idle), [200; 6]);
}

#[test]
fn the_marker_of_a_drain_is_on_what_fails_for_it() {
    let is_marked = |bench: &Bench, path: &str| {
        let reply = bench.reply(path, &[]).unwrap();
        header(&reply, "x-envoy-immediate-health-check-fail").is_some()
    };
    for (seconds, readiness) in [(0, false), (10, true)] {
        let bench = draining_for(seconds);
        let marks = ["/lbz", "/readyz", "/deepz", "/livez"].map(|path| is_marked(&bench, path));
        assert_eq!(marks, [true, readiness, false, false], "{seconds}");
    }
}

#[test]
fn a_result_that_a_drain_may_change_is_not_cached() {
    let mut bench = draining_for(0);
    bench.readiness.1.draining = false;
    for (path, cache) in [("/lbz", "no-store"), ("/readyz", "no-store"), ("/deepz", "max-age=0")] {
        let reply = bench.reply(path, &[("accept", "application/json")]).unwrap();
        assert_eq!(header(&reply, "cache-control"), Some(cache), "{path}");
    }
}

#[test]
fn the_reason_of_a_drain_is_in_the_reply() {
    let line = |ordered, told| {
        let mut bench = draining_for(10);
        bench.readiness.1.draining = ordered;
        bench.readiness.1.upstream.draining = told;
        bench.get("/lbz").1.lines().next().unwrap().to_owned()
    };
    assert_eq!(line(true, false), "[-]drain failed: draining");
    assert_eq!(line(false, true), "[-]drain failed: draining (upstream queue)");
    assert_eq!(line(true, true), "[-]drain failed: draining (by order, and upstream queue)");
}

mod json {
    use super::*;
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_accept_header_selects_the_form() {
        let bench = Bench::new(REQUIRED);
        let content_type = |accept: &'static str| {
            let reply = bench.reply("/readyz", &[("accept", accept)]).unwrap();
            header(&reply, "content-type").unwrap().to_owned()
        };
        let text = "text/plain; charset=utf-8";
        for (accept, expected) in [
            ("application/json", "application/json"),
            ("application/health+json", "application/health+json"),
            ("text/html, Application/JSON;q=0.9", "application/json"),
            ("application/json, application/health+json", "application/health+json"),
            ("application/health+json;q=0, application/json", "application/json"),
            ("application/json; Q=0.0", text),
            ("*/*", text),
            ("application/jsonp", text),
            ("", text),
        ] {
            assert_eq!(content_type(accept), expected, "{accept}");
        }
    }

    #[test]
    fn json_lists_each_check_with_its_time_and_age() {
        let (status, document) = Bench::new(SCORED).set("queue", DOWN).json("/readyz?exclude=db&exclude=mq");
        assert_eq!(status, 200);
        let last_result_at =
            json!({"time": "2026-12-01T09:59:59.600Z", "ageMilliseconds": 400, "required": false});
        let check = |fields: serde_json::Value| {
            let mut check = last_result_at.clone();
            check.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            json!([check])
        };
        let expected = json!({
            "status": "warn", "serviceId": "shop", "description": "readiness",
            "output": "score 90 of 100, at least 70", "notes": ["no check \"mq\" to exclude"],
            "checks": {
                "db": check(json!({"status": "pass", "output": "excluded", "weight": 40})),
                "cache": check(json!({"status": "pass", "weight": 30})),
                "api": check(json!({"status": "pass", "weight": 20})),
                "queue": check(json!({"status": "fail", "output": "check-failed: status 500", "weight": 10})),
            },
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn json_reports_pass_warn_or_fail() {
        assert_eq!(Bench::new(REQUIRED).json("/readyz").1["status"], "pass");
        assert_eq!(
            Bench::new(REQUIRED).set("db", Admission::Trial(UpstreamReason::WaitOver)).json("/readyz").1["status"],
            "warn"
        );
        let mut bench = Bench::new(&format!("{REQUIRED},{DRAIN}"));
        bench.readiness.1.draining = true;
        let (status, document) = bench.json("/readyz");
        assert_eq!(
            (status, &document["status"], &document["output"]),
            (503, &json!("fail"), &json!("draining"))
        );
    }

    #[test]
    fn a_passed_result_may_be_cached_until_the_next_check() {
        let cache = |bench: &Bench| {
            let reply = bench.reply("/readyz", &[("accept", "application/json")]).unwrap();
            header(&reply, "cache-control").unwrap().to_owned()
        };
        assert_eq!(cache(&Bench::new(REQUIRED)), "max-age=10");
        assert_eq!(cache(&Bench::new(REQUIRED).set("db", DOWN)), "no-store");
        assert_eq!(cache(&Bench::new(&format!(r#"{REQUIRED},"drain":{{"path":"/d"}}"#))), "no-store");
        let text = Bench::new(REQUIRED).reply("/readyz", &[]).unwrap();
        assert_eq!(
            (header(&text, "cache-control"), header(&text, "vary")),
            (Some("no-store"), Some("accept"))
        );
    }

    #[test]
    fn json_lists_no_checks_if_details_is_never() {
        let bench = Bench::new(&format!(r#"{REQUIRED},"details":"never""#)).set("db", DOWN);
        let expected = json!({"status": "fail", "serviceId": "shop", "description": "readiness"});
        assert_eq!(bench.json("/readyz?verbose&exclude=mq"), (503, expected));
    }
}

#[test]
fn marker_headers_are_sent_only_if_configured() {
    let marked = |bench: &Bench| {
        let reply = bench.reply("/readyz", &[]).unwrap();
        let marks = ["x-envoy-degraded", "x-envoy-immediate-health-check-fail"];
        marks.map(|name| header(&reply, name).is_some())
    };
    let optional = r#""readiness":{"path":"/readyz","checks":[{"upstream":"db","required":false}]}"#;
    let with = |draining| {
        let mut bench = Bench::new(&format!(r#"{optional},"drain":{{"path":"/d"}},"markerHeaders":true"#))
            .set("db", DOWN);
        bench.readiness.1.draining = draining;
        bench
    };
    assert_eq!(marked(&Bench::new(optional).set("db", DOWN)), [false, false]);
    assert_eq!(marked(&with(false)), [true, false]);
    assert_eq!(marked(&with(true)), [false, true]);
    assert_eq!(marked(&with(false).set("db", Admission::Ready)), [false, false]);
}

#[test]
fn response_code_details_name_the_policy_and_the_probe() {
    let reply = Bench::new(REQUIRED).set("db", DOWN).reply("/readyz", &[]).unwrap();
    assert_eq!(reply.details, "graygate_probe{shop|readiness}");
    assert_eq!(
        reply.cause,
        ReplyCause::Probe { asked: ProbeTarget::Endpoint(0), code: 503, result: "failed" }
    );
}

#[test]
fn a_result_from_the_future_has_age_zero() {
    let mut bench = Bench::new(REQUIRED);
    bench.of("db").last_result_at = Some(NOW + Duration::from_secs(5));
    assert!(bench.get("/readyz?verbose").1.contains("[+]db ok\n"));
}
