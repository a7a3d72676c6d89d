//! A life of a proxy: anything that may happen to it, in any order, and what the workers write meanwhile.
//!
//! The property tests draw lives by proptest. [`Life`] plays one in a [`World`] and decodes each change of an upstream's
//! shared state, with the worker and the request that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graygate::readiness::UpstreamState;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::MS;
use super::sim::{Manner, Request, World};

/// Returns the configuration of a property test: so many cases, or `PROPTEST_CASES` where that is set.
pub fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.cases == UNSET { ProptestConfig { cases, ..config } } else { config }
}

/// How many cases proptest has by itself.
const UNSET: u32 = 256;

/// The most requests that a trial of [`document`] lets through at a time.
pub const TRIAL_REQUESTS: usize = 2;

/// For how long a permit of [`document`] is lent.
pub const LEASE_FOR: Duration = Duration::from_secs(5);

/// What a policy of [`document`] has.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// `app` has a check.
    pub check: bool,
    /// `app` and `db` have a breaker.
    pub breaker: bool,
    /// `app` and `db` each have a gate, in this order, and both hold for each request.
    pub guarded: bool,
    /// The breakers judge by all that they can judge by, and have a ramp.
    pub wholly: bool,
}

/// A policy named `shop` with two upstreams, `app` and `db`, of clusters by the same names.
pub fn document(parts: Parts) -> Value {
    let mut breaker = json!({
        "consecutiveFailures": 3, "notReadyFor": "1s", "maxNotReadyFor": "10s", "maxRetryAfter": "20s",
        "trial": {"requests": TRIAL_REQUESTS, "successes": 3, "leaseFor": "5s"},
    });
    if parts.wholly {
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
    let gates = if parts.guarded { json!([{"upstream": "app"}, {"upstream": "db"}]) } else { json!([]) };
    json!({"name": "shop", "upstreams": {"app": upstream("app", parts.check), "db": upstream("db", false)}, "gates": gates})
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// Time passes: so many milliseconds.
    Pass(u32),
    /// The clock is set ahead or back by so many milliseconds.
    Jump(i32),
    /// A worker ticks early.
    Tick(Index),
    /// A request comes to a worker, for a cluster. It has all come or not, and another filter holds it up or not.
    Send { vm: Index, to: &'static str, whole: bool, held: bool },
    /// Requests come one after the other, and an upstream answers each with this status.
    Burst { vm: Index, to: &'static str, status: u16, requests: u8 },
    /// Something happens to one of the open requests. What does not fit how far that has come has no effect.
    Go(Index, Step),
    /// Checks pass from now on, or fail.
    Checks(bool),
    /// The next so many writes to the store lose to another worker.
    Lose(u32),
    /// A VM dies.
    Die(Index),
    /// A VM that has died is made anew.
    Revive(Index),
    /// Another policy takes the place of the newest one.
    Replace(Index),
    /// The workers of the earlier policies of a VM are ended.
    EndEarlier(Index),
}

/// Something that happens to a request that has gone on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The other filter lets it go.
    Route,
    /// The rest of it comes.
    Rest,
    /// An upstream answers, and that is all.
    Status(u16),
    /// An upstream answers 503 and asks to be left alone for so many seconds.
    Asks(u16),
    /// An upstream begins to answer.
    Begin(u16),
    /// The response ends.
    End,
    /// The upstream breaks it off.
    Break,
    /// The route's timeout cuts it.
    Cut,
    /// The client leaves.
    Leave,
    /// There is no connection.
    Refuse,
    /// The route's timeout ends it without an answer.
    TimeOut,
    /// The proxy follows a redirect: the request ends, and another one goes the same way.
    Redirect,
    /// Another filter answers.
    Own,
}

/// What happens to requests.
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

/// Where requests go: mostly to `app`.
fn cluster() -> impl Strategy<Value = &'static str> {
    select(&["app", "app", "app", "app", "db", "other"][..])
}

/// What happens to requests and in time.
pub fn traffic() -> impl Strategy<Value = Act> {
    let burst = (any::<Index>(), cluster(), select(&[200, 200, 500][..]), 1..6u8);
    let send = (any::<Index>(), cluster(), prop::bool::weighted(0.9), prop::bool::weighted(0.05));
    prop_oneof![
        5 => (0..600u32).prop_map(Act::Pass),
        1 => (0..8_000u32).prop_map(Act::Pass),
        2 => any::<Index>().prop_map(Act::Tick),
        5 => burst.prop_map(|(vm, to, status, requests)| Act::Burst { vm, to, status, requests }),
        12 => send.prop_map(|(vm, to, whole, held)| Act::Send { vm, to, whole, held }),
        14 => (any::<Index>(), step()).prop_map(|(which, step)| Act::Go(which, step)),
        1 => any::<bool>().prop_map(Act::Checks),
    ]
}

/// What happens, and all that may go wrong. `lost` is how many writes in a row may lose.
pub fn anything(lost: u32) -> impl Strategy<Value = Act> {
    prop_oneof![
        30 => traffic(),
        2 => (0..=lost).prop_map(Act::Lose),
        1 => (-60_000..60_000i32).prop_map(Act::Jump),
        1 => any::<Index>().prop_map(Act::Die),
        2 => any::<Index>().prop_map(Act::Revive),
        1 => any::<Index>().prop_map(Act::Replace),
        1 => any::<Index>().prop_map(Act::EndEarlier),
    ]
}

/// As many lost writes in a row as an update gets over.
pub const BEARABLE: u32 = 15;

/// A request that has gone on.
struct Open {
    id: u32,
    vm: usize,
    root: usize,
    to: &'static str,
    whole: bool,
    routed: bool,
    begun: bool,
}

/// One change of an upstream's shared state.
pub struct Change {
    pub at: u64,
    /// The request in whose callback, or at the look at which, it was made.
    pub exchange: Option<u32>,
    pub upstream: String,
    pub before: UpstreamState,
    pub after: UpstreamState,
}

/// A world in which things happen.
pub struct Life {
    pub world: World,
    /// The policies that may take each other's place.
    documents: Vec<Value>,
    vms: usize,
    dead: Vec<bool>,
    /// How many policies each VM was given before its newest one.
    root: Vec<usize>,
    open: Vec<Open>,
    /// All requests that were sent, in order.
    pub sent: Vec<u32>,
    /// Requests whose worker died or was ended under them.
    forsaken: BTreeSet<u32>,
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
            forsaken: BTreeSet::new(),
            known: BTreeMap::new(),
        };
        assert_eq!(life.world.logged("refused"), Vec::<String>::new());
        // What was there before the first change.
        for key in life.world.keys() {
            if let Some(upstream) = upstream_of(&key) {
                life.known.insert(key.clone(), life.world.state(upstream));
            }
        }
        life
    }

    /// Lets something happen.
    pub fn act(&mut self, act: &Act) {
        match *act {
            Act::Pass(millis) => self.world.pass(millis * MS),
            Act::Jump(millis) => self.world.jump(millis.into()),
            Act::Tick(vm) => self.world.tick_now(vm.index(self.vms)),
            Act::Send { vm, to, whole, held } => self.send(vm.index(self.vms), to, whole, held),
            Act::Burst { vm, to, status, requests } => {
                for _ in 0..requests {
                    self.send(vm.index(self.vms), to, true, false);
                    self.go(self.open.len() - 1, Step::Status(status));
                }
            }
            Act::Go(which, step) => {
                if !self.open.is_empty() {
                    self.go(which.index(self.open.len()), step);
                }
            }
            Act::Checks(pass) => {
                self.world.set_checks("app", Manner::Status(if pass { 200 } else { 500 }));
            }
            Act::Lose(writes) => self.world.lose(writes),
            Act::Die(vm) => {
                let vm = vm.index(self.vms);
                self.world.kill(vm);
                self.dead[vm] = true;
                self.forsake(|open| open.vm == vm);
            }
            Act::Revive(vm) => self.revive(vm.index(self.vms)),
            Act::Replace(which) => {
                let document = self.documents[which.index(self.documents.len())].clone();
                self.world.configure(&document);
                self.dead.fill(false);
                self.root.iter_mut().for_each(|root| *root += 1);
            }
            Act::EndEarlier(vm) => {
                let vm = vm.index(self.vms);
                self.world.end_earlier(vm);
                let newest = self.root[vm];
                self.forsake(|open| open.vm == vm && open.root != newest);
            }
        }
        let world = &self.world;
        self.open.retain(|open| world.is_open(open.id));
    }

    /// Makes a VM anew, if it has died.
    fn revive(&mut self, vm: usize) {
        if std::mem::take(&mut self.dead[vm]) {
            self.world.configure_vm(vm);
            self.root[vm] += 1;
        }
    }

    /// Notes that the worker of these requests is no more.
    fn forsake(&mut self, of: impl Fn(&Open) -> bool) {
        self.forsaken.extend(self.open.iter().filter(|open| of(open)).map(|open| open.id));
    }

    /// Ends all requests, brings all VMs back, and has upstreams and checks answer well: nothing is under way any more.
    pub fn settle(&mut self) {
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
        self.open.push(Open { id, vm, root, to, whole, routed: !held, begun: false });
    }

    fn go(&mut self, which: usize, step: Step) {
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

    /// Returns whether the worker of a request has lived since it was sent.
    pub fn lived(&self, id: u32) -> bool {
        !self.forsaken.contains(&id)
    }

    /// Returns how the shared states of upstreams have changed since this was last called, in order.
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

/// The upstream whose state the key is of, if it is one.
fn upstream_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix("graygate/shop/upstream/")?;
    let (upstream, identity) = rest.split_once('/')?;
    (!identity.contains('/')).then_some(upstream)
}
