//! What one VM holds for one policy: its snapshot of the upstreams, and what it saw since it last shared it.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::time::{Duration, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use twox_hash::XxHash64;

use super::abi;
use super::metric::Counters;
use super::store;
use crate::engine::{self, Decision};
use crate::lease::{Holder, Lease};
use crate::lifecycle::Lifecycle;
use crate::policy::Policy;
use crate::policy::probe::{Kind, PassThrough, Probe};
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::probe;
use crate::readiness::check::{self, CheckFailure};
use crate::readiness::streak::Streak;
use crate::readiness::{Knowledge, Outcome, Permit, Phase, Readiness, Reason, Standing, State, Transition};
use crate::release::Rotation;
use crate::replay::{Answer, Kept, Recall};
use crate::request::Request;
use crate::response::Verdict;
use crate::time::Time;

/// Changes with the shape of what is stored, so that another release of this module starts afresh.
const LAYOUT: u32 = 2;

/// One VM's part in one policy.
pub struct Worker {
    /// The policy.
    pub policy: Policy,
    /// Its counters.
    pub counters: Counters,
    /// This policy in this VM, among all of the proxy.
    holder: Holder,
    board: RefCell<Board>,
    /// Goes up each time that this VM learns of a change of phase.
    epoch: Cell<u64>,
    /// As this VM last saw it.
    lifecycle: Cell<Lifecycle>,
    /// The name of this proxy's own cluster, as its peers' health checks expect it.
    pub service: String,
    rotations: RefCell<Vec<Rotation>>,
}

/// This VM's view of the upstreams.
struct Board {
    slots: Vec<Slot>,
    /// For ids of permits and fetches: unique together with the VM's own.
    ids: u64,
}

/// One upstream, as this VM sees it.
struct Slot {
    key: String,
    snapshot: State,
    /// Responses seen since the snapshot was taken.
    streak: Streak,
    /// The epoch in which this VM learnt of the phase.
    epoch: u64,
    /// Whether a request has needed it since the snapshot was taken.
    needed: bool,
}

impl Worker {
    /// Starts with what the other VMs know already.
    pub fn new(policy: Policy) -> Self {
        let now = now();
        let slots = policy.upstreams.iter().map(|upstream| {
            let key = key(&policy, upstream);
            let first = State::new(upstream, now, abi::random());
            // An assumption of an earlier policy holds no longer than that policy.
            store::update(&key, |known: Option<State>| match known {
                Some(known) if known.reason != Reason::Assumed || known.phase == first.phase => ((), None),
                _ => ((), Some(first.clone())),
            });
            store::seed(&leader_key(&key), &Lease::none());
            let snapshot = store::get(&key).unwrap_or(first);
            Slot { key, snapshot, streak: Streak::default(), epoch: 0, needed: false }
        });
        let board = Board { slots: slots.collect(), ids: 0 };
        let rotations = policy.releases.iter().map(|release| Rotation::new(release, abi::random()));
        let rotations = RefCell::new(rotations.collect());
        let counters = Counters::default();
        counters.define(&policy);
        let holder = Holder { id: abi::random(), configured: now };
        let lifecycle = Cell::default();
        let service = hostcalls::get_property(vec!["xds", "node", "cluster"]).ok().flatten();
        let service = String::from_utf8_lossy(&service.unwrap_or_default()).into_owned();
        let (board, epoch) = (RefCell::new(board), Cell::new(0));
        let worker = Worker { board, epoch, lifecycle, service, rotations, counters, holder, policy };
        let drains = worker.policy.probes.drain.is_some();
        let draining =
            || store::get::<Lifecycle>(&worker.lifecycle_key()).is_some_and(|known| known.draining);
        if !drains && draining() {
            // An update that takes the switch away ends the drain: nothing else could.
            worker.drain(false);
        }
        worker.refresh_lifecycle();
        worker
    }

    /// What is to happen to a request. Nothing, should the VM's state be in use: that can't be, as the
    /// proxy runs one callback of a VM at a time, and a panic is no way to find out.
    ///
    /// `asked` says whether all of the request is there.
    pub fn decide(&self, request: &impl Request, asked: bool) -> Option<Decision<'_>> {
        let mut rotations = self.rotations.try_borrow_mut().ok()?;
        let mut snapshot = Snapshot { worker: self, asked };
        Some(engine::decide(&self.policy, request, &mut snapshot, &mut rotations))
    }

    /// The current epoch, for [`Worker::observe`].
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The upstream's state, as this VM last saw it.
    pub fn snapshot(&self, id: UpstreamId) -> Option<State> {
        self.slot(id, |slot| slot.snapshot.clone())
    }

    /// Takes a look at the shared state of an upstream, and adds what this VM saw. If it leads the upstream,
    /// what time did, too.
    pub fn refresh(&self, id: UpstreamId, now: Time, leads: bool) {
        let seen = self.slot(id, |slot| {
            let needed = core::mem::take(&mut slot.needed);
            (slot.snapshot.generation, core::mem::take(&mut slot.streak), needed)
        });
        let Some((generation, streak, needed)) = seen else {
            return;
        };
        let random = abi::random();
        let shared = self.update(id, |upstream, state| {
            if let Some(check) = upstream.check.as_ref().filter(|_| needed) {
                state.checks.need(check, now);
            }
            let observed = state.observed(upstream, now, generation, streak, random);
            observed.or_else(|| leads.then(|| state.elapsed(upstream, now, random))?)
        });
        if !shared {
            self.slot(id, |slot| slot.streak = streak);
        }
    }

    /// Takes the verdict on one response of the upstream, to a request of `epoch`. While it is Ready, a
    /// failure that may be the last one it takes is shared at once; anything else can wait for the tick.
    pub fn observe(&self, id: UpstreamId, verdict: Verdict, epoch: u64) {
        let Some(upstream) = self.policy.upstream(id) else {
            return;
        };
        let share = self.slot(id, |slot| {
            slot.needed = true;
            let on_trial = matches!(slot.snapshot.phase, Phase::Trial { .. });
            match verdict {
                // The request was sent before this VM knew of the phase: its response is about the past.
                _ if epoch < slot.epoch => return None,
                Verdict::Ignored => return None,
                _ if on_trial => return Some((slot.snapshot.generation, None)),
                _ if slot.snapshot.phase != Phase::Ready => return None,
                Verdict::Success => slot.streak.succeeded(),
                Verdict::Failure => slot.streak.failed(),
            }
            let trips = verdict == Verdict::Failure && slot.snapshot.would_trip(upstream, slot.streak);
            trips.then(|| (slot.snapshot.generation, Some(core::mem::take(&mut slot.streak))))
        });
        let Some((generation, streak)) = share.flatten() else {
            return;
        };
        let (now, random) = (now(), abi::random());
        let shared = self.update(id, |upstream, state| match streak {
            Some(streak) => state.observed(upstream, now, generation, streak, random),
            None => state.witnessed(upstream, now, generation, verdict, random),
        });
        if let (false, Some(streak)) = (shared, streak) {
            self.slot(id, |slot| slot.streak = streak);
        }
    }

    /// Gives a permit back. Should that not get through, its lease expires.
    pub fn settle(&self, id: UpstreamId, permit: Permit, outcome: Outcome) {
        let (now, random) = (now(), abi::random());
        self.update(id, |upstream, state| state.settle(upstream, now, permit, outcome, random));
    }

    /// Whether a check is due, which then is noted as started now. Two VMs may both believe that they lead, for
    /// the moment in which the lease changes hands; one of them is told so.
    pub fn claims_check(&self, id: UpstreamId, now: Time, slack: Duration) -> bool {
        let random = abi::random();
        let due = self.exchange(id, |upstream, state| {
            let due = upstream.check.as_ref().is_some_and(|check| check::is_due(state, check, now, slack));
            if due {
                state.checks.start(now, random);
            }
            (due, None)
        });
        due.unwrap_or(false)
    }

    /// Notes that a check could not be sent. Whether that is news.
    pub fn check_unsent(&self, id: UpstreamId) -> bool {
        self.counters.checked(&self.policy, id, "error");
        let news = self.exchange(id, |_, state| (!core::mem::replace(&mut state.checks.unsent, true), None));
        news.unwrap_or(false)
    }

    /// Takes the result of a check that was started in `generation`. Should that not get through, the next
    /// check says the same.
    pub fn checked(&self, id: UpstreamId, generation: u32, result: Result<(), CheckFailure>) {
        self.counters.checked(&self.policy, id, if result.is_ok() { "passed" } else { "failed" });
        let now = now();
        self.update(id, |upstream, state| state.checked(upstream, now, generation, result));
    }

    /// Whether this VM leads the upstream, for `span` from now on: sends its checks, and ends its waits.
    pub fn leads(&self, id: UpstreamId, now: Time, span: Duration) -> bool {
        let Some(key) = self.slot(id, |slot| leader_key(&slot.key)) else {
            return false;
        };
        let claim = store::update(&key, |current| {
            let claim = Lease::claim(current, self.holder, now, span);
            (claim.is_some(), claim)
        });
        claim.unwrap_or(false)
    }

    /// Takes a look at where the proxy stands, and notes that it has started, if it has by what this VM knows.
    pub fn refresh_lifecycle(&self) {
        let probes = &self.policy.probes;
        let starts = probes.of(Kind::Startup).is_some();
        if !starts && probes.drain.is_none() {
            return;
        }
        self.lifecycle.set(store::get(&self.lifecycle_key()).unwrap_or_default());
        let started = self.lifecycle.get().started;
        if starts && !started && probe::has_started(&self.policy, &Snapshot { worker: self, asked: false }) {
            self.change_lifecycle("started", |lifecycle| lifecycle.started = true);
        }
    }

    /// Orders the proxy to drain, or to stop draining. Whether the order is through.
    pub fn drain(&self, draining: bool) -> bool {
        let event = if draining { "draining" } else { "no longer draining" };
        self.change_lifecycle(event, |lifecycle| lifecycle.draining = draining)
    }

    /// Applies one change to where the proxy stands, and makes it known if it is one. Whether it was written.
    fn change_lifecycle(&self, event: &str, change: impl Fn(&mut Lifecycle)) -> bool {
        let changed = store::update(&self.lifecycle_key(), |known: Option<Lifecycle>| {
            let before = known.unwrap_or_default();
            let mut after = before;
            change(&mut after);
            ((before, after), (known != Some(after)).then_some(after))
        });
        let Some((before, after)) = changed else {
            return false;
        };
        self.lifecycle.set(after);
        if before != after {
            log::info!("policy {}: {event}", self.policy.name);
        }
        true
    }

    fn lifecycle_key(&self) -> String {
        format!("graygate/{}/lifecycle", self.policy.name)
    }

    /// What a request for a probe that passes through gets, and the id that it has if it goes on.
    /// `may_fetch` says whether it may be the one.
    pub fn recall(&self, kept: &str, rule: &PassThrough, may_fetch: bool) -> Option<(Recall, u64)> {
        let (id, now) = (self.id()?, now());
        let fetch = may_fetch.then_some(id);
        let recall = store::update(kept, |known: Option<Kept>| {
            let before = known.clone();
            let mut kept = known.unwrap_or_default();
            let recall = kept.ask(rule, now, fetch);
            (recall, (before.as_ref() != Some(&kept)).then_some(kept))
        });
        Some((recall?, id))
    }

    /// Takes what the app answered to the request with this id; nothing, where that is not to be kept.
    pub fn keep(&self, kept: &str, id: u64, answer: Option<Answer>) {
        store::update(kept, |known: Option<Kept>| {
            let mut kept = known.unwrap_or_default();
            kept.end(id, answer.clone());
            ((), Some(kept))
        });
    }

    /// The store's key for the app's answers to a probe. It holds a hash of what they answer, and of what is
    /// kept of them.
    pub fn kept_key(&self, probe: &Probe, rule: &PassThrough, head: bool) -> String {
        let mut hasher = XxHash64::with_seed(LAYOUT.into());
        (&probe.path, &rule.headers, head).hash(&mut hasher);
        format!("graygate/{}/kept/{}/{:016x}", self.policy.name, probe.name, hasher.finish())
    }

    /// An id that no other request of the proxy has.
    fn id(&self) -> Option<u64> {
        let mut board = self.board.try_borrow_mut().ok()?;
        board.ids = board.ids.wrapping_add(1);
        Some(self.holder.id.wrapping_add(board.ids))
    }

    /// Applies one update to the shared state, takes the result as the snapshot, and makes a transition
    /// known. Whether it was written: it may lose to too many others.
    fn update(&self, id: UpstreamId, apply: impl Fn(&Upstream, &mut State) -> Option<Transition>) -> bool {
        self.exchange(id, |upstream, state| ((), apply(upstream, state))).is_some()
    }

    /// The same for an update that also gives something back.
    fn exchange<T>(
        &self,
        id: UpstreamId,
        apply: impl Fn(&Upstream, &mut State) -> (T, Option<Transition>),
    ) -> Option<T> {
        let upstream = self.policy.upstream(id)?;
        let (key, fallback) = self.slot(id, |slot| (slot.key.clone(), slot.snapshot.clone()))?;
        let (result, transition, state) = store::update(&key, |known: Option<State>| {
            let before = known.clone();
            let mut state = known.unwrap_or_else(|| fallback.clone());
            let (result, transition) = apply(upstream, &mut state);
            let changed = before.as_ref() != Some(&state);
            ((result, transition, state.clone()), changed.then_some(state))
        })?;
        self.slot(id, |slot| {
            // What was seen of an earlier phase says nothing of this one.
            if slot.snapshot.generation != state.generation {
                slot.streak = Streak::default();
                slot.epoch = self.epoch.get() + 1;
                self.epoch.set(slot.epoch);
            }
            slot.snapshot = state;
        });
        if let Some(transition) = transition {
            let Transition { from, to, reason } = transition;
            log::info!("policy {}: upstream {}: {from} -> {to} ({reason})", self.policy.name, upstream.name);
            self.counters.changed(&self.policy, id, transition);
        }
        Some(result)
    }

    fn slot<T>(&self, id: UpstreamId, look: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.board.try_borrow_mut().ok()?.slots.get_mut(id.0).map(look)
    }
}

/// The readiness that the request path sees.
struct Snapshot<'w> {
    worker: &'w Worker,
    asked: bool,
}

impl Readiness for Snapshot<'_> {
    fn standing(&self, id: UpstreamId) -> Standing {
        let standing = self.worker.slot(id, |slot| {
            slot.needed = true;
            slot.snapshot.standing()
        });
        // Every id of a policy has its slot.
        standing.unwrap_or(Standing::Ready)
    }

    fn knowledge(&self, id: UpstreamId) -> Knowledge {
        let (upstream, now) = (self.worker.policy.upstream(id), now());
        let known =
            upstream.and_then(|upstream| self.worker.slot(id, |slot| slot.snapshot.knowledge(upstream, now)));
        let unknown =
            Knowledge { standing: Standing::Ready, heard: None, fresh_for: Duration::ZERO, proven: true };
        known.unwrap_or(unknown)
    }

    fn lifecycle(&self) -> Lifecycle {
        let (lifecycle, probes) = (self.worker.lifecycle.get(), &self.worker.policy.probes);
        Lifecycle {
            started: lifecycle.started || probes.of(Kind::Startup).is_none(),
            draining: lifecycle.draining && probes.drain.is_some(),
        }
    }

    fn now(&self) -> Time {
        now()
    }

    fn lend(&mut self, id: UpstreamId) -> Option<Permit> {
        let (now, permit) = (now(), self.worker.id()?);
        self.worker.exchange(id, |upstream, state| (state.lend(upstream, now, permit, self.asked), None))?
    }
}

/// The store's key for what is known of an upstream. It holds a hash of what that knowledge is about, so that
/// a change of anything else, such as weights or thresholds, loses nothing.
fn key(policy: &Policy, upstream: &Upstream) -> String {
    let mut hasher = XxHash64::with_seed(LAYOUT.into());
    upstream.subject().hash(&mut hasher);
    format!("graygate/{}/upstream/{}/{:016x}", policy.name, upstream.name, hasher.finish())
}

/// The key for who leads the upstream whose state is behind `key`.
fn leader_key(key: &str) -> String {
    format!("{key}/leader")
}

/// The proxy's wall clock. It always has one; without it, time would stand still.
pub fn now() -> Time {
    let time = hostcalls::get_current_time().ok();
    let span = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Time::from_millis(crate::time::millis(span))
}
