use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;
use crate::decision::action::{HeaderChange, HeaderEdit};
use crate::decision::reply::{Reply, ReplyCause};
use crate::readiness::check::CheckFailure;
use crate::readiness::{Admission, LeaseId, UpstreamReason, UpstreamStatus};
use crate::value::hash;
use crate::value::lifecycle::Lifecycle;
use crate::value::time::Time;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

mod gates;
mod probes;
mod releases;

const DOWN: Admission = Admission::NotReady(UpstreamReason::CheckFailed(CheckFailure::Status(500)));
const TRIAL: Admission = Admission::Trial(UpstreamReason::WaitOver);

/// Users of the release `reviews`, weights 80 and 20: see the golden vectors of the hash.
const ON_V1: &str = "alice";
const ON_V2: &str = "jane.doe@example.com";

const REVIEWS: &str = r#"{"name":"reviews","match":[{"uri":{"prefix":"/api"}}],"steer":{"header":"x-v"},
    "hashOn":[{"httpHeaderName":"x-user"}],"versions":[
    {"name":"v1","upstream":"one","weight":80,"default":true},
    {"name":"v2","upstream":"two","weight":20,"match":[{"headers":{"x-tester":{}}}]}]}"#;

/// A policy with the upstreams `one`, `two`, `db` and `mq`.
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

/// What is known of the upstreams, with so many permits for those on trial.
struct Known {
    admissions: Vec<Admission>,
    permits: Vec<u32>,
    lifecycle: Lifecycle,
    now: Time,
    until: Option<Time>,
    /// How many permits were lent.
    lent: u64,
}

impl Readiness for Known {
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
        // The later in the policy, the longer.
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

    fn random(&self) -> u64 {
        0
    }
}

/// A request; notes which headers it is asked for.
struct Ask {
    headers: BTreeMap<String, Vec<u8>>,
    source: String,
    asked: RefCell<Vec<String>>,
}

impl Ask {
    fn to(method: &str, path: &str) -> Self {
        let ask = Ask { headers: BTreeMap::new(), source: String::new(), asked: RefCell::default() };
        ask.with(":method", method).with(":path", path)
    }

    fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.insert(name.to_owned(), value.as_ref().to_vec());
        self
    }
}

fn get(path: &str) -> Ask {
    Ask::to("GET", path)
}

/// A request of the release's by this user.
fn by(user: &str) -> Ask {
    get("/api").with("x-user", user)
}

impl Request for Ask {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.asked.borrow_mut().push(name.to_owned());
        self.headers.get(name).map(|value| Cow::Borrowed(value.as_slice()))
    }

    fn source(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.source.as_bytes()))
    }
}

/// A policy, what is known, and how one worker divides requests.
struct Bench {
    policy: Policy,
    known: Known,
    splits: Vec<Split>,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        let count = policy.upstreams.len();
        let lifecycle = Lifecycle { started: true, draining: false };
        let (admissions, permits) = (vec![Admission::Ready; count], vec![0; count]);
        let (now, until, lent) = (Time::default(), None, 0);
        let known = Known { admissions, permits, lifecycle, now, until, lent };
        let splits = policy
            .releases
            .iter()
            .map(|release| Split::new(release, Time::default(), Time::default(), &[], 0));
        Bench { splits: splits.collect(), policy, known }
    }

    fn id(&self, name: &str) -> UpstreamId {
        self.policy.upstream_ids().find(|(_, upstream)| upstream.name == name).unwrap().0
    }

    fn set(mut self, name: &str, admission: Admission) -> Self {
        let id = self.id(name);
        self.known.admissions[id.0] = admission;
        self
    }

    /// The upstream is on trial, with so many permits to give.
    fn on_trial(mut self, name: &str, permits: u32) -> Self {
        let id = self.id(name);
        self.known.permits[id.0] = permits;
        self.set(name, TRIAL)
    }

    /// So many seconds after the epoch.
    fn at(mut self, second: u64) -> Self {
        self.known.now = Time::from_millis(second * 1_000);
        for (release, split) in self.policy.releases.iter().zip(&mut self.splits) {
            split.update(release, self.known.now, self.known.now, &[]);
        }
        self
    }

    fn ask(&mut self, ask: Ask) -> Told {
        let decision = decide(&self.policy, &ask, &mut self.known, &mut self.splits);
        let assigned = decision.assignments.iter().map(|assignment| {
            let release = &self.policy.releases[assignment.release];
            let version = &release.versions[assignment.version].name;
            format!("{} {version} by {}", release.name, assignment.reason.code())
        });
        let assigned = assigned.collect::<Vec<_>>().join(", ");
        let permits = decision.permits.iter().map(|permit| self.policy.name_of(permit.upstream()));
        let permits = permits.collect::<Vec<_>>().join(", ");
        let edit = |edit: &HeaderEdit<'_>| match &edit.change {
            HeaderChange::Set(value) => format!("{}: {value}", edit.header),
            HeaderChange::Add(value) => format!("also {}: {value}", edit.header),
            HeaderChange::Remove => format!("no {}", edit.header),
        };
        let words = |edits: &[HeaderEdit<'_>]| Some(edits.iter().map(edit).collect::<Vec<_>>().join(", "));
        let (mut response, mut state) = (None, String::new());
        let (what, edits, reply) = match decision.action {
            Action::Forward(passage) => {
                response = words(&passage.response);
                let objects = passage.filter_state.iter().map(|(object, value)| format!("{object}: {value}"));
                state = objects.collect::<Vec<_>>().join(", ");
                ("forward", words(&passage.request), None)
            }
            Action::PassThrough { head: false, .. } => ("pass through", None, None),
            Action::PassThrough { head: true, .. } => ("pass through with no body", None, None),
            Action::GrpcCheck { edits, .. } => ("grpc check", words(&edits), None),
            Action::Reply(reply) => ("reply", None, Some(reply)),
            Action::Drain { draining: true, reply } => ("drain", None, Some(reply)),
            Action::Drain { draining: false, reply } => ("stop draining", None, Some(reply)),
        };
        Told { what, edits, response, state, reply, assigned, permits }
    }
}

/// A decision in words.
#[derive(Debug)]
struct Told {
    what: &'static str,
    edits: Option<String>,
    response: Option<String>,
    state: String,
    reply: Option<Reply>,
    assigned: String,
    permits: String,
}

impl Told {
    #[track_caller]
    fn is_forwarded(&self, edits: &str) -> &Self {
        self.is("forward", edits)
    }

    /// The response gets these edits.
    #[track_caller]
    fn comes_back_with(&self, edits: &str) -> &Self {
        assert_eq!(self.response.as_deref(), Some(edits), "{self:?}");
        self
    }

    /// The proxy's filter state has these objects.
    #[track_caller]
    fn is_noted_as(&self, state: &str) -> &Self {
        assert_eq!(self.state, state, "{self:?}");
        self
    }

    /// What is done, with these edits.
    #[track_caller]
    fn is(&self, what: &str, edits: &str) -> &Self {
        assert_eq!((self.what, self.edits.as_deref()), (what, Some(edits)), "{self:?}");
        self
    }

    /// What is done, and the status of the reply.
    #[track_caller]
    fn is_answered(&self, what: &str, status: u32) -> &Self {
        let replied = self.reply.as_ref().map(|reply| reply.status);
        assert_eq!((self.what, replied), (what, Some(status)), "{self:?}");
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

mod nothing {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// All parts but the releases.
    const PARTS: &str = r#""probes":{"liveness":{"path":"/livez"}},"gates":[{"upstream":"db"}],"#;

    #[test]
    fn happens_while_the_mode_is_off() {
        let mut bench =
            Bench::new(policy(&format!(r#""mode":"off",{PARTS}"releases":[{REVIEWS}]"#))).set("db", DOWN);
        for ask in [get("/livez"), by(ON_V2), by(ON_V1).with("x-v", "v2")] {
            bench.ask(ask).is_forwarded("").is_assigned("").holds_permits("");
        }
        let ask = by(ON_V2);
        decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }

    #[test]
    fn is_asked_of_the_host_where_the_policy_holds_nothing() {
        let mut bench = Bench::new(policy(""));
        let ask = by(ON_V2);
        decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits);
        assert!(ask.asked.borrow().is_empty());
    }

    /// Each is a host call that copies the value.
    #[test]
    fn is_asked_of_the_host_twice() {
        let mut bench = Bench::new(policy(&format!(
            r#"{PARTS}"releases":[{REVIEWS},{}]"#,
            REVIEWS.replace("reviews", "again")
        )));
        for ask in [by(ON_V2), get("/livez"), get("/other").with("x-v", "v2"), Ask::to("POST", "/livez")] {
            decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits);
            let mut asked = ask.asked.take();
            asked.sort();
            let count = asked.len();
            asked.dedup();
            assert_eq!(asked.len(), count);
        }
    }
}

mod a_version_that_is_not_ready {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn falls_back_to_the_default_and_the_reason_says_so() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        bench.ask(by(ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
        bench.ask(by("x").with("x-tester", "1")).is_assigned("reviews v1 by fallback");
        bench.ask(by(ON_V1)).is_assigned("reviews v1 by sticky");
    }

    #[test]
    fn falls_back_also_where_a_trusted_hop_named_it() {
        let trusting = REVIEWS.replace(r#""steer""#, r#""trustIncoming":true,"steer""#);
        let mut bench = with_releases(&[&trusting]).set("two", DOWN);
        bench.ask(by(ON_V1).with("x-v", "v2")).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn keeps_its_place_in_the_decision() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        let ask = by(ON_V2);
        let decision = decide(&bench.policy, &ask, &mut bench.known, &mut bench.splits);
        let assignment = &decision.assignments[0];
        assert_eq!((assignment.version, assignment.reason), (0, release::AssignmentReason::Fallback));
        assert_eq!(
            (assignment.choice.version, assignment.choice.reason),
            (1, release::AssignmentReason::Sticky)
        );
        assert_eq!(hash::bucket(assignment.choice.key.unwrap().1), 1839);
    }

    #[test]
    fn gets_the_request_all_the_same_where_it_is_the_default() {
        let mut bench = with_releases(&[REVIEWS]).set("one", DOWN);
        bench.ask(by(ON_V1)).is_forwarded("x-v: v1").is_assigned("reviews v1 by sticky");
        let mut bench = bench.set("two", DOWN);
        bench.ask(by(ON_V2)).is_forwarded("x-v: v1").is_assigned("reviews v1 by fallback");
    }

    #[test]
    fn gives_no_turn_away_in_the_rotation() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN);
        let fallbacks =
            (0..100).filter(|_| bench.ask(get("/api")).assigned == "reviews v1 by fallback").count();
        assert_eq!(fallbacks, 20);
    }
}

mod a_version_on_trial {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn takes_a_request_with_a_permit_and_no_more() {
        let mut bench = with_releases(&[REVIEWS]).on_trial("two", 1);
        bench.ask(by(ON_V2)).is_assigned("reviews v2 by sticky").holds_permits("two");
        bench.ask(by(ON_V2)).is_assigned("reviews v1 by fallback").holds_permits("");
    }

    #[test]
    fn costs_one_permit_however_often_a_request_needs_it() {
        let again = REVIEWS.replace("reviews", "again").replace("x-v", "x-w");
        let parts =
            format!(r#""releases":[{REVIEWS},{again}],"gates":[{{"upstream":"two"}},{{"upstream":"two"}}]"#);
        let mut bench = Bench::new(policy(&parts)).on_trial("two", 1);
        let told = bench.ask(by(ON_V2).with("x-tester", "1"));
        told.is_forwarded("x-v: v2, x-w: v2").holds_permits("two");
    }

    #[test]
    fn that_is_the_default_takes_permits_while_there_are_any() {
        let mut bench = with_releases(&[REVIEWS]).on_trial("one", 1);
        bench.ask(by(ON_V1)).is_forwarded("x-v: v1").holds_permits("one");
        bench.ask(by(ON_V1)).is_forwarded("x-v: v1").holds_permits("");
    }

    #[test]
    fn that_is_fallen_back_to_takes_a_permit_too() {
        let mut bench = with_releases(&[REVIEWS]).set("two", DOWN).on_trial("one", 1);
        bench.ask(by(ON_V2)).is_assigned("reviews v1 by fallback").holds_permits("one");
    }

    #[test]
    fn hands_its_permit_over_even_where_a_gate_answers() {
        let mut bench = with_reviews_and_gates(r#"{"upstream":"db"}"#).on_trial("two", 1).set("db", DOWN);
        let told = bench.ask(by(ON_V2));
        told.is_gated_by("db");
        told.holds_permits("two");
    }
}

#[test]
fn bytes_that_are_not_utf_8_harm_nothing_anywhere() {
    let probes = r#""probes":{"liveness":{"path":"/livez"}}"#;
    let gates = r#""gates":[{"upstream":"db","match":[{"headers":{"x-user":{"prefix":"\u00e9"}},"uri":{"prefix":"/"}}]}]"#;
    let mut bench =
        Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}],{gates}"#))).set("db", DOWN);
    let odd = [&b"\xff"[..], b"\xc3", b"\xc3\xa9\xff", b"\0", b"", b"v1\xff", b"=;,=", &[b'a'; 60 * 1024]];
    for name in [":path", ":method", "x-user", "x-v", "x-tester", "cookie", ":authority"] {
        for value in odd {
            bench.ask(by(ON_V1).with(name, value));
        }
    }
    let told = bench.ask(by("").with("x-user", b"\xff\xfe\x00\x80"));
    told.is_assigned("reviews v1 by sticky");
}

#[test]
fn a_request_with_no_headers_at_all_is_let_pass() {
    let probes = r#""probes":{"liveness":{"path":"/livez"}}"#;
    let mut bench = Bench::new(policy(&format!(r#"{probes},"releases":[{REVIEWS}]"#)));
    bench.ask(Ask { headers: BTreeMap::new(), ..get("") }).is_forwarded("");
}
