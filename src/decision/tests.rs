use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::decision::action::{HeaderChange, HeaderEdit};
use crate::decision::reply::{Reply, ReplyCause};
use crate::readiness::check::CheckFailure;
use crate::readiness::{Admission, LeaseId, UpstreamReason, UpstreamStatus};
use crate::value::date::Date;
use crate::value::hash;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

mod gate_replies;
mod gates;
mod preflights;
mod probes;
mod releases;

const DOWN: Admission = Admission::NotReady(UpstreamReason::CheckFailed(CheckFailure::Status(500)));
const TRIAL: Admission = Admission::Trial(UpstreamReason::WaitOver);

/// Users of the release `reviews`, which has weights 80 and 20. See the golden vectors of the hash.
const USER_ON_V1: &str = "alice";
const USER_ON_V2: &str = "jane.doe@example.com";

const REVIEWS: &str = r#"{"name":"reviews","match":[{"uri":{"prefix":"/api"}}],"steer":{"header":"x-v"},
    "hashOn":[{"httpHeaderName":"x-user"}],"versions":[
    {"name":"v1","upstream":"one","weight":80,"default":true},
    {"name":"v2","upstream":"two","weight":20,"match":[{"headers":{"x-tester":{}}}]}]}"#;

/// Returns a policy with the upstreams `one`, `two`, `db` and `mq`.
fn policy(parts: &str) -> Policy {
    let text = format!(
        r#"{{"name":"shop","upstreams":{{"one":{{"cluster":"one"}},"two":{{"cluster":"two"}},
        "db":{{"cluster":"db"}},"mq":{{"cluster":"mq"}}}}{}{parts}}}"#,
        if parts.is_empty() { "" } else { "," }
    );
    Policy::from_json(text.as_bytes()).unwrap()
}

fn with_releases(releases: &[&str]) -> Bench {
    Bench::new(policy(&format!(r#""releases":[{}]"#, releases.join(","))))
}

fn with_reviews_and_gates(gates: &str) -> Bench {
    Bench::new(policy(&format!(r#""releases":[{REVIEWS}],"gates":[{gates}]"#)))
}

/// The upstreams' admissions, and the number of permits for those on trial.
struct TestReadiness {
    admissions: Vec<Admission>,
    permits: Vec<u32>,
    lifecycle: Lifecycle,
    now: Time,
    date: Date,
    until: Option<Time>,
    /// The number of permits that were lent.
    lent: u64,
}

impl Readiness for TestReadiness {
    fn admission(&mut self, upstream: UpstreamId) -> Admission {
        self.admissions[upstream.0]
    }

    fn lend_permit(&mut self, upstream: UpstreamId) -> Option<Permit> {
        assert!(matches!(self.admissions[upstream.0], Admission::Trial(_)), "asked with no trial on");
        let left = &mut self.permits[upstream.0];
        *left = left.checked_sub(1)?;
        self.lent += 1;
        Some(Permit::new(upstream, LeaseId { id: self.lent, generation: 0 }))
    }

    fn status(&self, upstream: UpstreamId) -> UpstreamStatus {
        let admission = self.admissions[upstream.0];
        // A later upstream in the policy has been held back for longer.
        let since = Time::from_millis(1_000 - upstream.0 as u64);
        let held_back_since = (admission != Admission::Ready).then_some(since);
        UpstreamStatus { admission, held_back_since, until: self.until, ..UpstreamStatus::unknown() }
    }

    fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    fn now(&self) -> Time {
        self.now
    }

    fn date(&self) -> Date {
        self.date
    }

    fn random(&mut self) -> u64 {
        0
    }
}

/// A request that records which headers are read, and whether its route is.
struct TestRequest {
    headers: BTreeMap<String, Vec<u8>>,
    /// The cluster of its route. Without one, the route is unknown.
    cluster: Option<&'static str>,
    source: String,
    asked: RefCell<Vec<String>>,
}

impl TestRequest {
    fn to(method: &str, path: &str) -> Self {
        let ask = TestRequest {
            headers: BTreeMap::new(),
            cluster: None,
            source: String::new(),
            asked: RefCell::default(),
        };
        ask.with(":method", method).with(":path", path)
    }

    fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.insert(name.to_owned(), value.as_ref().to_vec());
        self
    }
}

fn get(path: &str) -> TestRequest {
    TestRequest::to("GET", path)
}

/// Returns a request by this user that the release matches.
fn by(user: &str) -> TestRequest {
    get("/api").with("x-user", user)
}

impl Request for TestRequest {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.asked.borrow_mut().push(name.to_owned());
        self.headers.get(name).map(|value| Cow::Borrowed(value.as_slice()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.source.as_bytes()))
    }

    fn is_routed_to(&self, cluster: &str) -> bool {
        self.asked.borrow_mut().push("the route".to_owned());
        self.cluster.is_none_or(|own| own == cluster)
    }
}

/// A policy, what is known of its upstreams, and how one worker divides requests.
struct Bench {
    policy: Policy,
    readiness: TestReadiness,
    splits: Vec<Split>,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        let count = policy.upstreams.len();
        let readiness = TestReadiness {
            admissions: vec![Admission::Ready; count],
            permits: vec![0; count],
            lifecycle: Lifecycle { started: true, ..Lifecycle::default() },
            now: Time::default(),
            date: Date::default(),
            until: None,
            lent: 0,
        };
        let splits = policy
            .releases
            .iter()
            .map(|release| Split::new(release, Date::default(), Time::default(), &[], 0));
        Bench { splits: splits.collect(), policy, readiness }
    }

    fn id(&self, name: &str) -> UpstreamId {
        self.policy.upstream_ids().find(|(_, upstream)| upstream.name == name).unwrap().0
    }

    fn set(mut self, name: &str, admission: Admission) -> Self {
        let id = self.id(name);
        self.readiness.admissions[id.0] = admission;
        self
    }

    /// Puts the upstream on trial with this number of permits.
    fn on_trial(mut self, name: &str, permits: u32) -> Self {
        let id = self.id(name);
        self.readiness.permits[id.0] = permits;
        self.set(name, TRIAL)
    }

    /// Moves both clocks to this many seconds after their start.
    fn at(mut self, second: u64) -> Self {
        self.readiness.now = Time::from_millis(second * 1_000);
        self.readiness.date = Date::from_millis(second * 1_000);
        for (release, split) in self.policy.releases.iter().zip(&mut self.splits) {
            split.update(release, self.readiness.date, self.readiness.now, &[]);
        }
        self
    }

    fn ask(&mut self, ask: TestRequest) -> Outcome {
        let decision = decide(&self.policy, &ask, &mut self.readiness, &mut self.splits);
        let assigned = decision.assignments.iter().map(|assignment| {
            let release = &self.policy.releases[assignment.release];
            let version = &release.versions[assignment.version].name;
            format!("{} {version} by {}", release.name, assignment.reason.code())
        });
        let assigned = assigned.collect::<Vec<_>>().join(", ");
        let permits = decision.permits.iter().map(|permit| self.policy.name_of(permit.upstream()));
        let permits = permits.collect::<Vec<_>>().join(", ");
        for permit in decision.permits {
            permit.into_lease();
        }
        let edit = |edit: &HeaderEdit<'_>| match &edit.change {
            HeaderChange::Set(value) => format!("{}: {value}", edit.header),
            HeaderChange::Add(value) => format!("also {}: {value}", edit.header),
            HeaderChange::Remove => format!("no {}", edit.header),
            HeaderChange::SetBytes(value) => format!("{}: {}", edit.header, String::from_utf8_lossy(value)),
        };
        let describe = |edits: &[HeaderEdit<'_>]| Some(edits.iter().map(edit).collect::<Vec<_>>().join(", "));
        let mut response = None;
        let mut filter_state = String::new();
        let (action, edits, reply) = match decision.action {
            Action::Forward(edits) => {
                response = describe(&edits.response);
                let objects = edits.filter_state.iter().map(|(object, value)| format!("{object}: {value}"));
                filter_state = objects.collect::<Vec<_>>().join(", ");
                ("forward", describe(&edits.request), None)
            }
            Action::PassThrough { head: false, .. } => ("pass through", None, None),
            Action::PassThrough { head: true, .. } => ("pass through with no body", None, None),
            Action::Status => ("status page", None, None),
            Action::GrpcCheck { edits, .. } => ("grpc check", describe(&edits), None),
            Action::Reply(reply) => ("reply", None, Some(Reply::clone(&reply))),
            Action::Drain { draining: true, reply } => ("drain", None, Some(reply)),
            Action::Drain { draining: false, reply } => ("stop draining", None, Some(reply)),
        };
        Outcome { action, edits, response, filter_state, reply, assigned, permits }
    }
}

/// A decision as text.
#[derive(Debug)]
struct Outcome {
    action: &'static str,
    edits: Option<String>,
    response: Option<String>,
    filter_state: String,
    reply: Option<Reply>,
    assigned: String,
    permits: String,
}

impl Outcome {
    #[track_caller]
    fn is_forwarded(&self, edits: &str) -> &Self {
        self.is("forward", edits)
    }

    /// Asserts the edits of the response.
    #[track_caller]
    fn has_response_edits(&self, edits: &str) -> &Self {
        assert_eq!(self.response.as_deref(), Some(edits), "{self:?}");
        self
    }

    /// Asserts the objects in the filter state.
    #[track_caller]
    fn has_filter_state(&self, objects: &str) -> &Self {
        assert_eq!(self.filter_state, objects, "{self:?}");
        self
    }

    /// Asserts the action and the edits of the request.
    #[track_caller]
    fn is(&self, action: &str, edits: &str) -> &Self {
        assert_eq!((self.action, self.edits.as_deref()), (action, Some(edits)), "{self:?}");
        self
    }

    /// Asserts the action and the status of the reply.
    #[track_caller]
    fn is_answered(&self, action: &str, status: u32) -> &Self {
        let replied = self.reply.as_ref().map(|reply| reply.status);
        assert_eq!((self.action, replied), (action, Some(status)), "{self:?}");
        self
    }

    #[track_caller]
    fn is_assigned(&self, assigned: &str) -> &Self {
        assert_eq!(self.assigned, assigned, "{self:?}");
        self
    }

    #[track_caller]
    fn holds_permits(&self, permits: &str) -> &Self {
        assert_eq!(self.permits, permits, "{self:?}");
        self
    }

    #[track_caller]
    fn is_gated_by(&self, upstream: &str) -> &Reply {
        let reply = self.reply.as_ref().unwrap_or_else(|| panic!("{self:?}"));
        assert!(reply.details.starts_with(&format!("graygate_gate{{shop|{upstream}|")), "{self:?}");
        reply
    }
}

mod no_effect {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// All parts but the releases.
    const PARTS: &str = r#""probes":{"liveness":{"path":"/livez"}},"gates":[{"upstream":"db"}],"#;

    #[test]
    fn nothing_happens_while_the_mode_is_off() {
        let mut bench =
            Bench::new(policy(&format!(r#""mode":"off",{PARTS}"releases":[{REVIEWS}]"#))).set("db", DOWN);
        for ask in [get("/livez"), by(USER_ON_V2), by(USER_ON_V1).with("x-v", "v2")] {
            bench.ask(ask).is_forwarded("").is_assigned("").holds_permits("");
        }
        let ask = by(USER_ON_V2);
        decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }

    #[test]
    fn an_empty_policy_reads_no_headers() {
        let mut bench = Bench::new(policy(""));
        let ask = by(USER_ON_V2);
        decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }

    /// Each read is a host call that copies the value.
    #[test]
    fn no_header_is_read_twice() {
        let mut bench = Bench::new(policy(&format!(
            r#"{PARTS}"releases":[{REVIEWS},{}]"#,
            REVIEWS.replace("reviews", "again")
        )));
        for ask in [
            by(USER_ON_V2),
            get("/livez"),
            get("/other").with("x-v", "v2"),
            TestRequest::to("POST", "/livez"),
        ] {
            decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits);
            let mut asked = ask.asked.take();
            asked.sort();
            let count = asked.len();
            asked.dedup();
            assert_eq!(asked.len(), count);
        }
    }
}

mod versions_not_ready {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_request_falls_back_if_its_version_is_not_ready() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
        bench.ask(by("x").with("x-tester", "1")).is_assigned("reviews v1 by fallback");
        bench.ask(by(USER_ON_V1)).is_assigned("reviews v1 by sticky");
    }

    #[test]
    fn a_request_falls_back_even_if_a_trusted_hop_named_its_version() {
        let trusting = REVIEWS.replace(r#""steer""#, r#""trustIncoming":true,"steer""#);
        let mut bench = with_releases(&[&trusting]).set("two", DOWN);
        bench
            .ask(by(USER_ON_V1).with("x-v", "v2"))
            .is_forwarded("x-v: v1")
            .is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn the_decision_also_holds_the_chosen_version() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        let ask = by(USER_ON_V2);
        let decision = decide(&bench.policy, &ask, &mut bench.readiness, &mut bench.splits);
        let assignment = &decision.assignments[0];
        assert_eq!((assignment.version, assignment.reason), (0, release::AssignmentReason::Fallback));
        assert_eq!(
            (assignment.choice.version, assignment.choice.reason),
            (1, release::AssignmentReason::Sticky)
        );
        assert_eq!(hash::bucket(assignment.choice.key.unwrap().1), 1839);
    }

    #[test]
    fn a_default_version_gets_requests_even_if_it_is_not_ready() {
        let mut bench = with_releases(&[REVIEWS]).set("one", DOWN);
        bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky");
        let mut bench = bench.set("two", DOWN);
        bench.ask(by(USER_ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn a_version_that_is_not_ready_keeps_its_turns_in_the_rotation() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        let fallbacks =
            (0..100).filter(|_| bench.ask(get("/api")).assigned == "reviews v1 by fallback").count();
        assert_eq!(fallbacks, 20);
    }
}

mod versions_on_trial {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_request_gets_a_version_on_trial_only_with_a_permit() {
        let mut bench = with_releases(&[REVIEWS]).on_trial("two", 1);
        bench.ask(by(USER_ON_V2)).is_assigned("reviews v2 by sticky").holds_permits("two");
        bench.ask(by(USER_ON_V2)).is_assigned("reviews v1 by fallback").holds_permits("");
    }

    #[test]
    fn a_request_takes_one_permit_however_often_it_needs_the_upstream() {
        let again = REVIEWS.replace("reviews", "again").replace("x-v", "x-w");
        let parts =
            format!(r#""releases":[{REVIEWS},{again}],"gates":[{{"upstream":"two"}},{{"upstream":"two"}}]"#);
        let mut bench = Bench::new(policy(&parts)).on_trial("two", 1);
        let outcome = bench.ask(by(USER_ON_V2).with("x-tester", "1"));
        outcome.is_forwarded("x-v: v2, x-w: v2").holds_permits("two");
    }

    #[test]
    fn a_default_version_on_trial_takes_permits_while_there_are_any() {
        let mut bench = with_releases(&[REVIEWS]).on_trial("one", 1);
        bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").holds_permits("one");
        bench.ask(by(USER_ON_V1)).is_forwarded("x-v: v1").holds_permits("");
    }

    #[test]
    fn a_request_that_falls_back_to_a_version_on_trial_takes_a_permit() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN).on_trial("one", 1);
        bench.ask(by(USER_ON_V2)).is_assigned("reviews v1 by fallback").holds_permits("one");
    }

    #[test]
    fn a_gated_request_keeps_its_permit() {
        let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).on_trial("two", 1).set("db", DOWN);
        let outcome = bench.ask(by(USER_ON_V2));
        outcome.is_gated_by("db");
        outcome.holds_permits("two");
    }
}

#[test]
fn headers_that_are_not_utf_8_are_accepted_everywhere() {
    let probes = r#""probes":{"liveness":{"path":"/livez"}}"#;
    let gates = r#""gates":[{"upstream":"db","match":[{"headers":{"x-user":{"prefix":"\u00e9"}},"uri":{"prefix":"/"}}]}]"#;
    let mut bench =
        Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}],{gates}"#))).set("db", DOWN);
    let odd = [&b"\xff"[..], b"\xc3", b"\xc3\xa9\xff", b"\0", b"", b"v1\xff", b"=;,=", &[b'a'; 60 * 1024]];
    for name in [":path", ":method", "x-user", "x-v", "x-tester", "cookie", ":authority"] {
        for value in odd {
            bench.ask(by(USER_ON_V1).with(name, value));
        }
    }
    let outcome = bench.ask(by("").with("x-user", b"\xff\xfe\x00\x80"));
    outcome.is_assigned("reviews v1 by sticky");
}

#[test]
fn a_request_without_any_headers_is_forwarded() {
    let probes = r#""probes":{"liveness":{"path":"/livez"}}"#;
    let mut bench = Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}]"#)));
    bench.ask(TestRequest { headers: BTreeMap::new(), ..get("") }).is_forwarded("");
}
