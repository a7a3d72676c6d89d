//! What one VM holds for one policy: its snapshot of the upstreams, and what it saw since it last shared it.

mod calm;

use std::cell::{Cell, OnceCell, RefCell};
use std::time::{Duration, UNIX_EPOCH};

use super::abi;
use super::gate::Gates;
use super::lifecycle::Shared;
use super::metric::Counters;
use super::release::{News, Releases};
use super::waiting::Waiting;
use super::{leader, store};
use crate::decision::gate::fail_open;
use crate::decision::probe;
use crate::decision::release::split::Split;
use crate::decision::{self, Assignment, Decision};
use crate::policy::Policy;
use crate::policy::probe::ProbeKind;
use crate::policy::release::Release;
use crate::policy::upstream::{Upstream, UpstreamId};
use crate::readiness::check::CheckFailure;
use crate::readiness::streak::Streak;
use crate::readiness::throttle::ReportThrottle;
use crate::readiness::{
    Admission, LeaseId, Permit, Phase, Readiness, Transition, TrialOutcome, UpstreamReason, UpstreamState,
    UpstreamStatus,
};
use crate::value::hash;
use crate::value::lease::{Holder, LeaseRole};
use crate::value::lifecycle::Lifecycle;
use crate::value::request::Request;
use crate::value::response::{FailOn, ResponseClass, Sample};
use crate::value::time::Time;
use calm::Calm;
use proxy_wasm::hostcalls;

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
    /// How calm all is; not known if that may have changed.
    calm: Cell<Option<Calm>>,
    /// Responses since the last tick that were asked for all there is to know, though all was calm.
    asked: Cell<u32>,
    /// The latest status that was found to be a success by all breakers' words.
    good_status: Cell<Option<u16>>,
    /// Where the proxy stands.
    lifecycle: Shared,
    /// Which gates fail open.
    gates: Gates,
    /// The name of this proxy's own cluster, as its peers' health checks expect it.
    pub service: String,
    /// The releases.
    pub releases: Releases,
    /// What has to be found out of each response.
    pub asks: Asks,
    /// Requests that wait for an answer.
    pub waiting: Waiting,
}

/// What the policy asks of a response beside what is there anyway. Each costs host calls.
pub struct Asks {
    /// Anything at all: a breaker judges it.
    pub responses: bool,
    /// How long it took.
    pub time: bool,
    /// The status of a gRPC service.
    pub grpc_status: bool,
    /// Whether a breaker takes it for none after a time.
    pub waits: bool,
}

impl Asks {
    fn of(policy: &Policy) -> Self {
        let breakers = || policy.breakers();
        let rollbacks = || policy.releases.iter().filter_map(|release| release.rollback.as_ref());
        let words = breakers()
            .flat_map(|breaker| breaker.fail_on.iter().chain(&breaker.ignore_on))
            .chain(rollbacks().flat_map(|rollback| &rollback.fail_on));
        Asks {
            responses: breakers().next().is_some(),
            waits: breakers().any(|breaker| breaker.unanswered_after.is_some()),
            time: breakers().any(|breaker| breaker.slower_than().or(breaker.unanswered_after).is_some())
                || rollbacks().any(|rollback| rollback.latency.is_some()),
            grpc_status: words.copied().any(FailOn::asks_for_grpc_status),
        }
    }
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
    snapshot: UpstreamState,
    /// Responses seen since the snapshot was taken.
    streak: Streak,
    throttle: ReportThrottle,
    /// Whether a newer policy judges the upstream, by settings of its own.
    outdated: bool,
    /// The epoch in which this VM learnt of the phase.
    epoch: u64,
    /// Whether a request has needed it since the snapshot was taken.
    needed: bool,
}

impl Worker {
    /// Starts with what the other VMs know already. `hash` is the policy's.
    pub fn new(policy: Policy, hash: u64) -> Self {
        let now = now();
        let slots = policy.upstreams.iter().map(|upstream| {
            let key = key(&policy, upstream);
            let first = UpstreamState::new(upstream, now, abi::random());
            store::seed(&key, &first);
            leader::seed(&key);
            let snapshot =
                store::get(&key).filter(|known: &UpstreamState| !is_stale_assumption(known, &first));
            let snapshot = snapshot.unwrap_or(first);
            Slot {
                key,
                snapshot,
                streak: Streak::default(),
                throttle: ReportThrottle::default(),
                outdated: false,
                epoch: 0,
                needed: false,
            }
        });
        let board = Board { slots: slots.collect(), ids: 0 };
        let releases = Releases::new(&policy, now);
        let asks = Asks::of(&policy);
        let counters = Counters::new(&policy);
        let holder = Holder { id: abi::random(), configured: now, policy: hash };
        let lifecycle = Shared::new(&policy);
        let gates = Gates::new(&policy);
        let service = hostcalls::get_property(vec!["xds", "node", "cluster"]).ok().flatten();
        let service = String::from_utf8_lossy(&service.unwrap_or_default()).into_owned();
        let (board, epoch) = (RefCell::new(board), Cell::new(0));
        let (calm, asked, good_status) = (Cell::new(None), Cell::new(0), Cell::new(None));
        let waiting = Waiting::new();
        let worker = Worker {
            board,
            epoch,
            lifecycle,
            gates,
            service,
            releases,
            asks,
            calm,
            asked,
            good_status,
            waiting,
            counters,
            holder,
            policy,
        };
        // As an update that brings a startup probe must fail no readiness, what is known counts at once. The
        // others learn of it on the first tick.
        if worker.has_started() {
            worker.lifecycle.assume_started();
        }
        worker
    }

    /// What is to happen to a request. Nothing, should the VM's state be in use: that can't be, as the
    /// proxy runs one callback of a VM at a time, and a panic is no way to find out.
    pub fn decide(&self, request: &impl Request) -> Option<Decision<'_>> {
        let mut splits = self.releases.splits().try_borrow_mut().ok()?;
        let mut snapshot = Snapshot::of(self);
        Some(decision::decide(&self.policy, request, &mut snapshot, &mut splits))
    }

    /// Whether a rollback may follow for this version.
    pub fn judges_version(&self, assignment: &Assignment<'_>) -> bool {
        let judged = |release: &Release| release.rollback.is_some();
        self.policy.releases.get(assignment.release).is_some_and(judged)
    }

    /// The current epoch, for [`Worker::observe`].
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// The upstream's state, as this VM last saw it.
    pub fn snapshot(&self, id: UpstreamId) -> Option<UpstreamState> {
        self.look(id, |slot| slot.snapshot.clone())
    }

    /// Takes a look at the shared state of an upstream, and adds what this VM saw. If it leads the upstream,
    /// what time did, too.
    pub fn refresh(&self, id: UpstreamId, now: Time, leads: bool) {
        let seen = self.slot(id, |slot| {
            let needed = core::mem::take(&mut slot.needed);
            slot.throttle.on_tick();
            self.asked.set(0);
            (slot.snapshot.generation, core::mem::take(&mut slot.streak), needed, slot.outdated)
        });
        let Some((generation, streak, needed, outdated)) = seen else {
            return;
        };
        let random = abi::random();
        let shared = self.update(id, |upstream, state| {
            if let Some(check) = upstream.check.as_ref().filter(|_| needed) {
                state.checks.need(check, now);
            }
            if outdated {
                state.merge(generation, streak);
                return None;
            }
            let observed = state.on_responses(upstream, now, generation, streak, random);
            observed.or_else(|| leads.then(|| state.on_tick(upstream, now, random))?)
        });
        if !shared {
            self.slot(id, |slot| {
                slot.streak = streak;
                slot.needed |= needed;
            });
        }
    }

    /// Takes one response of the upstream, to a request of `epoch`. While it is Ready, a failure that may be the
    /// last one it takes is shared at once, and so is one of a row, within bounds; anything else waits for the tick,
    /// as does all that a policy sees which another one has replaced.
    pub fn observe(&self, id: UpstreamId, sample: Sample, epoch: u64) {
        let Some(upstream) = self.policy.upstream(id) else {
            return;
        };
        let Some(breaker) = upstream.breaker.as_ref().filter(|_| sample.class != ResponseClass::Ignored)
        else {
            return;
        };
        let share = self.slot(id, |slot| {
            slot.needed = true;
            let on_trial = matches!(slot.snapshot.phase, Phase::Trial { .. });
            // The request was sent before this VM knew of the phase: its response is about the past.
            if epoch < slot.epoch {
                return None;
            }
            if on_trial {
                return Some((slot.snapshot.generation, None));
            }
            if !slot.snapshot.serves() {
                return None;
            }
            slot.streak.add(sample, breaker.counts_apart());
            let bad = sample.class != ResponseClass::Success;
            let hurries = slot.throttle.should_report_now(sample.class);
            let share = hurries || bad && slot.snapshot.would_trip(upstream, now(), slot.streak);
            let share = share && !slot.outdated;
            share.then(|| (slot.snapshot.generation, Some(core::mem::take(&mut slot.streak))))
        });
        let Some((generation, streak)) = share.flatten() else {
            return;
        };
        let (now, random) = (now(), abi::random());
        let shared = self.update(id, |upstream, state| match streak {
            Some(streak) => state.on_responses(upstream, now, generation, streak, random),
            None => state.on_unpermitted_response(upstream, now, generation, sample, random),
        });
        if let (false, Some(streak)) = (shared, streak) {
            self.slot(id, |slot| slot.streak = streak);
        }
    }

    /// Notes that the upstream has all of a request since then that holds a permit.
    pub fn sent(&self, id: UpstreamId, permit: LeaseId, since: Time) {
        self.update(id, |upstream, state| {
            state.on_request_sent(upstream, permit, since);
            None
        });
    }

    /// Notes that the response to a request that holds a permit has begun, and well.
    pub fn begun(&self, id: UpstreamId, permit: LeaseId) {
        self.update(id, |_, state| {
            state.on_response_begun(permit);
            None
        });
    }

    /// Gives a permit back. Should that not get through, its lease expires.
    pub fn settle(&self, id: UpstreamId, permit: LeaseId, outcome: TrialOutcome) {
        let (now, random) = (now(), abi::random());
        self.update(id, |upstream, state| state.release_permit(upstream, now, permit, outcome, random));
    }

    /// Claims the check that is due, if one is: it is noted as started now. Whether there was one. Two VMs may
    /// both believe that they lead, for the moment in which the lease changes hands; one of them is told no.
    pub fn claim_check(&self, id: UpstreamId, now: Time, slack: Duration) -> bool {
        let random = abi::random();
        let due = self.exchange(id, |upstream, state| {
            let due = upstream.check.as_ref().is_some_and(|check| state.is_check_due(check, now, slack));
            if due {
                state.checks.start(now, random);
            }
            (due, None)
        });
        due.unwrap_or(false)
    }

    /// Notes that a check could not be sent. Whether that is news.
    pub fn note_unsent(&self, id: UpstreamId) -> bool {
        self.counters.checked(&self.policy, id, "error");
        let news = self.exchange(id, |_, state| (!core::mem::replace(&mut state.checks.unsent, true), None));
        news.unwrap_or(false)
    }

    /// Takes the result of a check that was started in `generation`. Should that not get through, the next
    /// check says the same.
    pub fn checked(&self, id: UpstreamId, generation: u32, result: Result<(), CheckFailure>) {
        self.counters.checked(&self.policy, id, if result.is_ok() { "passed" } else { "failed" });
        self.releases.checked(&self.policy, id, result.is_ok());
        let now = now();
        self.update(id, |upstream, state| state.on_check(upstream, now, generation, result));
    }

    /// Claims to lead the upstream for `span` from now on: to send its checks, and end its waits. Whether it
    /// does.
    pub fn claim_lead(&self, id: UpstreamId, now: Time, span: Duration) -> bool {
        let Some(key) = self.slot(id, |slot| slot.key.clone()) else {
            return false;
        };
        let role = leader::claim(&key, self.holder, now, span);
        self.slot(id, |slot| slot.outdated = role == LeaseRole::Outdated);
        role == LeaseRole::Leads
    }

    /// Makes this policy's what an earlier one left behind that only that one could end or meant: an order to
    /// drain with no switch for it any more, an assumption. Once, when the policy has come into use: before
    /// that, the proxy may still refuse it.
    pub fn take_over(&self) {
        self.show_in_use();
        self.releases.take_over(&self.policy);
        self.gates.take_over(&self.policy);
        self.show_shares();
        if self.drains_in_vain() {
            self.drain(false);
        }
        let now = now();
        for (id, upstream) in self.policy.upstream_ids() {
            let first = UpstreamState::new(upstream, now, abi::random());
            self.update(id, |_, state| {
                if is_stale_assumption(state, &first) {
                    *state = first.clone();
                }
                None
            });
        }
    }

    /// Shows that the policy is in use.
    pub fn show_in_use(&self) {
        self.counters.in_use(&self.policy, self.holder.policy);
    }

    /// Shows whether the upstream is Ready.
    pub fn show_ready(&self, id: UpstreamId) {
        let Some(upstream) = self.policy.upstream(id) else {
            return;
        };
        let admission = self.look(id, |slot| slot.snapshot.admission(upstream));
        let ready = matches!(admission, Some(Admission::Ready | Admission::Ramp { .. }));
        self.counters.is_ready(&self.policy, id, ready);
    }

    /// Shows what each version holds.
    fn show_shares(&self) {
        let Ok(splits) = self.releases.splits().try_borrow() else {
            return;
        };
        for (place, split) in splits.iter().enumerate() {
            self.counters.shared(&self.policy, place, split.shares());
        }
    }

    /// How often this VM has to look at what is shared.
    pub fn tick(&self) -> Option<Duration> {
        let drains_in_vain = self.drains_in_vain().then_some(Duration::from_millis(250));
        self.policy.tick().or(drains_in_vain)
    }

    /// Whether an order to drain stands that this policy has no switch for.
    fn drains_in_vain(&self) -> bool {
        self.lifecycle.seen().draining && self.policy.probes.drain.is_none()
    }

    /// Takes a look at where the proxy stands, and notes that it has started, if it has by what this VM knows.
    /// Only the newest policy's word counts: an older one may ask for less.
    pub fn refresh_lifecycle(&self, now: Time, span: Duration) {
        let probes = &self.policy.probes;
        let starts = probes.of(ProbeKind::Startup).is_some();
        if !starts && probes.drain.is_none() {
            return;
        }
        self.lifecycle.refresh();
        let leads =
            starts && !self.lifecycle.seen().started && self.lifecycle.claim_lead(self.holder, now, span);
        if leads && self.has_started() && self.lifecycle.start() == Some(true) {
            self.counters.lived(&self.policy, "started");
        }
    }

    /// Takes a look at the releases, and makes known what this VM is the first to know.
    pub fn refresh_releases(&self, now: Time) {
        let policy = &self.policy;
        let share = |place, split: &Split| self.counters.shared(policy, place, split.shares());
        self.releases.refresh(policy, now, share, |place, news| {
            let Some(release) = policy.releases.get(place) else {
                return;
            };
            let shadow = policy.mode.mark();
            let whose = format!("policy {}: release {}", policy.name, release.name);
            match news {
                News::Begun(begun) => {
                    let name = release.schedule.name(usize::try_from(begun).unwrap_or(usize::MAX));
                    log::info!("{whose}: {name} of its schedule{shadow}");
                    self.counters.begun(policy, place);
                }
                News::RolledBack(finding) => {
                    let version = release.versions.get(finding.version).map_or("", |version| &version.name);
                    log::warn!("{whose}: {version} rolled back: {}{shadow}", finding.describe(release));
                    self.counters.rolled_back(policy, place, &finding);
                }
            }
        });
    }

    /// Takes a look at the gates, and makes known which of them fail open now, if that is news. Only the newest
    /// policy's word counts: an older one may have other gates.
    pub fn refresh_gates(&self, now: Time, span: Duration) {
        if !self.policy.may_fail_open() || !self.gates.claim_lead(self.holder, now, span) {
            return;
        }
        let open = fail_open::upstreams(&self.policy, &Snapshot::of(self));
        self.gates.show(&self.policy, &open);
    }

    fn has_started(&self) -> bool {
        probe::has_started(&self.policy, &Snapshot::of(self))
    }

    /// Orders the proxy to drain, or to stop draining. Whether the order is through.
    pub fn drain(&self, draining: bool) -> bool {
        let ordered = self.lifecycle.drain(draining);
        if ordered == Some(true) {
            self.counters.lived(&self.policy, if draining { "draining" } else { "not-draining" });
        }
        ordered.is_some()
    }

    /// An id that no other request of the proxy has.
    pub fn id(&self) -> Option<u64> {
        let mut board = self.board.try_borrow_mut().ok()?;
        board.ids = board.ids.wrapping_add(1);
        Some(self.holder.id.wrapping_add(board.ids))
    }

    /// Applies one update to the shared state, takes the result as the snapshot, and makes a transition
    /// known. Whether it was written: it may lose to too many others.
    fn update(
        &self,
        id: UpstreamId,
        apply: impl Fn(&Upstream, &mut UpstreamState) -> Option<Transition>,
    ) -> bool {
        self.apply(id, &mut |upstream, state| apply(upstream, state)).is_some()
    }

    /// The same for an update that also gives something back.
    fn exchange<T>(
        &self,
        id: UpstreamId,
        apply: impl Fn(&Upstream, &mut UpstreamState) -> (T, Option<Transition>),
    ) -> Option<T> {
        let mut last = None;
        self.apply(id, &mut |upstream, state| {
            let (result, transition) = apply(upstream, state);
            last = Some(result);
            transition
        })?;
        last
    }

    /// What all updates have in common, once in the module. `change` may run several times; its last run counts.
    fn apply(
        &self,
        id: UpstreamId,
        change: &mut dyn FnMut(&Upstream, &mut UpstreamState) -> Option<Transition>,
    ) -> Option<()> {
        let upstream = self.policy.upstream(id)?;
        let (key, fallback) = self.slot(id, |slot| (slot.key.clone(), slot.snapshot.clone()))?;
        let (transition, state) = store::update(&key, |known: Option<UpstreamState>| {
            let before = known.clone();
            let mut state = known.unwrap_or_else(|| fallback.clone());
            let transition = change(upstream, &mut state);
            let changed = before.as_ref() != Some(&state);
            ((transition, state.clone()), changed.then_some(state))
        })?;
        self.slot(id, |slot| {
            // What was seen of an earlier phase says nothing of this one.
            if slot.snapshot.generation != state.generation {
                slot.streak = Streak::default();
                slot.throttle = ReportThrottle::default();
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
        Some(())
    }

    /// Works on what this VM holds of an upstream, after which it may no longer be calm.
    fn slot<T>(&self, id: UpstreamId, work: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.calm.set(None);
        self.board.try_borrow_mut().ok()?.slots.get_mut(id.0).map(work)
    }

    /// Takes a look at it, and notes at most that it was needed.
    fn look<T>(&self, id: UpstreamId, look: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.board.try_borrow_mut().ok()?.slots.get_mut(id.0).map(look)
    }
}

/// The readiness that the request path sees.
struct Snapshot<'w> {
    worker: &'w Worker,
    random: OnceCell<u64>,
}

impl<'w> Snapshot<'w> {
    fn of(worker: &'w Worker) -> Self {
        Snapshot { worker, random: OnceCell::new() }
    }
}

impl Readiness for Snapshot<'_> {
    fn admission(&mut self, id: UpstreamId) -> Admission {
        let admission = self.worker.look(id, |slot| {
            slot.needed = true;
            self.worker.policy.upstream(id).map(|upstream| slot.snapshot.admission(upstream))
        });
        // Every id of a policy has its slot.
        admission.flatten().unwrap_or(Admission::Ready)
    }

    fn status(&self, id: UpstreamId) -> UpstreamStatus {
        let upstream = self.worker.policy.upstream(id);
        let known = upstream.and_then(|upstream| self.worker.look(id, |slot| slot.snapshot.status(upstream)));
        known.unwrap_or_else(UpstreamStatus::unknown)
    }

    fn lifecycle(&self) -> Lifecycle {
        let (lifecycle, probes) = (self.worker.lifecycle.seen(), &self.worker.policy.probes);
        Lifecycle {
            started: lifecycle.started || probes.of(ProbeKind::Startup).is_none(),
            draining: lifecycle.draining && probes.drain.is_some(),
        }
    }

    fn now(&self) -> Time {
        now()
    }

    fn random(&self) -> u64 {
        *self.random.get_or_init(abi::random)
    }

    fn lend_permit(&mut self, id: UpstreamId) -> Option<Permit> {
        let (now, permit) = (now(), self.worker.id()?);
        let lease =
            self.worker.exchange(id, |upstream, state| (state.lend_permit(upstream, now, permit), None))?;
        lease.map(|lease| Permit::new(id, lease))
    }
}

/// Whether what is `known` is only what an earlier policy assumed, and this one assumes otherwise: as in
/// `first`, the state that nothing is known in.
fn is_stale_assumption(known: &UpstreamState, first: &UpstreamState) -> bool {
    known.reason == UpstreamReason::Assumed && known.phase != first.phase
}

/// The store's key for what is known of an upstream. It holds a hash of what that knowledge is about, so that
/// a change of anything else, such as weights or thresholds, loses nothing.
fn key(policy: &Policy, upstream: &Upstream) -> String {
    let subject = hash::digest(store::LAYOUT.into(), &upstream.identity());
    format!("graygate/{}/upstream/{}/{subject:016x}", policy.name, upstream.name)
}

/// The proxy's wall clock. It always has one; without it, time would stand still.
pub fn now() -> Time {
    let time = hostcalls::get_current_time().ok();
    let span = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Time::from_millis(crate::value::time::millis(span))
}
