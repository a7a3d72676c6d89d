//! The order in which ticks claim the leads of upstreams and read their states.
//!
//! Each tick reaches the first upstream and the next part of the others. A worker that does not know yet who leads reaches
//! more of them. The policies of one document share what a tick reaches, by the numbers of their upstreams.

use core::time::Duration;

/// The time between two claims of the same lead, for each upstream of the document.
const PER_UPSTREAM: Duration = Duration::from_millis(4);

/// How many upstreams of the document a tick reaches while its workers hurry.
const HURRIED: usize = 250;

/// The shortest time for which a lead lasts without being renewed. It is at least four ticks, so one late tick loses no
/// lead.
const MIN_LEASE: Duration = Duration::from_secs(1);

/// One worker's progress through the watched upstreams of its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The number of upstreams.
    count: usize,
    /// The number of upstreams of all policies of the document.
    total: usize,
    tick: Duration,
    /// How many of this policy's a tick reaches.
    each_tick: usize,
    /// How many of this policy's a tick reaches in a hurry.
    each_hurried: usize,
    /// The first upstream that the next tick reaches.
    next: usize,
    /// How many upstreams are still to be reached in a hurry.
    hurried: usize,
    /// The upstreams that the current tick reaches: the first one, and how many.
    reached: (usize, usize),
    /// The upstream whose turn it is in the current tick.
    turn: usize,
}

impl Sweep {
    /// Creates the sweep of `count` upstreams with ticks of this length. `total` is the number of upstreams of all policies
    /// of the document.
    pub fn new(count: usize, total: usize, tick: Duration) -> Self {
        let total = total.max(count);
        let share = |most: usize| most.saturating_mul(count).checked_div(total).unwrap_or_default().max(1);
        let each_tick = tick.as_millis().checked_div(PER_UPSTREAM.as_millis()).unwrap_or_default();
        let each_tick = share(usize::try_from(each_tick).unwrap_or(usize::MAX));
        let each_hurried = share(HURRIED).max(each_tick);
        Sweep {
            count,
            total,
            tick,
            each_tick,
            each_hurried,
            next: 0,
            hurried: count,
            reached: (0, 0),
            turn: 0,
        }
    }

    /// Returns whether each tick reaches all upstreams.
    pub fn is_whole(&self) -> bool {
        self.count <= self.each_tick
    }

    /// Reaches all upstreams as soon as possible, beginning with the next one.
    pub fn hurry(&mut self) {
        // A hurry that is under way goes on.
        if self.hurried == 0 {
            self.hurried = self.count;
        }
    }

    /// Begins a tick.
    pub fn begin(&mut self) {
        let most = if self.hurried > 0 { self.each_hurried } else { self.each_tick };
        let count = most.min(self.count);
        self.reached = (self.next, count);
        self.hurried = self.hurried.saturating_sub(count);
        self.next = (self.next + count).checked_rem(self.count).unwrap_or_default();
        self.turn = 0;
    }

    /// Returns whether the current tick reaches the next upstream, in their order.
    pub fn reaches_next(&mut self) -> bool {
        let turn = self.turn;
        self.turn += 1;
        let (first, count) = self.reached;
        let distance = if turn < first { turn + self.count - first } else { turn - first };
        // The first upstream tells on each tick whether another policy came.
        turn == 0 || distance < count
    }

    /// Returns the time within which another worker takes over all leads that it may have: it finds that out by the first
    /// one, and then hurries.
    pub fn take_over(&self) -> Duration {
        let ticks = u32::try_from(self.total / HURRIED).unwrap_or(u32::MAX);
        MIN_LEASE + self.tick.saturating_mul(ticks)
    }

    /// Returns for how long a lead is claimed: until it has been claimed again twice.
    pub fn lease(&self) -> Duration {
        let total = u32::try_from(self.total).unwrap_or(u32::MAX);
        MIN_LEASE.max(PER_UPSTREAM.saturating_mul(total).saturating_mul(5) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TICK: Duration = Duration::from_millis(40);

    /// Returns the upstreams that the next tick reaches.
    fn tick(sweep: &mut Sweep) -> Vec<usize> {
        sweep.begin();
        (0..sweep.count).filter(|_| sweep.reaches_next()).collect()
    }

    #[test]
    fn few_upstreams_are_reached_on_each_tick() {
        let mut sweep = Sweep::new(10, 10, TICK);
        assert!(sweep.is_whole());
        assert_eq!(sweep.lease(), Duration::from_secs(1));
        for _ in 0..3 {
            assert_eq!(tick(&mut sweep), (0..10).collect::<Vec<_>>());
        }
        assert_eq!(tick(&mut Sweep::new(0, 0, TICK)), [0; 0]);
    }

    #[test]
    fn many_upstreams_are_reached_in_turn_after_all_were_reached_in_a_hurry() {
        let mut sweep = Sweep::new(605, 605, TICK);
        assert!(!sweep.is_whole());
        assert_eq!(sweep.lease(), Duration::from_millis(6_050));
        assert_eq!(sweep.take_over(), Duration::from_millis(1_080));
        let hurried: Vec<Vec<usize>> = (0..3).map(|_| tick(&mut sweep)).collect();
        let all: Vec<usize> = (0..605).collect();
        assert_eq!(hurried[0], all[..250]);
        assert_eq!(hurried[1], [&all[..1], &all[250..500]].concat());
        // The last tick of a hurry goes on from the beginning.
        assert_eq!(hurried[2], [&all[..145], &all[500..]].concat());
        assert_eq!(tick(&mut sweep), [&all[..1], &all[145..155]].concat());
        assert_eq!(tick(&mut sweep), [&all[..1], &all[155..165]].concat());
        sweep.hurry();
        assert_eq!(tick(&mut sweep), [&all[..1], &all[165..415]].concat());
    }

    #[test]
    fn the_policies_of_a_document_share_what_a_tick_reaches() {
        let mut sweep = Sweep::new(100, 500, TICK);
        assert_eq!(
            (sweep.lease(), sweep.take_over()),
            (Duration::from_secs(5), Duration::from_millis(1_080))
        );
        assert_eq!([(); 4].map(|()| tick(&mut sweep).len()), [50, 51, 2, 3]);
        // Each has its turn, however many others there are.
        let mut sweep = Sweep::new(2, 10_000, TICK);
        assert_eq!([(); 4].map(|()| tick(&mut sweep)), [vec![0], vec![0, 1], vec![0], vec![0, 1]]);
    }
}
