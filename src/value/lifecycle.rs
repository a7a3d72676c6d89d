//! Whether a proxy has started and whether it drains. Readiness depends on both, and on the upstreams.
//!
//! The whole proxy has one lifecycle for each policy name. An update of the policy never undoes a start. It ends a drain
//! only if the new policy has nothing that could have begun it.
//!
//! A proxy drains for two reasons, alone or together: someone ordered it, or an upstream that the policy names answers its
//! checks that it does. The drain begins with the first reason and ends with the last one.
//!
//! # Other releases of this module
//!
//! They read and write the same value, so it only grows at its end. An earlier release wrote `started` and `draining`
//! alone. What it left out counts as absent, and it ignores what follows. A drain without a beginning began long ago.

use core::fmt;
use core::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::time::Time;

/// The lifecycle of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lifecycle {
    /// Whether the startup probe's checks have passed once. It never goes back to `false`.
    pub started: bool,
    /// Whether the proxy was ordered to drain.
    pub draining: bool,
    /// The time at which the drain began, whatever its reason.
    pub since: Option<Time>,
    /// What an upstream's checks tell of a drain.
    pub upstream: UpstreamDrain,
}

/// What the checks of one upstream tell of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UpstreamDrain {
    /// Whether the upstream drains.
    pub draining: bool,
    /// The upstream, as a hash of its name.
    source: u64,
    /// How many answers in a row have contradicted [`Self::draining`].
    against: u32,
}

impl Lifecycle {
    /// Returns whether the proxy drains.
    pub fn is_draining(&self) -> bool {
        self.draining || self.upstream.draining
    }

    /// Returns whether the proxy has drained for `delay`.
    pub fn has_drained_for(&self, delay: Duration, now: Time) -> bool {
        self.is_draining() && self.since.is_none_or(|since| now >= since + delay)
    }

    /// Returns how long it takes until the proxy has drained for `delay`. Returns `None` if it has, or does not drain.
    pub fn rest_of(&self, delay: Duration, now: Time) -> Option<Duration> {
        let since = self.since.filter(|_| self.is_draining() && !self.has_drained_for(delay, now))?;
        Some((since + delay).since(now))
    }

    /// Returns the lifecycle after `change`. A drain that begins with it begins now.
    pub fn changed(mut self, change: impl FnOnce(&mut Lifecycle), now: Time) -> Self {
        let drained = self.is_draining();
        change(&mut self);
        self.since = match (drained, self.is_draining()) {
            (false, true) => Some(now),
            (true, true) => self.since,
            (_, false) => None,
        };
        self
    }
}

impl UpstreamDrain {
    /// Returns what is known of this source. Nothing is, if another one was heard before.
    pub fn of(self, source: u64) -> Self {
        if self.source == source { self } else { UpstreamDrain { source, ..UpstreamDrain::default() } }
    }

    /// Takes one answer to a check: whether it passed, and how many such answers in a row count.
    pub fn on_answer(&mut self, passed: bool, threshold: u32) {
        if passed != self.draining {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        if self.against >= threshold {
            self.draining = !passed;
            self.against = 0;
        }
    }
}

impl<'de> Deserialize<'de> for Lifecycle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple(4, LifecycleVisitor)
    }
}

struct LifecycleVisitor;

impl<'de> Visitor<'de> for LifecycleVisitor {
    type Value = Lifecycle;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a lifecycle")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Lifecycle, A::Error> {
        let missing = || A::Error::custom("incomplete");
        let started = fields.next_element()?.ok_or_else(missing)?;
        let draining = fields.next_element()?.ok_or_else(missing)?;
        // The bytes end here if an earlier release wrote them. That is an error of the deserializer.
        let since = fields.next_element().ok().flatten().unwrap_or_default();
        let upstream = fields.next_element().ok().flatten().unwrap_or_default();
        Ok(Lifecycle { started, draining, since, upstream })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Time = Time::from_millis(100_000);
    const LATER: Time = Time::from_millis(108_000);
    const DELAY: Duration = Duration::from_secs(10);

    /// The lifecycle as the first release has it.
    #[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    struct Earlier {
        started: bool,
        draining: bool,
    }

    fn bytes(value: &impl serde::Serialize) -> Vec<u8> {
        postcard::to_allocvec(value).unwrap()
    }

    fn ordered(lifecycle: Lifecycle, draining: bool, now: Time) -> Lifecycle {
        lifecycle.changed(|lifecycle| lifecycle.draining = draining, now)
    }

    fn told(lifecycle: Lifecycle, passed: bool, now: Time) -> Lifecycle {
        lifecycle.changed(|lifecycle| lifecycle.upstream.on_answer(passed, 1), now)
    }

    #[test]
    fn an_earlier_release_and_this_one_read_what_the_other_writes() {
        for (started, draining) in [(false, false), (true, false), (false, true), (true, true)] {
            let earlier = Earlier { started, draining };
            let read: Lifecycle = postcard::from_bytes(&bytes(&earlier)).unwrap();
            assert_eq!(read, Lifecycle { started, draining, ..Lifecycle::default() });
            let upstream = UpstreamDrain { draining: true, source: u64::MAX, against: 300 };
            let full = Lifecycle { started, draining, since: Some(LATER), upstream };
            assert_eq!(postcard::from_bytes::<Lifecycle>(&bytes(&full)), Ok(full));
            assert_eq!(postcard::from_bytes::<Earlier>(&bytes(&full)), Ok(earlier));
        }
        assert!(postcard::from_bytes::<Lifecycle>(&[1]).is_err());
        assert!(postcard::from_bytes::<Lifecycle>(&[]).is_err());
    }

    #[test]
    fn a_later_release_may_append_fields() {
        let full = Lifecycle { started: true, since: Some(NOW), ..Lifecycle::default() };
        let mut longer = bytes(&full);
        longer.extend([7; 9]);
        assert_eq!(postcard::from_bytes::<Lifecycle>(&longer), Ok(full));
    }

    #[test]
    fn a_drain_lasts_from_its_first_reason_to_its_last() {
        let draining = ordered(Lifecycle::default(), true, NOW);
        assert_eq!(draining.since, Some(NOW));
        let both = told(draining, false, LATER);
        assert_eq!((both.since, both.is_draining()), (Some(NOW), true));
        let one = ordered(both, false, LATER);
        assert_eq!((one.since, one.is_draining()), (Some(NOW), true));
        let none = told(one, true, LATER);
        assert_eq!((none.since, none.is_draining()), (None, false));
        assert_eq!(ordered(none, true, LATER).since, Some(LATER));
    }

    #[test]
    fn a_delay_counts_from_the_beginning_of_the_drain() {
        let draining = ordered(Lifecycle::default(), true, NOW);
        assert!(draining.has_drained_for(Duration::ZERO, NOW));
        assert!(!draining.has_drained_for(DELAY, LATER));
        assert_eq!(draining.rest_of(DELAY, LATER), Some(Duration::from_secs(2)));
        assert!(draining.has_drained_for(DELAY, NOW + DELAY));
        assert_eq!(draining.rest_of(DELAY, NOW + DELAY), None);
        assert_eq!(Lifecycle::default().rest_of(DELAY, NOW), None);
        assert!(!Lifecycle::default().has_drained_for(Duration::ZERO, NOW));
        // Whoever ordered it did so by an earlier release, which keeps no time.
        let old = Lifecycle { draining: true, ..Lifecycle::default() };
        assert!(old.has_drained_for(DELAY, NOW));
        assert!(told(old, false, LATER).has_drained_for(DELAY, LATER));
    }

    #[test]
    fn only_answers_in_a_row_change_what_an_upstream_tells() {
        let run = |answers: &str| {
            let mut upstream = UpstreamDrain::default();
            answers.chars().for_each(|answer| upstream.on_answer(answer == '+', 3));
            upstream.draining
        };
        assert!(!run("--") && !run("--+--") && run("---") && run("--+---"));
        assert!(run("---++") && run("---++-++") && !run("---+++"));
    }

    #[test]
    fn what_one_upstream_tells_is_not_what_another_tells() {
        let mut upstream = UpstreamDrain::default().of(7);
        upstream.on_answer(false, 1);
        assert!(upstream.of(7).draining);
        assert!(!upstream.of(8).draining);
    }
}
