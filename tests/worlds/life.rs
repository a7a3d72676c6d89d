//! Random sequences of events in a world, and the shared states that workers write meanwhile.
//!
//! Proptest generates the events. [`Life`] applies them to a [`World`] and decodes each change of an upstream's shared
//! state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graygate::readiness::UpstreamState;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::MS;
use super::sim::{Manner, Request, World};

/// Returns the configuration of a property test with this number of cases. `PROPTEST_CASES` overrides it.
pub fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.cases == UNSET { ProptestConfig { cases, ..config } } else { config }
}

/// Proptest's own default.
const UNSET: u32 = 256;

/// How many requests at a time a trial of [`document`] lets through.
pub const TRIAL_REQUESTS: usize = 2;

/// The `leaseFor` of [`document`].
pub const LEASE_FOR: Duration = Duration::from_secs(5);

/// The optional parts of a policy of [`document`].
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// `app` has a check.
    pub check: bool,
    /// `app` and `db` have a breaker.
    pub breaker: bool,
    /// `app` and `db` each have a gate, in this order. Both apply to each request.
    pub gated: bool,
    /// The breakers have every criterion and a ramp.
    pub all_criteria: bool,
}

/// Returns a policy named `shop` with two upstreams, `app` and `db`. Their clusters have the same names. The gate on `app`
/// is for each request, and the one on `db` for requests to its cluster.
pub fn document(parts: Parts) -> Value {
    let mut breaker = json!({
        "consecutiveFailures": 3, "notReadyFor": "1s", "maxNotReadyFor": "10s", "maxRetryAfter": "20s",
        "trial": {"requests": TRIAL_REQUESTS, "successes": 3, "leaseFor": "5s"},
    });
    if parts.all_criteria {
        breaker["consecutiveLocalOriginFailures"] = json!(2);
        breaker["unansweredAfter"] = json!("2s");
        breaker["failurePercent"] = json!(50);
        breaker["slowPercent"] = json!(50);
        breaker["slowerThan"] = json!("1s");
        breaker["minimumRequests"] = json!(6);
        breaker["trial"]["rampOver"] = json!("4s");
    }
    let upstream = |cluster: &str, check: bool| {
        let mut upstream = json!({"cluster": cluster});
        if check {
            upstream["readinessProbe"] =
                json!({"httpGet": {}, "periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2});
        }
        if parts.breaker {
            upstream["circuitBreaker"] = breaker.clone();
        }
        upstream
    };
    let each = json!([{"uri": {"prefix": "/"}}]);
    let gates = json!([{"upstream": "app", "match": each}, {"upstream": "db"}]);
    let gates = if parts.gated { gates } else { json!([]) };
    json!({"name": "shop", "upstreams": {"app": upstream("app", parts.check), "db": upstream("db", false)}, "gates": gates})
}

/// An event in a world.
#[derive(Clone, Debug)]
pub enum Event {
    /// Lets this many milliseconds pass.
    Pass(u32),
    /// Sets the wall clock forward or back by this many milliseconds.
    Jump(i32),
    /// Ticks a worker early.
    Tick(Index),
    /// Sends a request to a worker, for a cluster. It may be incomplete, and another filter may hold it up.
    Send { vm: Index, to: &'static str, whole: bool, held: bool },
    /// Sends requests one after the other. An upstream responds to each with this status.
    Burst { vm: Index, to: &'static str, status: u16, requests: u8 },
    /// Takes one of the open requests a step further. A step that does not fit the request has no effect.
    Advance(Index, Step),
    /// Makes checks pass or fail from now on.
    Checks(bool),
    /// Makes the next writes to the store fail with a conflict.
    Lose(u32),
    /// Kills a VM.
    Die(Index),
    /// Restarts a VM that has died.
    Revive(Index),
    /// Replaces the newest policy by another one.
    Replace(Index),
    /// Ends the workers of the earlier policies of a VM.
    EndEarlier(Index),
}

/// A step of an open request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The other filter releases it.
    Route,
    /// The rest of it arrives.
    Rest,
    /// An upstream sends a whole response.
    Status(u16),
    /// An upstream responds 503 with this many seconds in `retry-after`.
    Asks(u16),
    /// An upstream begins a response.
    Begin(u16),
    /// The response ends.
    End,
    /// The upstream closes the connection in the middle of the response.
    Break,
    /// The route's timeout ends the response.
    Cut,
    /// The client leaves.
    Leave,
    /// The connection fails.
    Refuse,
    /// The route's timeout ends it before a response.
    TimeOut,
    /// The proxy follows a redirect: the request ends, and another one goes to the same cluster.
    Redirect,
    /// Another filter responds.
    Own,
}

/// Generates a step of a request.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Status(200)),
        5 => Just(Step::Status(500)),
        1 => (1..60u16).prop_map(Step::Asks),
        3 => Just(Step::Begin(200)),
        1 => Just(Step::Begin(500)),
        3 => Just(Step::End),
        1 => Just(Step::Break),
        1 => Just(Step::Cut),
        2 => Just(Step::Leave),
        2 => Just(Step::Refuse),
        1 => Just(Step::TimeOut),
        1 => Just(Step::Redirect),
        1 => Just(Step::Own),
        2 => Just(Step::Route),
        2 => Just(Step::Rest),
    ]
}

/// Generates a cluster, mostly `app`.
fn cluster() -> impl Strategy<Value = &'static str> {
    select(&["app", "app", "app", "app", "db", "other"][..])
}

/// Generates events of normal operation.
pub fn traffic() -> impl Strategy<Value = Event> {
    let burst = (any::<Index>(), cluster(), select(&[200, 200, 500][..]), 1..6u8);
    let send = (any::<Index>(), cluster(), prop::bool::weighted(0.9), prop::bool::weighted(0.05));
    prop_oneof![
        5 => (0..600u32).prop_map(Event::Pass),
        1 => (0..8_000u32).prop_map(Event::Pass),
        2 => any::<Index>().prop_map(Event::Tick),
        5 => burst.prop_map(|(vm, to, status, requests)| Event::Burst { vm, to, status, requests }),
        12 => send.prop_map(|(vm, to, whole, held)| Event::Send { vm, to, whole, held }),
        14 => (any::<Index>(), step()).prop_map(|(which, step)| Event::Advance(which, step)),
        1 => any::<bool>().prop_map(Event::Checks),
    ]
}

/// Generates events of normal operation and faults. Up to `lost` writes in a row conflict.
pub fn traffic_and_faults(lost: u32) -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => traffic(),
        2 => (0..=lost).prop_map(Event::Lose),
        1 => (-60_000..60_000i32).prop_map(Event::Jump),
        1 => any::<Index>().prop_map(Event::Die),
        2 => any::<Index>().prop_map(Event::Revive),
        1 => any::<Index>().prop_map(Event::Replace),
        1 => any::<Index>().prop_map(Event::EndEarlier),
    ]
}

/// How many conflicts in a row an update survives.
pub const MAX_CONFLICTS: u32 = 15;

/// A request that has been forwarded and has not ended.
struct OpenRequest {
    id: u32,
    vm: usize,
    root: usize,
    to: &'static str,
    whole: bool,
    routed: bool,
    begun: bool,
}

/// A change of an upstream's shared state.
pub struct Change {
    pub at: u64,
    /// The request of the callback that made the change.
    pub exchange: Option<u32>,
    pub upstream: String,
    pub before: UpstreamState,
    pub after: UpstreamState,
}

/// A world to which events are applied.
pub struct Life {
    pub world: World,
    /// The policies that replace each other.
    documents: Vec<Value>,
    vms: usize,
    dead: Vec<bool>,
    /// How many policies each VM had before its newest one.
    root: Vec<usize>,
    open: Vec<OpenRequest>,
    /// All requests that were sent, in order.
    pub sent: Vec<u32>,
    /// Requests whose worker died or was ended before they were.
    orphaned: BTreeSet<u32>,
    /// The last known state of each key.
    known: BTreeMap<String, UpstreamState>,
}

impl Life {
    pub fn new(documents: Vec<Value>, vms: usize) -> Self {
        let mut world = World::new(&documents[0], vms);
        world.set("other", Manner::Status(200));
        world.steer = "x-to";
        world.routes = ["app", "db", "other"].map(|name| (name.to_owned(), name.to_owned())).into();
        world.written();
        let mut life = Life {
            world,
            documents,
            vms,
            dead: vec![false; vms],
            root: vec![0; vms],
            open: Vec::new(),
            sent: Vec::new(),
            orphaned: BTreeSet::new(),
            known: BTreeMap::new(),
        };
        assert_eq!(life.world.logged("refused"), Vec::<String>::new());
        // Reads the states that exist before the first change.
        for key in life.world.keys() {
            if let Some(upstream) = upstream_of(&key) {
                life.known.insert(key.clone(), life.world.state(upstream));
            }
        }
        life
    }

    /// Applies an event.
    pub fn apply(&mut self, event: &Event) {
        match *event {
            Event::Pass(millis) => self.world.pass(millis * MS),
            Event::Jump(millis) => self.world.jump(millis.into()),
            Event::Tick(vm) => self.world.tick_now(vm.index(self.vms)),
            Event::Send { vm, to, whole, held } => self.send(vm.index(self.vms), to, whole, held),
            Event::Burst { vm, to, status, requests } => {
                for _ in 0..requests {
                    self.send(vm.index(self.vms), to, true, false);
                    self.advance(self.open.len() - 1, Step::Status(status));
                }
            }
            Event::Advance(which, step) => {
                if !self.open.is_empty() {
                    self.advance(which.index(self.open.len()), step);
                }
            }
            Event::Checks(pass) => {
                self.world.set_checks("app", Manner::Status(if pass { 200 } else { 500 }));
            }
            Event::Lose(writes) => self.world.lose(writes),
            Event::Die(vm) => {
                let vm = vm.index(self.vms);
                self.world.kill(vm);
                self.dead[vm] = true;
                self.orphan(|open| open.vm == vm);
            }
            Event::Revive(vm) => self.revive(vm.index(self.vms)),
            Event::Replace(which) => {
                let document = self.documents[which.index(self.documents.len())].clone();
                self.world.configure(&document);
                self.dead.fill(false);
                self.root.iter_mut().for_each(|root| *root += 1);
            }
            Event::EndEarlier(vm) => {
                let vm = vm.index(self.vms);
                self.world.end_earlier(vm);
                let newest = self.root[vm];
                self.orphan(|open| open.vm == vm && open.root != newest);
            }
        }
        let world = &self.world;
        self.open.retain(|open| world.is_open(open.id));
    }

    /// Restarts a VM if it has died.
    fn revive(&mut self, vm: usize) {
        if std::mem::take(&mut self.dead[vm]) {
            self.world.configure_vm(vm);
            self.root[vm] += 1;
        }
    }

    /// Records that the worker of these requests is gone.
    fn orphan(&mut self, of: impl Fn(&OpenRequest) -> bool) {
        self.orphaned.extend(self.open.iter().filter(|open| of(open)).map(|open| open.id));
    }

    /// Ends all requests and faults: VMs are restarted, checks pass and writes succeed.
    pub fn end_all(&mut self) {
        for vm in 0..self.vms {
            self.revive(vm);
        }
        for open in std::mem::take(&mut self.open) {
            self.world.leave(open.id);
        }
        self.world.lose(0);
        self.world.set_checks("app", Manner::Status(200));
    }

    fn send(&mut self, vm: usize, to: &'static str, whole: bool, held: bool) {
        let request = Request::get("/").with("x-to", to);
        self.world.held_up = held;
        let id = self.world.send(vm, &if whole { request } else { request.unfinished() });
        self.world.held_up = false;
        self.sent.push(id);
        let root = self.root[vm];
        self.open.push(OpenRequest { id, vm, root, to, whole, routed: !held, begun: false });
    }

    fn advance(&mut self, which: usize, step: Step) {
        let open = &mut self.open[which];
        let (id, vm, to) = (open.id, open.vm, open.to);
        let (waits, begun) = (open.routed && !open.begun, open.begun);
        let world = &mut self.world;
        if !world.is_open(id) {
            return;
        }
        match step {
            Step::Route if !open.routed => {
                open.routed = true;
                world.route(id);
            }
            Step::Rest if !open.whole => {
                open.whole = true;
                world.finish_request(id);
            }
            Step::Status(status) if waits => world.respond(id, status, "via_upstream", &[], true),
            Step::Asks(seconds) if waits => {
                let seconds = seconds.to_string();
                world.respond(id, 503, "via_upstream", &[("retry-after", &seconds)], true);
            }
            Step::Begin(status) if waits => {
                open.begun = true;
                world.respond(id, status, "via_upstream", &[], false);
            }
            Step::Refuse if waits => world.respond_as(id, &Manner::Refuses),
            Step::TimeOut if waits => world.respond_as(id, &Manner::Hangs),
            Step::Redirect if waits => {
                world.end(id, "internal_redirect");
                if !self.dead[vm] {
                    self.send(vm, to, true, false);
                }
            }
            Step::Own if !begun => world.respond(id, 403, "rbac_access_denied", &[], true),
            Step::End if begun => world.body(id, "all", true),
            Step::Break if begun => {
                world.end(id, "upstream_reset_after_response_started{connection_termination}");
            }
            Step::Cut if begun => world.end(id, "response_timeout"),
            Step::Leave => world.leave(id),
            _ => {}
        }
    }

    /// Returns whether the worker of a request has been alive since the request was sent.
    pub fn has_its_worker(&self, id: u32) -> bool {
        !self.orphaned.contains(&id)
    }

    /// Returns how the shared states of upstreams have changed since the last call, in order.
    pub fn changes(&mut self) -> Vec<Change> {
        let written = self.world.written();
        let changes = written.into_iter().filter_map(|written| {
            let upstream = upstream_of(&written.key)?.to_owned();
            let after: UpstreamState = postcard::from_bytes(&written.bytes).unwrap();
            let before = self.known.insert(written.key, after.clone())?;
            Some(Change { at: written.at, exchange: written.exchange, upstream, before, after })
        });
        changes.collect()
    }
}

/// Returns the upstream whose shared state has this key.
fn upstream_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("graygate/shop/upstream/")?;
    let (upstream, identity) = rest.split_once('/')?;
    (!identity.contains('/')).then_some(upstream)
}
