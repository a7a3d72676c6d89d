//! A world of several workers, one store and a clock that the test moves: what holds of an upstream's state whatever
//! happens, in whichever order.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use graygate::policy::Policy;
use graygate::policy::upstream::{Shares, Slow, Upstream};
use graygate::readiness::check::CheckFailure;
use graygate::readiness::streak::Streak;
use graygate::readiness::throttle::ReportThrottle;
use graygate::readiness::{LeaseId, Phase, Transition, TrialOutcome, UpstreamState};
use graygate::value::response::{ResponseClass, Sample};
use graygate::value::time::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The clock moves on by so many milliseconds.
    Later(u32),
    /// The clock is set back by so many milliseconds.
    Back(u32),
    Tick,
    /// A response that says so, and that may ask to be left alone for so many milliseconds.
    Respond(ResponseClass, Option<u32>),
    CheckStarts,
    CheckEnds(bool),
    /// A request comes that may go to the upstream on trial.
    Lend,
    /// The upstream has all of it.
    Sent(Index),
    /// Its response begins.
    Begun(Index),
    Settle(Index, TrialOutcome),
    /// A worker dies and another takes its place: what it held is forgotten.
    Die,
}

const ALL: [ResponseClass; 5] = [
    ResponseClass::Success,
    ResponseClass::Failure,
    ResponseClass::Unanswered,
    ResponseClass::Slow,
    ResponseClass::Ignored,
];

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        6 => Just(TrialOutcome::Seen(ResponseClass::Success.into())),
        4 => select(&ALL[..]).prop_map(|class| TrialOutcome::Seen(class.into())),
        1 => Just(TrialOutcome::Left),
        1 => Just(TrialOutcome::Unused),
    ];
    prop_oneof![
        6 => (0..2_000u32).prop_map(Event::Later),
        1 => (0..60_000u32).prop_map(Event::Later),
        1 => (0..60_000u32).prop_map(Event::Back),
        8 => Just(Event::Tick),
        8 => (select(&ALL[..]), prop::option::weighted(0.1, 0..60_000u32))
            .prop_map(|(class, wish)| Event::Respond(class, wish)),
        3 => Just(Event::CheckStarts),
        3 => any::<bool>().prop_map(Event::CheckEnds),
        6 => Just(Event::Lend),
        4 => any::<Index>().prop_map(Event::Sent),
        2 => any::<Index>().prop_map(Event::Begun),
        6 => (any::<Index>(), outcome).prop_map(|(which, outcome)| Event::Settle(which, outcome)),
        1 => Just(Event::Die),
    ]
}

struct Worker {
    snapshot: UpstreamState,
    streak: Streak,
    throttle: ReportThrottle,
    /// With the generations that they are of.
    permits: Vec<(LeaseId, u32)>,
    /// The generations in which checks under way were started.
    checks: Vec<u32>,
}

impl Worker {
    fn new(store: &UpstreamState) -> Self {
        Worker {
            snapshot: store.clone(),
            streak: Streak::default(),
            throttle: ReportThrottle::default(),
            permits: Vec::new(),
            checks: Vec::new(),
        }
    }
}

struct World {
    upstream: Upstream,
    /// As the store holds it.
    store: Vec<u8>,
    workers: Vec<Worker>,
    now: Time,
    ids: u64,
}

impl World {
    fn new(upstream: Upstream, workers: usize) -> Self {
        let now = Time::from_millis(10_000_000);
        let state = UpstreamState::new(&upstream, now, 0);
        let store = postcard::to_allocvec(&state).unwrap();
        World { upstream, store, workers: (0..workers).map(|_| Worker::new(&state)).collect(), now, ids: 0 }
    }

    /// Whether requests with no answer are counted apart.
    fn apart(&self) -> bool {
        self.upstream.breaker.as_ref().is_some_and(|breaker| breaker.counts_apart())
    }

    fn state(&self) -> UpstreamState {
        postcard::from_bytes(&self.store).unwrap()
    }

    /// One update of the shared state, as the host makes it, with all that must be true of any.
    fn update<T>(
        &mut self,
        worker: usize,
        apply: impl FnOnce(&Upstream, &mut UpstreamState, Time) -> (T, Option<Transition>),
    ) -> Result<T, TestCaseError> {
        let before = self.state();
        let mut after = before.clone();
        let (result, transition) = apply(&self.upstream, &mut after, self.now);
        match transition {
            Some(Transition { from, to, reason }) => {
                prop_assert_ne!(from, to);
                prop_assert_eq!((from, to), (before.phase.name(), after.phase.name()));
                prop_assert_eq!((reason, self.now), (after.reason, after.since));
                prop_assert_eq!(after.generation, before.generation + 1);
            }
            None => {
                prop_assert_eq!(before.phase.name(), after.phase.name());
                let unchanged = |state: &UpstreamState| (state.generation, state.reason, state.since);
                prop_assert_eq!(unchanged(&before), unchanged(&after));
            }
        }
        if let (Phase::Trial { leases, .. }, Some(breaker)) = (&after.phase, &self.upstream.breaker) {
            prop_assert!(leases.len() <= breaker.trial.requests as usize);
        }
        self.store = postcard::to_allocvec(&after).unwrap();
        prop_assert_eq!(&self.state(), &after);
        let worker = &mut self.workers[worker];
        if worker.snapshot.generation != after.generation {
            worker.streak = Streak::default();
            worker.throttle = ReportThrottle::default();
        }
        worker.snapshot = after;
        Ok(result)
    }

    /// The same with evidence from the phase of this generation: that of an earlier one changes nothing.
    fn take(
        &mut self,
        worker: usize,
        generation: u32,
        apply: impl FnOnce(&Upstream, &mut UpstreamState, Time) -> Option<Transition>,
    ) -> Result<(), TestCaseError> {
        let before = self.state();
        self.update(worker, |upstream, state, now| ((), apply(upstream, state, now)))?;
        if generation != before.generation {
            let mut after = self.state();
            // Whether a check could be sent is of no phase.
            after.checks.unsent = before.checks.unsent;
            prop_assert_eq!(after, before);
        }
        Ok(())
    }

    fn tick(&mut self, at: usize, random: u64) -> Result<(), TestCaseError> {
        self.tick_as(at, random, true)
    }

    /// A tick of a worker that leads the upstream, or does not.
    fn tick_as(&mut self, at: usize, random: u64, leads: bool) -> Result<(), TestCaseError> {
        let worker = &mut self.workers[at];
        worker.throttle.on_tick();
        let (generation, streak) = (worker.snapshot.generation, std::mem::take(&mut worker.streak));
        self.update(at, |upstream, state, now| {
            let observed = state.on_responses(upstream, now, generation, streak, random);
            ((), observed.or_else(|| leads.then(|| state.on_tick(upstream, now, random))?))
        })
    }

    /// All of these happen, each to one of the workers.
    fn live(&mut self, events: &[(Index, Event, u64)]) -> Result<(), TestCaseError> {
        for (worker, event, random) in events {
            self.happen(worker.index(self.workers.len()), *event, *random)?;
        }
        Ok(())
    }

    fn happen(&mut self, at: usize, event: Event, random: u64) -> Result<(), TestCaseError> {
        let apart = self.apart();
        let worker = &mut self.workers[at];
        match event {
            Event::Later(millis) => self.now = self.now + Duration::from_millis(millis.into()),
            Event::Back(millis) => self.now = Time::from_millis(self.now.as_millis() - u64::from(millis)),
            Event::Tick => self.tick(at, random)?,
            Event::Respond(..) if !worker.snapshot.serves() => {}
            Event::Respond(class, wish) => {
                let retry_at = wish.map(|millis| self.now + Duration::from_millis(millis.into()));
                worker.streak.add(Sample { class, retry_at }, apart);
                let hurries = worker.throttle.should_report_now(class);
                if hurries || worker.snapshot.would_trip(&self.upstream, self.now, worker.streak) {
                    let (generation, streak) =
                        (worker.snapshot.generation, std::mem::take(&mut worker.streak));
                    self.take(at, generation, |upstream, state, now| {
                        state.on_responses(upstream, now, generation, streak, random)
                    })?;
                }
            }
            Event::CheckStarts => worker.checks.push(worker.snapshot.generation),
            Event::CheckEnds(passed) => {
                if let Some(generation) = worker.checks.pop() {
                    let result = if passed { Ok(()) } else { Err(CheckFailure::TimedOut) };
                    self.take(at, generation, |upstream, state, now| {
                        state.on_check(upstream, now, generation, result)
                    })?;
                }
            }
            Event::Lend => {
                self.ids += 1;
                let id = self.ids;
                let permit =
                    self.update(at, |upstream, state, now| (state.lend_permit(upstream, now, id), None))?;
                let generation = self.state().generation;
                self.workers[at].permits.extend(permit.map(|permit| (permit, generation)));
            }
            Event::Sent(which) if !worker.permits.is_empty() => {
                let (permit, _) = worker.permits[which.index(worker.permits.len())];
                self.update(at, |upstream, state, now| (state.on_request_sent(upstream, permit, now), None))?;
            }
            Event::Begun(which) if !worker.permits.is_empty() => {
                let (permit, _) = worker.permits[which.index(worker.permits.len())];
                self.update(at, |_, state, _| (state.on_response_begun(permit), None))?;
            }
            Event::Sent(_) | Event::Begun(_) => {}
            Event::Settle(which, outcome) => {
                if !worker.permits.is_empty() {
                    let permit = worker.permits.swap_remove(which.index(worker.permits.len()));
                    let (permit, generation) = permit;
                    self.take(at, generation, |upstream, state, now| {
                        state.release_permit(upstream, now, permit, outcome, random)
                    })?;
                }
            }
            Event::Die => self.workers[at] = Worker::new(&postcard::from_bytes(&self.store).unwrap()),
        }
        Ok(())
    }
}

fn upstream(check: bool, breaker: bool, guarded: bool) -> Upstream {
    let mut upstream = serde_json::json!({"cluster": "app"});
    if check {
        upstream["readinessProbe"] =
            serde_json::json!({"httpGet": {}, "failureThreshold": 2, "successThreshold": 2});
    }
    if breaker {
        upstream["circuitBreaker"] = serde_json::json!({"consecutiveFailures": 3, "notReadyFor": "1s",
            "maxNotReadyFor": "10s", "maxRetryAfter": "20s",
            "trial": {"requests": 2, "successes": 3, "leaseFor": "5s"}});
    }
    let gates = if guarded { serde_json::json!([{"upstream": "app"}]) } else { serde_json::json!([]) };
    let document = serde_json::json!({"name": "p", "upstreams": {"app": upstream}, "gates": gates});
    Policy::from_json(document.to_string().as_bytes()).unwrap().upstreams.remove(0)
}

/// The upstream, judged by all that a breaker can judge by if `wholly`, and with a ramp.
fn judged(mut upstream: Upstream, wholly: bool) -> Upstream {
    if let Some(breaker) = upstream.breaker.as_mut().filter(|_| wholly) {
        breaker.local_origin_failures = Some(2);
        breaker.unanswered_after = Some(Duration::from_secs(2));
        breaker.trial.ramp_over = Duration::from_secs(4);
        breaker.shares = Some(Shares {
            failure_percent: Some(50),
            slow: Some(Slow { percent: 50, than: Duration::from_secs(1) }),
            window: Duration::from_secs(10),
            minimum_requests: 6,
        });
    }
    upstream
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn keep_the_rules_of_one_shared_state(
        (check, breaker, guarded, wholly) in any::<(bool, bool, bool, bool)>(),
        workers in 1..5usize,
        events in vec((any::<Index>(), event(), any::<u64>()), 1..300),
    ) {
        let mut world = World::new(judged(upstream(check, breaker, guarded), wholly), workers);
        for (worker, event, random) in events {
            world.happen(worker.index(workers), event, random)?;
            let state = world.state();
            prop_assert!(wholly || state.phase.name() != "ramp");
            prop_assert!(guarded || state.phase.name() != "trial");
            prop_assert!(check || breaker || state.generation == 0);
        }
    }

    #[test]
    fn never_stay_not_ready_by_the_breaker_alone(
        workers in 1..5usize,
        wholly in any::<bool>(),
        events in vec((any::<Index>(), event(), any::<u64>()), 1..200),
        step in 50..1_000u64,
    ) {
        let mut world = World::new(judged(upstream(false, true, true), wholly), workers);
        world.live(&events)?;
        let since = world.now;
        // The longest wait that may be asked for, its jitter, and what workers' clocks may be apart.
        let longest = Duration::from_millis(20_000 + 2_000 + 1_000 + step);
        while matches!(world.state().phase, Phase::NotReady { .. }) {
            prop_assert!(world.now.since(since) <= longest);
            world.now = world.now + Duration::from_millis(step);
            for worker in 0..workers {
                world.tick(worker, 0)?;
            }
        }
    }

    /// A lost permit ends its trial, a new one follows, and good answers end that.
    #[test]
    fn come_back_when_the_upstream_does(
        (check, wholly) in any::<(bool, bool)>(),
        workers in 1..5usize,
        events in vec((any::<Index>(), event(), any::<u64>()), 1..200),
    ) {
        let mut world = World::new(judged(upstream(check, true, true), wholly), workers);
        world.live(&events)?;
        let since = world.now;
        for worker in &mut world.workers {
            worker.permits.clear();
            worker.streak = Streak::default();
        }
        while world.state().phase != Phase::Ready {
            prop_assert!(world.now.since(since) < Duration::from_secs(90), "{:?}", world.state());
            world.now = world.now + Duration::from_millis(250);
            for worker in 0..workers {
                world.tick(worker, 0)?;
                if check {
                    world.happen(worker, Event::CheckStarts, 0)?;
                    world.happen(worker, Event::CheckEnds(true), 0)?;
                }
                world.happen(worker, Event::Lend, 0)?;
                if let Some((permit, _)) = world.workers[worker].permits.pop() {
                    let outcome = TrialOutcome::Seen(ResponseClass::Success.into());
                    world.update(worker, |upstream, state, now| ((), state.release_permit(upstream, now, permit, outcome, 0)))?;
                }
            }
        }
    }

    /// Counts are exact for one worker: it trips with the third failure in a row, whenever it ticks.
    #[test]
    fn of_one_worker_trip_at_exactly_the_threshold(responses in vec((prop::bool::weighted(0.4), any::<bool>()), 1..100)) {
        let mut world = World::new(upstream(false, true, true), 1);
        let mut failures = 0;
        for (succeeded, tick) in responses {
            failures = if succeeded { 0 } else { failures + 1 };
            let class = if succeeded { ResponseClass::Success } else { ResponseClass::Failure };
            world.happen(0, Event::Respond(class, None), 0)?;
            prop_assert_eq!(world.state().phase == Phase::Ready, failures < 3);
            if failures == 3 {
                break;
            }
            if tick {
                world.tick(0, 0)?;
            }
        }
    }
}

/// How soon all workers know, in ticks. Each ticks at a time of its own, and one leads.
mod all_workers {
    use super::*;

    const TICK: u64 = 50;

    /// A world in which each worker ticks `TICK` ms after its last tick.
    struct Ticking {
        world: World,
        offsets: Vec<u64>,
        started: Time,
        leader: usize,
    }

    impl Ticking {
        fn new(upstream: Upstream, offsets: &[u64], leader: Index) -> Self {
            let world = World::new(upstream, offsets.len());
            let started = world.now;
            Ticking { leader: leader.index(offsets.len()), offsets: offsets.to_vec(), started, world }
        }

        fn elapsed(&self) -> u64 {
            self.world.now.since(self.started).as_millis() as u64
        }

        /// One millisecond passes.
        fn pass(&mut self) -> Result<(), TestCaseError> {
            self.world.now = self.world.now + Duration::from_millis(1);
            let now = self.elapsed();
            for worker in 0..self.offsets.len() {
                if now % TICK == self.offsets[worker] {
                    self.world.tick_as(worker, 0, worker == self.leader)?;
                }
            }
            Ok(())
        }

        fn all(&self, phase: &str) -> bool {
            self.world.workers.iter().all(|worker| worker.snapshot.phase.name() == phase)
        }
    }

    /// The places of workers' ticks within one.
    fn offsets() -> impl Strategy<Value = Vec<u64>> {
        vec(0..TICK, 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The failing requests are those that come once each worker has told of what was good before.
        #[test]
        fn gate_two_ticks_after_the_failing_requests(
            offsets in offsets(),
            leader in any::<Index>(),
            healthy in vec((any::<Index>(), 0..20u64), 0..40),
            failing in vec((any::<Index>(), 0..20u64), 60),
        ) {
            let mut ticking = Ticking::new(upstream(false, true, true), &offsets, leader);
            for (worker, pause) in healthy {
                ticking.world.happen(worker.index(offsets.len()), Event::Respond(ResponseClass::Success, None), 0)?;
                for _ in 0..pause {
                    ticking.pass()?;
                }
            }
            for _ in 0..=TICK {
                ticking.pass()?;
            }
            let (mut seen, mut third) = (0, None);
            for (worker, pause) in failing {
                ticking.world.happen(worker.index(offsets.len()), Event::Respond(ResponseClass::Failure, None), 0)?;
                seen += 1;
                if seen == 3 {
                    third = Some(ticking.elapsed());
                }
                for _ in 0..pause {
                    ticking.pass()?;
                    let late = third.is_some_and(|third| ticking.elapsed() > third + 2 * TICK);
                    prop_assert!(!late || ticking.all("not-ready"));
                }
            }
        }

        #[test]
        fn gate_and_let_through_a_tick_after_the_check_that_decides(
            offsets in offsets(), leader in any::<Index>(), period in TICK..1_000,
        ) {
            let mut ticking = Ticking::new(upstream(true, false, true), &offsets, leader);
            for (passed, before, after) in [(false, "ready", "not-ready"), (true, "not-ready", "ready")] {
                for check in 1..=2 {
                    for _ in 0..period {
                        ticking.pass()?;
                    }
                    prop_assert!(ticking.all(before), "after {} checks", check - 1);
                    let leader = ticking.leader;
                    ticking.world.happen(leader, Event::CheckStarts, 0)?;
                    ticking.world.happen(leader, Event::CheckEnds(passed), 0)?;
                }
                for _ in 0..TICK {
                    ticking.pass()?;
                }
                prop_assert!(ticking.all(after));
            }
        }

        /// One for the leader to see that the wait is over, one for the others to learn of it.
        #[test]
        fn try_two_ticks_after_a_wait(offsets in offsets(), leader in any::<Index>()) {
            let mut ticking = Ticking::new(upstream(false, true, true), &offsets, leader);
            for _ in 0..3 {
                ticking.world.happen(0, Event::Respond(ResponseClass::Failure, None), 0)?;
            }
            prop_assert_eq!(ticking.world.state().phase.name(), "not-ready");
            for _ in 0..1_000 - 1 {
                ticking.pass()?;
                prop_assert_ne!(ticking.world.state().phase.name(), "trial");
            }
            for _ in 0..=2 * TICK {
                ticking.pass()?;
            }
            prop_assert!(ticking.all("trial"));
        }
    }
}

/// A lead that dies, in the world of leases.
mod a_lead {
    use graygate::value::lease::{Holder, Lease};

    use super::*;

    proptest! {
        /// At any time at most one of the same policy leads, and if any VM lives, one does within a lease's span.
        #[test]
        fn is_one_vms_and_passes_on_when_it_dies(
            deaths in vec(prop::option::of(1..10_000u64), 1..5), offsets in vec(0..50u64, 5),
        ) {
            let span = Duration::from_secs(1);
            let mut lease = Some(Lease::none());
            let mut led = 0;
            let alive = |vm: usize, now: u64| deaths[vm].is_none_or(|death| now < death);
            for now in 0..15_000u64 {
                for vm in (0..deaths.len()).filter(|vm| alive(*vm, now) && now % 50 == offsets[*vm]) {
                    let holder = Holder { id: vm as u64 + 1, configured: Time::from_millis(5), policy: 7 };
                    let time = Time::from_millis(1_000_000 + now);
                    if let Some(claimed) = Lease::claim(lease, holder, time, span) {
                        let other = lease.is_some_and(|held| held.holder.id != holder.id && held.until > time);
                        prop_assert!(!other, "taken from a holder whose lease still runs");
                        lease = Some(claimed);
                        led = now;
                    }
                }
                let any = (0..deaths.len()).any(|vm| alive(vm, now));
                prop_assert!(!any || now - led <= 1_000 + 50, "nobody leads at {now}");
            }
        }
    }
}
