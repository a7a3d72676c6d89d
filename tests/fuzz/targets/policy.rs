//! A policy document, and requests under it. The document is the first line of the input, and each request another.
//!
//! A document is refused in words, or accepted for good: it says the same once it is written out again. Then the real worker
//! answers or forwards each request, whatever its headers.

use graygate::decision::action::{Action, HeaderChange, HeaderEdit};
use graygate::decision::release::split::Split;
use graygate::decision::reply::Reply;
use graygate::decision::{self, Decision};
use graygate::policy::document::Node;
use graygate::policy::module::ModuleKind;
use graygate::policy::set::DocumentReading;
use graygate::policy::upstream::UpstreamId;
use graygate::policy::{OnWrongPolicy, Policy};
use graygate::readiness::{Admission, Permit, Readiness, UpstreamReason, UpstreamStatus};
use graygate::value::date::Date;
use graygate::value::lifecycle::Lifecycle;
use graygate::value::time::Time;

use super::message::{self, Header, Sent};
use super::worlds::sim::{Manner, World};

/// As Istio names a proxy.
const NODE: &[u8] = b"sidecar~10.1.2.3~app-1.shop~shop.svc.cluster.local";
/// The most requests of an input.
const MOST: usize = 8;

pub fn run(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let document = lines.next().unwrap_or_default();
    let reading = DocumentReading::for_node(document.to_vec(), NODE);
    if let Some(problems) = &reading.problems {
        assert!(problems.iter().count() > 0);
        for problem in problems.iter() {
            assert!(!problem.message.is_empty());
            assert_ne!(problem.message, "the policy could not be compiled");
            assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
        }
        return;
    }
    check_text(document);
    let requests: Vec<Vec<Header>> = lines.take(MOST).map(message::headers).collect();
    let policies: Vec<Policy> = reading.entries.into_iter().map(|entry| entry.policy.unwrap()).collect();
    for (request, policy) in
        requests.iter().flat_map(|request| policies.iter().map(move |policy| (request, policy)))
    {
        for known in [Known::All, Known::Nothing, Known::First] {
            check_decision(policy, request, known);
        }
    }
    for module in [ModuleKind::Full, ModuleKind::Requests] {
        if policies.iter().all(|policy| module.missing(policy).is_empty()) {
            serve(module, document, &policies, &requests);
        }
    }
}

/// Checks that the document is the same to the core once the core has written it.
fn check_text(document: &[u8]) {
    let read: Node = serde_json::from_slice(document).unwrap();
    for text in [read.to_json(), read.to_canonical_json(|_| true)] {
        let again: Node = serde_json::from_str(&text).unwrap();
        assert_eq!(again.to_canonical_json(|_| true), read.to_canonical_json(|_| true));
        assert_eq!(OnWrongPolicy::of(&again), OnWrongPolicy::of(&read));
        let problems = DocumentReading::for_node(text.into_bytes(), NODE).problems;
        assert!(problems.is_none(), "{problems:?}");
    }
}

/// Which of the upstreams are ready: all, none, or each fourth one. Of the others, some are on trial, and some on a ramp.
#[derive(Clone, Copy)]
pub enum Known {
    All,
    Nothing,
    First,
}

impl Readiness for Known {
    fn admission(&mut self, upstream: UpstreamId) -> Admission {
        self.status(upstream).admission
    }

    fn lend_permit(&mut self, _: UpstreamId) -> Option<Permit> {
        None
    }

    fn status(&self, upstream: UpstreamId) -> UpstreamStatus {
        let reason = UpstreamReason::TrialFailed;
        let (now, until) = (Time::default(), Time::from_millis(9));
        let admission = match (self, upstream.0 % 4) {
            (Known::All, _) | (Known::First, 0) => Admission::Ready,
            (Known::Nothing, _) | (_, 1) => Admission::NotReady(reason),
            (_, 2) => Admission::Trial(reason),
            _ => Admission::Ramp { from: now, until, reason },
        };
        let held_back_since = (admission != Admission::Ready).then(|| Time::from_millis(upstream.0 as u64));
        UpstreamStatus { admission, held_back_since, ..UpstreamStatus::unknown() }
    }

    fn lifecycle(&self) -> Lifecycle {
        Lifecycle { draining: matches!(self, Known::First), ..Lifecycle::default() }
    }

    fn now(&self) -> Time {
        Time::default()
    }

    fn date(&self) -> Date {
        Date::from_millis(1_800_000_000_000)
    }

    fn random(&mut self) -> u64 {
        3
    }
}

/// Checks that the decision does not depend on how the headers are read, and that nothing in it can break HTTP.
pub fn check_decision(policy: &Policy, request: &[Header], mut known: Known) {
    let date = known.date();
    let splits = || {
        policy
            .releases
            .iter()
            .map(|release| Split::new(release, date, Time::default(), &[], 7))
            .collect::<Vec<_>>()
    };
    let (by_name, at_once) = (Sent::by_name(request), Sent::at_once(request));
    let (mut one, mut other) = (splits(), splits());
    let decision = decision::decide(policy, &by_name, &mut known, &mut one);
    check_action(&decision);
    assert_eq!(decision, decision::decide(policy, &at_once, &mut known, &mut other));
}

fn check_action(decision: &Decision<'_>) {
    match &decision.action {
        Action::Forward(edits) => edits.request.iter().chain(&edits.response).for_each(check_edit),
        Action::GrpcCheck { edits, .. } => edits.iter().for_each(check_edit),
        Action::Reply(reply) => check_reply(reply),
        Action::Drain { reply, .. } => check_reply(reply),
        Action::Status | Action::PassThrough { .. } => {}
    }
}

fn check_edit(edit: &HeaderEdit<'_>) {
    match &edit.change {
        HeaderChange::Set(value) | HeaderChange::Add(value) => {
            message::check_value(&edit.header, value.as_bytes())
        }
        HeaderChange::SetBytes(value) => message::check_value(&edit.header, value),
        HeaderChange::Remove => {}
    }
}

fn check_reply(reply: &Reply) {
    assert!((200..600).contains(&reply.status), "{reply:?}");
    for (name, value) in &reply.headers {
        message::check_value(name, value.as_bytes());
    }
    message::check_value("details", reply.details.as_bytes());
}

/// Serves the requests with the real worker, in two VMs. Some upstreams fail, and time passes.
fn serve(module: ModuleKind, document: &[u8], policies: &[Policy], requests: &[Vec<Header>]) {
    let mut world = World::unconfigured(2);
    world.around.module.set(module);
    let upstreams = policies.iter().flat_map(|policy| &policy.upstreams);
    let manners = [Manner::Status(200), Manner::Status(503), Manner::Refuses, Manner::Grpc(1)];
    for (upstream, manner) in upstreams.zip(manners.iter().cycle()) {
        world.set(&upstream.cluster, manner.clone());
        world.route.clone_from(&upstream.cluster);
    }
    let document: serde_json::Value = serde_json::from_slice(document).unwrap();
    assert!(world.configure(&document), "{:?}", world.logged(""));
    let mut sent = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let id = world.send_bytes(number % 2, request.clone(), number % 3 != 0);
        if !world.is_paused(id) {
            let status = [200, 503, 429, 404][number % 4];
            if module.sees_responses() && world.is_open(id) {
                world.respond(id, status, "via_upstream", &[("retry-after", "1")], true);
            }
        }
        sent.push(id);
        world.pass(core::time::Duration::from_millis(300));
    }
    // The longest time that a probe waits for the app, and a tick.
    if sent.iter().any(|id| world.is_paused(*id)) {
        world.pass(core::time::Duration::from_secs(11));
    }
    for id in sent {
        assert!(!world.is_paused(id), "never answered");
        let answer = world.answer(id);
        for (name, value) in &answer.headers {
            message::check_value(name, value.as_bytes());
        }
    }
}
