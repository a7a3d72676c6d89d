//! What workers share about releases: each response, rollback and step of a schedule counts once for the proxy.
//!
//! Requests, ticks, lost updates, deaths of VMs, jumps of the wall clock and updates of the policy come in any order. The
//! updates leave the release as it is, unless a test says otherwise.

use std::ops::{AddAssign, SubAssign};

use graygate::worker::store::LAYOUT;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::life::{MAX_CONFLICTS, cases};
use super::releases::{BEGIN, at, held, share, shop, version, world_of};
use super::sim::{Manner, Request, World};
use super::{MS, SECOND};

/// How often workers tick, in milliseconds.
const TICK: u64 = 250;

/// How many users a look at a worker asks for.
const USERS: usize = 12;

#[derive(Clone, Debug)]
enum Act {
    Pass(u32),
    /// Sets the wall clock ahead or back by so many milliseconds.
    Jump(i32),
    Tick(Index),
    /// Sends so many requests, one after the other.
    Send(Index, u8),
    /// Something happens to one of the open requests.
    Go(Index, Step),
    Lose(u32),
    Die(Index),
    Revive(Index),
    /// Replaces the policy by one with the same release.
    Replace,
    /// Asks a worker which versions users have.
    Look(Index),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Status(u16),
    Begin(u16),
    End,
    Break,
    Cut,
    Leave,
    Refuse,
    Redirect,
    /// Another filter answers.
    Own,
}

fn step() -> impl Strategy<Value = Step> {
    let steps = [
        Step::Status(200),
        Step::Status(200),
        Step::Status(500),
        Step::Status(500),
        Step::Begin(200),
        Step::Begin(200),
        Step::Begin(500),
        Step::End,
        Step::End,
        Step::Break,
        Step::Cut,
        Step::Leave,
        Step::Refuse,
        Step::Redirect,
        Step::Own,
    ];
    select(steps.to_vec())
}

/// VMs that die, updates of the policy, and updates of the store that are lost. At most `lost` updates in a row are lost.
fn trouble(lost: u32) -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..=lost).prop_map(Act::Lose),
        1 => any::<Index>().prop_map(Act::Die),
        2 => any::<Index>().prop_map(Act::Revive),
        1 => Just(Act::Replace),
    ]
}

/// How many responses are evidence, and how many of them failed or were slow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    responses: u64,
    failures: u64,
    slow: u64,
}

impl Counts {
    /// One response. It is slow if it took longer than the policy of [`patient`] allows.
    fn one(failed: bool, took: u64) -> Self {
        Counts { responses: 1, failures: u64::from(failed), slow: u64::from(took > 1_000) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.responses += more.responses;
        self.failures += more.failures;
        self.slow += more.slow;
    }
}

impl SubAssign for Counts {
    /// Panics if there are not as many: a response has counted twice.
    fn sub_assign(&mut self, less: Self) {
        let sub = |have: u64, less: u64| have.checked_sub(less).expect("no more than was seen is shared");
        self.responses = sub(self.responses, less.responses);
        self.failures = sub(self.failures, less.failures);
        self.slow = sub(self.slow, less.slow);
    }
}

/// The counts of each version.
type Versions = [Counts; 3];

fn add(to: &mut Versions, more: &Versions) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += *more);
}

fn subtract(from: &mut Versions, less: &Versions) {
    from.iter_mut().zip(less).for_each(|(from, less)| *from -= *less);
}

/// The counts that all workers share, as they are stored. The release has a `rollback` by failures and latency.
fn counts(bytes: &[u8]) -> Versions {
    let store: graygate::rollback::RollbackStore = postcard::from_bytes(bytes).unwrap();
    let store = serde_json::to_value(store).unwrap();
    let states = store["states"].as_array().unwrap();
    assert!(states.len() <= 1, "the release has one state: {states:?}");
    let Some(state) = states.first() else {
        return Versions::default();
    };
    let versions = state[1]["versions"].as_array().unwrap();
    let read = |version: usize, path: &str| {
        let [failures, latency] =
            [0, 1].map(|cause| versions[version]["causes"][cause].pointer(path).unwrap());
        let number = |count: &Value, field: &str| count[field].as_u64().unwrap();
        let is_rolled_back = !versions[version]["rolled_back_at"].is_null();
        assert!(is_rolled_back || number(failures, "all") == number(latency, "all"));
        let (failures, slow) = (failures, number(latency, "bad"));
        Counts { responses: number(failures, "all"), failures: number(failures, "bad"), slow }
    };
    let mut counts = Versions::default();
    for version in 1..versions.len() {
        counts[version] = read(version, "/long/version/count");
        // Each version is compared with the same responses of the default version.
        counts[0] = read(version, "/past/count");
        assert_eq!(counts[0], read(1, "/past/count"));
    }
    counts
}

/// A proxy whose VMs die and whose policy is replaced.
struct Site {
    world: World,
    document: Value,
    policies: u32,
    dead: Vec<bool>,
    /// The counts in the store, as they were last read.
    stored: Versions,
}

impl Site {
    fn new(document: Value, vms: usize) -> Self {
        let mut world = world_of(&document, vms);
        world.written();
        Site { world, document, policies: 0, dead: vec![false; vms], stored: Versions::default() }
    }

    fn vms(&self) -> usize {
        self.dead.len()
    }

    /// Returns the VM, if it lives.
    fn living(&self, vm: Index) -> Option<usize> {
        Some(vm.index(self.vms())).filter(|vm| !self.dead[*vm])
    }

    fn die(&mut self, vm: usize) {
        self.world.kill(vm);
        self.dead[vm] = true;
    }

    fn revive(&mut self, vm: usize) {
        if std::mem::take(&mut self.dead[vm]) {
            self.world.configure_vm(vm);
        }
    }

    fn replace(&mut self) {
        self.policies += 1;
        self.document["probes"] = json!({"liveness": {"path": format!("/livez{}", self.policies)}});
        self.world.configure(&self.document);
        self.dead.fill(false);
    }

    /// Does what is not about a single request.
    fn act(&mut self, act: &Act) {
        match act {
            Act::Pass(millis) => self.world.pass(*millis * MS),
            Act::Jump(millis) => self.world.jump((*millis).into()),
            Act::Tick(vm) => self.world.tick_now(vm.index(self.vms())),
            Act::Lose(writes) => self.world.lose(*writes),
            Act::Die(vm) => self.die(vm.index(self.vms())),
            Act::Revive(vm) => self.revive(vm.index(self.vms())),
            Act::Replace => self.replace(),
            Act::Send(..) | Act::Go(..) | Act::Look(_) => {}
        }
    }

    /// Brings all VMs back and loses no more updates.
    fn recover(&mut self) {
        self.world.lose(0);
        for vm in 0..self.vms() {
            self.revive(vm);
        }
    }

    /// Returns what was added to the shared counts since this was last called: when, and how much.
    fn shared(&mut self) -> Vec<(u64, Versions)> {
        let key = format!("graygate/shop/releases/{LAYOUT}");
        let mut shared = Vec::new();
        for written in self.world.written().into_iter().filter(|written| written.key == key) {
            let mut more = counts(&written.bytes);
            let stored = std::mem::replace(&mut self.stored, more);
            subtract(&mut more, &stored);
            shared.push((written.at, more));
        }
        shared
    }
}

/// A policy that counts responses of three versions, and never has enough to judge by.
fn patient() -> Value {
    let mut document = shop(&[50, 30, 20]);
    document["releases"][0]["rollback"] = json!({
        "failurePercent": 99, "latency": {"percentile": 1, "above": "1s"}, "minimumRequests": 1_000_000, "window": "1h",
    });
    document
}

/// An open request.
struct Open {
    id: u32,
    vm: usize,
    version: usize,
    sent: u64,
    /// When its response began.
    began: Option<u64>,
    /// Whether the beginning was a failure.
    failed: bool,
}

/// Until how long after its beginning a response may break off and count, in milliseconds. A worker measures both to
/// within a tick.
const BREAK_OFF: u64 = 10_000;

/// Has something happen to a request, and returns what it counts as.
fn go(world: &mut World, request: &mut Open, step: Step) -> Option<Counts> {
    let (id, waited) = (request.id, world.now() - request.sent);
    match (step, request.began) {
        (Step::Status(status), None) => {
            world.respond(id, status, "via_upstream", &[], true);
            Some(Counts::one(status == 500, waited))
        }
        (Step::Begin(status), None) => {
            world.respond(id, status, "via_upstream", &[], false);
            (request.began, request.failed) = (Some(world.now()), status == 500);
            Some(Counts::one(request.failed, waited))
        }
        (Step::Refuse, None) => {
            world.respond_as(id, &Manner::Refuses);
            Some(Counts::one(true, waited))
        }
        (Step::Leave, None) => {
            world.leave(id);
            (waited > 1_000).then(|| Counts::one(false, waited))
        }
        (Step::Redirect, None) => {
            world.end(id, "internal_redirect");
            None
        }
        (Step::Own, None) => {
            world.respond(id, 403, "rbac_access_denied", &[], true);
            None
        }
        // A response counts when it begins.
        (Step::End | Step::Leave, Some(_)) => {
            if matches!(step, Step::End) {
                world.body(id, "all", true)
            } else {
                world.leave(id)
            }
            None
        }
        (Step::Break, Some(began)) if (world.now() - began).abs_diff(BREAK_OFF) > TICK => {
            let is_soon = world.now() - began < BREAK_OFF;
            world.end(id, "upstream_reset_after_response_started{connection_termination}");
            // It becomes a failure, but it is no second response.
            (is_soon && !request.failed).then(|| Counts { failures: 1, ..Counts::default() })
        }
        (Step::Cut, Some(_)) => {
            world.end(id, "response_timeout");
            None
        }
        _ => None,
    }
}

fn requests() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..600u32).prop_map(Act::Pass),
        2 => any::<Index>().prop_map(Act::Tick),
        8 => (any::<Index>(), 1..4u8).prop_map(|(vm, requests)| Act::Send(vm, requests)),
        16 => (any::<Index>(), step()).prop_map(|(which, step)| Act::Go(which, step)),
        3 => trouble(80),
    ]
}

/// A policy by which v2 is rolled back after 50 responses, as all of them fail.
fn strict() -> Value {
    let mut document = shop(&[50, 50]);
    document["releases"][0]["rollback"] =
        json!({"failurePercent": 5, "latency": {"percentile": 90, "above": "1s"}});
    document
}

fn failing() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..600u32).prop_map(Act::Pass),
        1 => (-100_000..100_000i32).prop_map(Act::Jump),
        2 => any::<Index>().prop_map(Act::Tick),
        12 => (any::<Index>(), 1..12u8).prop_map(|(vm, requests)| Act::Send(vm, requests)),
        3 => trouble(80),
    ]
}

/// Returns whether v2 has nothing left at a worker, neither of users nor of turns.
fn is_out(world: &mut World, vm: usize) -> bool {
    let turns = |world: &mut World| (0..4).all(|_| version(world, vm, &Request::get("/")) == "v1");
    held(world, vm, USERS).iter().all(|version| version == "v1") && turns(world)
}

const HOUR: i64 = 3_600;
const STEPS: i64 = 9;

/// A policy with a step at each full hour, by which v2 has a tenth more.
fn hourly() -> Value {
    let mut document = shop(&[100, 0]);
    let step =
        |hour: i64| json!({"at": at(hour * HOUR), "weights": {"v1": 100 - 10 * hour, "v2": 10 * hour}});
    document["releases"][0]["schedule"] = (1..=STEPS).map(step).collect();
    document
}

/// How many steps of [`hourly`] have begun by then.
fn begun(millis: u64) -> u64 {
    let passed = i64::try_from(millis).unwrap() - BEGIN * 1_000;
    u64::try_from((passed / (HOUR * 1_000)).clamp(0, STEPS)).unwrap()
}

/// The lines of the log about the first so many steps.
fn steps(count: u64) -> Vec<String> {
    (1..=count).map(|step| format!("policy shop: release web: step {step} of its schedule")).collect()
}

/// Returns whether any user has gone back to v1.
fn is_undone(before: &[String], now: &[String]) -> bool {
    before.iter().zip(now).any(|(had, has)| had == "v2" && has == "v1")
}

/// At most `lost` updates in a row are lost.
fn clockwork(lost: u32) -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..600u32).prop_map(Act::Pass),
        4 => (-9_000_000..9_000_000i32).prop_map(Act::Jump),
        2 => any::<Index>().prop_map(Act::Tick),
        3 => any::<Index>().prop_map(Act::Look),
        3 => trouble(lost),
    ]
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn each_response_of_a_version_is_shared_exactly_once_unless_its_vm_dies_first(
        vms in 1..5usize,
        acts in vec(requests(), 1..200),
    ) {
        let mut site = Site::new(patient(), vms);
        let (mut open, mut seen) = (Vec::<Open>::new(), Versions::default());
        let mut unshared = vec![Versions::default(); vms];
        for act in acts {
            match &act {
                Act::Send(vm, requests) => {
                    let living = site.living(*vm).into_iter().flat_map(|vm| (0..*requests).map(move |_| vm));
                    for vm in living {
                        let id = site.world.send(vm, &Request::get("/"));
                        let cluster = site.world.answer(id).cluster;
                        let version = ["app-v1", "app-v2", "app-v3"].iter().position(|known| *known == cluster);
                        let (version, sent) = (version.unwrap(), site.world.now());
                        open.push(Open { id, vm, version, sent, began: None, failed: false });
                    }
                }
                Act::Go(which, step) if !open.is_empty() => {
                    let index = which.index(open.len());
                    let request = &mut open[index];
                    if let Some(one) = go(&mut site.world, request, *step) {
                        seen[request.version] += one;
                        unshared[request.vm][request.version] += one;
                    }
                }
                act => site.act(act),
            }
            for (at, more) in site.shared() {
                // In time that passes, VMs tick one after the other, 7 ms apart.
                let vm = if let Act::Tick(vm) = &act { vm.index(vms) } else { usize::try_from(at % TICK / 7).unwrap() };
                subtract(&mut unshared[vm], &more);
            }
            if let Act::Die(vm) = &act {
                unshared[vm.index(vms)] = Versions::default();
            }
            open.retain(|request| site.world.is_open(request.id));
        }
        site.recover();
        let mut left = Versions::default();
        unshared.iter().for_each(|unshared| add(&mut left, unshared));
        let mut expected = site.stored;
        add(&mut expected, &left);
        site.world.pass(SECOND);
        site.shared();
        prop_assert_eq!(site.stored, expected);
        // Those that a dead VM had not shared are in the counters, too.
        for (index, seen) in seen.iter().enumerate() {
            let version = format!("version=v{}", index + 1);
            let counted = |result: &str| site.world.metric("responses_total", &[&version, &format!("result={result}")]);
            prop_assert_eq!(counted("success") + counted("slow") + counted("failure"), seen.responses);
            prop_assert_eq!(counted("failure") + counted("broken-off"), seen.failures);
            prop_assert!(counted("broken-off") <= counted("success") + counted("slow"));
        }
    }

    #[test]
    fn a_rollback_is_recorded_once_and_stands_on_all_workers_within_two_ticks(
        vms in 1..6usize,
        offsets in vec(0..TICK, 6),
        acts in vec(failing(), 20..70),
        lost in 0..=MAX_CONFLICTS,
    ) {
        let mut site = Site::new(strict(), vms);
        site.world.set("app-v2", Manner::Status(500));
        offsets.iter().take(vms).enumerate().for_each(|(vm, offset)| site.world.set_offset(vm, *offset));
        let mut is_known = false;
        for act in acts {
            if let Act::Send(vm, requests) = &act && let Some(vm) = site.living(*vm) {
                for _ in 0..*requests {
                    let id = site.world.send(vm, &Request::get("/"));
                    let fails = site.world.answer(id).cluster == "app-v2";
                    site.world.respond_as(id, &Manner::Status(if fails { 500 } else { 200 }));
                    prop_assert!(!(fails && is_known), "v2 got a request after its rollback");
                }
            }
            site.act(&act);
            site.shared();
            let count = site.world.metric("rollbacks_total", &["version=v2", "reason=failures"]);
            prop_assert_eq!(site.world.logged("v2 rolled back").len() as u64, count);
            prop_assert_eq!(count, u64::from(site.stored[1].responses >= 50));
            if count == 1 && !is_known {
                is_known = true;
                site.world.lose(lost);
                site.world.pass(2 * TICK as u32 * MS);
                for vm in (0..vms).filter(|vm| !site.dead[*vm]).collect::<Vec<_>>() {
                    prop_assert!(is_out(&mut site.world, vm), "VM {}", vm);
                }
            }
        }
        site.recover();
        for _ in 0..2 {
            for vm in 0..vms {
                prop_assert!(!is_known || is_out(&mut site.world, vm), "VM {}", vm);
            }
            site.world.pass(SECOND);
        }
        let recorded = site.world.logged("rolled back").len();
        prop_assert_eq!(site.world.metric("rollbacks_total", &[]), recorded as u64);
        prop_assert!(recorded <= 1 && recorded >= usize::from(is_known));
    }

    #[test]
    fn a_step_is_recorded_once_and_no_clock_that_is_set_back_undoes_it(
        vms in 1..6usize,
        offsets in vec(0..TICK, 6),
        acts in vec(clockwork(MAX_CONFLICTS), 1..50),
    ) {
        let mut site = Site::new(hourly(), vms);
        offsets.iter().take(vms).enumerate().for_each(|(vm, offset)| site.world.set_offset(vm, *offset));
        // What is past when the policy comes into use is not reported.
        site.world.pass(SECOND);
        let mut before = vec![vec![]; vms];
        // The latest time that a worker has surely seen, and the latest that one may have seen.
        let (mut surely, mut maybe) = (site.world.date(), site.world.date());
        for act in acts {
            site.act(&act);
            if let Act::Jump(_) = act && site.dead.contains(&false) {
                maybe = maybe.max(site.world.date());
                surely = surely.max(site.world.date());
                site.world.pass(TICK as u32 * MS);
            }
            maybe = maybe.max(site.world.date());
            // A worker that has just been made knows as much as any.
            let (vm, made) = match act {
                Act::Look(vm) => (site.living(vm), false),
                Act::Revive(vm) => (site.living(vm), true),
                Act::Replace => (Some(0), true),
                _ => (None, false),
            };
            if let Some(vm) = vm {
                let now = held(&mut site.world, vm, USERS);
                for known in if made { 0..vms } else { vm..vm + 1 } {
                    prop_assert!(!is_undone(&before[known], &now), "VM {}: {:?}, then {:?}", vm, before[known], now);
                }
                before[vm] = now;
            }
            let count = site.world.metric("schedule_steps_total", &["release=web"]);
            prop_assert_eq!(site.world.logged("of its schedule"), steps(count));
            prop_assert!(count <= begun(maybe), "{} steps by {}", count, maybe);
        }
        site.recover();
        site.world.pass(2 * TICK as u32 * MS);
        (surely, maybe) = (surely.max(site.world.date() - TICK), maybe.max(site.world.date()));
        let count = site.world.metric("schedule_steps_total", &["release=web"]);
        prop_assert!((begun(surely)..=begun(maybe)).contains(&count), "{} steps by {}", count, maybe);
        prop_assert_eq!(site.world.logged("of its schedule").len() as u64, count);
        let all: Vec<_> = (0..vms).map(|vm| held(&mut site.world, vm, USERS)).collect();
        for (before, now) in before.iter().zip(&all) {
            prop_assert_eq!(now, &all[0]);
prop_assert!(!is_undone(before, now));
        }
    }

    /// An update that loses more than [`MAX_CONFLICTS`] times in a row is given up.
    #[test]
    fn no_step_is_recorded_twice_though_updates_are_given_up(
        vms in 1..6usize,
        acts in vec(clockwork(80), 1..50),
    ) {
        let mut site = Site::new(hourly(), vms);
        site.world.pass(SECOND);
        for act in acts {
            site.act(&act);
            if let Act::Jump(_) = act {
                site.world.pass(TICK as u32 * MS);
            }
            let count = site.world.metric("schedule_steps_total", &["release=web"]);
            prop_assert_eq!(site.world.logged("of its schedule"), steps(count));
        }
    }
}

/// The store names the time at which its policy was configured, and a policy of an earlier time does not adopt it.
#[test]
fn a_changed_schedule_is_recorded_though_the_clock_was_set_back_before() {
    let mut site = Site::new(hourly(), 2);
    site.world.pass(SECOND);
    site.world.jump(-HOUR * 500);
    site.world.pass(SECOND);
    site.document["releases"][0]["schedule"][0]["weights"] = json!({"v1": 85, "v2": 15});
    site.replace();
    for vm in 0..2 {
        site.world.end_earlier(vm);
    }
    site.world.pass(SECOND);
    site.world.jump(HOUR * 2_000);
    site.world.pass(SECOND);
    assert_eq!(site.world.metric("schedule_steps_total", &["release=web"]), 1);
    assert_eq!(share(&site.world, "v2"), 1_500);
}

/// The response comes before its root ends, or after it, as requests outlive their root.
#[test]
fn what_a_worker_saw_since_its_last_tick_is_shared_though_its_root_ends() {
    for ends_first in [false, true] {
        let mut site = Site::new(patient(), 1);
        site.world.pass(SECOND);
        let id = site.world.send(0, &Request::get("/"));
        site.replace();
        if ends_first {
            site.world.end_root(0, 0);
        }
        site.world.respond_as(id, &Manner::Status(500));
        if !ends_first {
            site.world.end_root(0, 0);
        }
        site.world.pass(SECOND);
        site.shared();
        let shared: u64 = site.stored.iter().map(|counts| counts.responses).sum();
        assert_eq!(shared, site.world.metric("responses_total", &[]), "the root ends first: {ends_first}");
    }
}
